"""Rewards of explanations against independent computations and examples worked by hand."""

import math
import random
from collections import deque

import pytest
from rouge_score import rouge_scorer

from recrl.envs.catalog import Catalog
from recrl.envs.data import completejourney
from recrl.envs.explanations.facts import MARKERS
from recrl.envs.words import words
from recrl.rewards import RewardEngine, RewardSpec
from recrl.rewards.registry import resolve
from recrl.rewards.shipped.claims import claim_count, claim_precision, item_named, specificity
from recrl.rewards.shipped.explanations import (
    AttributeLeak,
    BannedWords,
    IdfDiversity,
    ItemDiversity,
    distinct_n,
    sibling_diversity,
    text_length,
)
from recrl.rewards.shipped.tags import tag_length

VOCABULARY = (
    *("fresh", "ripe", "milk", "bread", "you", "like", "often", "bought", "salad", "dinner"),
    *("tonight", "cheap", "organic", "the", "a", "for", "your"),
)


def texts(n, seed=0, longest=12):
    draw = random.Random(seed)
    return [" ".join(draw.choices(VOCABULARY, k=draw.randint(1, longest))) for _ in range(n)]


# --- idf_diversity ---


def test_idf_diversity_is_the_papers_formula_over_the_last_explanations():
    """Against the formula written out over the last 160 texts."""
    reward, memory, seen = IdfDiversity(), deque(maxlen=160), texts(400)
    for start in range(0, 400, 16):
        batch = seen[start : start + 16]
        found = reward(batch)
        if len(memory) < 160:
            assert found == [None] * 16
        else:
            for text, score in zip(batch, found, strict=True):
                idf = [math.log(160 / (sum(w in m for m in memory) + 1)) for w in text.split()]
                assert score == pytest.approx(sum(idf) / len(idf), abs=1e-12)
        reward.update(batch)
        memory.extend(set(text.split()) for text in batch)


def test_idf_diversity_by_hand():
    reward = IdfDiversity(memory=2)
    reward.update(["milk bread", "milk tea"])
    # df: milk 2, tea 1, new 0, with |M| = 2.
    expected = (math.log(2 / 3) + math.log(2 / 2) + math.log(2 / 1)) / 3
    assert reward(["milk tea new"]) == [pytest.approx(expected)]
    assert reward([""]) == [pytest.approx(math.log(2 / 3))]
    assert min(reward(["milk", "tea", ""])) == pytest.approx(reward([""])[0])


def test_its_warm_up_can_be_shorter_and_scores_do_not_depend_on_the_order():
    reward = IdfDiversity(memory=8, warmup=2)
    assert reward(["milk"]) == [None]
    reward.update(["milk", "tea"])
    assert reward(["milk", "tea", "milk"]) == reward(["milk", "tea", "milk"])
    assert reward(["milk", "tea"]) == [*reward(["milk"]), *reward(["tea"])]


def test_its_memory_survives_a_resume_but_not_another_size():
    first, second = IdfDiversity(memory=4), IdfDiversity(memory=4)
    first.update(texts(7))
    second.load_state_dict(first.state_dict())
    for reward in (first, second):
        reward.update(texts(2, seed=1))
    assert first(texts(5, seed=2)) == second(texts(5, seed=2))
    with pytest.raises(ValueError, match="memory=4, this run 5; set"):
        IdfDiversity(memory=5).load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match="warmup=9 must lie within 1 and memory=4"):
        IdfDiversity(memory=4, warmup=9)


def test_two_ranks_remember_what_one_process_does():
    def engine():
        return RewardEngine(["idf_diversity"], resources={}, columns=[])

    batches = [texts(32, seed=seed) for seed in range(7)]
    alone, ranks = engine(), [engine(), engine()]
    for batch in batches:
        prompts = ["p"] * 32
        whole = alone.score(prompts, batch, {}, 4)[:, 0].tolist()
        halves = [batch[:16], batch[16:]]
        shared = [{"completions": half} for half in halves]
        parts = [one.score(["p"] * 16, half, {}, 4) for one, half in zip(ranks, halves, strict=True)]
        assert str(whole) == str([score for part in parts for score in part[:, 0].tolist()])
        alone.learn(prompts, batch, {})
        for one, half in zip(ranks, halves, strict=True):
            one.learn(["p"] * 16, half, {}, gather=lambda _, shared=shared: shared)
    assert not math.isnan(whole[0])
    assert ranks[0].state_dict() == ranks[1].state_dict() == alone.state_dict()


@pytest.mark.parametrize(("memory", "warmup"), [(160, 160), (160, 16), (40, 1)])
def test_its_scores_fit_the_range_that_it_tells_to_declare(memory, warmup):
    declared = (math.log(warmup / (warmup + 1)), math.log(memory))
    spec = RewardSpec(name="idf_diversity", params={"memory": memory, "warmup": warmup}, range=declared)
    built, worst, lowest = RewardEngine([spec], resources={}, columns=[]), ["milk", "", "new"], math.inf
    for _ in range(memory + 2):
        found = built.score(["p"] * 3, worst, {}, 3)[:, 0].tolist()
        lowest = min([lowest, *(score for score in found if not math.isnan(score))])
        built.learn(["p"], ["milk"], {})
    assert lowest == pytest.approx(declared[0], abs=1e-6)
    assert found[2] == pytest.approx(declared[1], abs=1e-6)


# --- sibling_diversity ---


def test_sibling_diversity_is_one_minus_rouge_l():
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    group = texts(8, seed=3)
    found = sibling_diversity(group)
    for i, text in enumerate(group):
        alike = [scorer.score(other, text)["rougeL"].fmeasure for j, other in enumerate(group) if j != i]
        assert found[i] == pytest.approx(1 - sum(alike) / 7, abs=1e-9)


def test_sibling_diversity_by_hand():
    # LCS of "a b c d" and "b d e" is "b d": precision 2/3, recall 2/4, F1 = 4/7.
    assert sibling_diversity(["a b c d", "b d e"]) == [pytest.approx(3 / 7)] * 2
    assert sibling_diversity(["新鲜的牛奶", "新鲜的面包"]) == [pytest.approx(1 - 6 / 10)] * 2
    assert sibling_diversity(["", ""]) == [0, 0]
    assert sibling_diversity(["", "tea"]) == [1, 1]
    assert sibling_diversity(["tea"]) == [None]


def test_it_sees_the_siblings_of_one_prompt_only():
    built = RewardEngine(["sibling_diversity"], resources={}, columns=[])
    scores = built.score(["p", "p", "q", "q"], ["tea", "tea", "tea", "milk"], {}, 2)
    assert scores[:, 0].tolist() == [0, 0, 1, 1]


# --- distinct_n ---


def test_distinct_n():
    # a b, b a, a b, b c: three of four bigrams are distinct.
    assert distinct_n(["a b a b c"]) == [0.75]
    assert distinct_n(["a b a b c"], n=1) == [0.6]
    assert distinct_n(["a b a b c"], max_words=3) == [1.0]
    assert distinct_n(["a", ""]) == [0, 0]


# --- claim_precision ---

CATALOG = Catalog(
    tags=("milk", "cheese", "cheeses", "ice cream", "cream", "frozen pizza"),
    aliases={"frzn pizza": "frozen pizza"},
    equivalents=[("cheese", "cheeses")],
)


@pytest.mark.parametrize(
    ("text", "history", "score"),
    [
        ("You often bought milk and cream.", [0], 1 / 2),
        ("You bought cheese", [2], 1),  # an equivalent tag
        ("You usually buy ice cream", [4], 0),  # ice cream is not cream
        ("You bought frzn pizza. You bought FROZEN  pizza", [5], 1),  # said twice, one fact
        ("Try our milk and cream tonight.", [], None),  # nothing is stated about the household
        ("Milk goes well with it! You bought cream.", [0, 4], 1),
        ("Ｙｏｕ bought mi\u200blk", [1], 0),
        ("You have often bought cream.", [0], 0),
        ("Last week: 2.5 l of milk and cream", [0], 1 / 2),
        ("Buy cheese, often served with cream", [], None),  # advice
        ("You get 10% off milk. You had better try cream, if you like cheese", [], None),
        ("You bought frzn pizza.", [5], 1),  # by an alias alone
        ("You bought cheeses.", [1], 1),  # an equivalent of what was bought, stated and not
        ("The milk's here: you bought cream… Try ice cream; cheese is new", [4], 1 / 2),
        ("", [0], None),
    ],
)
def test_claim_precision(text, history, score):
    assert claim_precision([text], [history], CATALOG) == [score]


@pytest.mark.parametrize("marker", MARKERS)
def test_each_marker_makes_a_sentence_a_claim(marker):
    assert claim_precision([f"So {marker} milk. Cream is new."], [[0]], CATALOG) == [1]


def test_what_is_recommended_is_no_claim_about_the_household():
    text = "Since you often bought milk, try our cream tonight."
    assert claim_precision([text], [[0]], CATALOG) == [0.5]
    assert claim_precision([text, text], [[0], [0]], CATALOG, item=[[4], [3]]) == [1, 0.5]
    assert claim_precision(["You bought cheese"], [[1]], CATALOG, item=[[2]]) == [None]  # its equivalent


@pytest.mark.parametrize("markers", ["you bought", [], ["!!"]])
def test_markers_that_could_never_be_found_are_refused(markers):
    with pytest.raises(ValueError, match="markers"):
        claim_precision(["You bought milk"], [[0]], CATALOG, markers=markers)


def test_other_languages_bring_their_own_markers():
    tags = Catalog(tags=("牛奶", "面包"))
    found = claim_precision(["你买过牛奶和面包。"], [[0]], tags, markers=["你买过"])
    assert found == [0.5]


FACTS = {
    "weekly": [0],
    "often": [0, 4],
    "last week": [4],
    "bought": [0, 1, 4],
    "companion": [4],
    "season": ["autumn"],
    "holiday": [],
    "campaign": [],
}


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("You often buy milk and cheese", 1 / 2),  # cheese was bought, but not often
        ("You bought milk last week. Ice cream goes with cream this autumn", 2 / 3),
        ("Before Christmas with a coupon", 0),
        ("Hello", None),
    ],
)
def test_with_facts_how_often_how_lately_and_when_are_claims_too(text, score):
    found = claim_precision([text], [FACTS["bought"]], CATALOG, item=[[3]], facts=[FACTS])
    assert found == [score if score is None else pytest.approx(score)]


def test_claim_count_and_item_named():
    texts = [
        "You bought milk, cream and milk. Try ice cream with frozen pizza",
        "You bought ice cream",
        "Milk and cream!",
        "",
    ]
    assert claim_count(texts, CATALOG, item=[[3]] * 4) == [2, 0, 0, 0]
    assert claim_count(texts, CATALOG) == [2, 1, 0, 0]
    assert claim_count(texts[:1], CATALOG, most=1) == [1]
    assert item_named(texts, [[3], [3], [4], [3]], CATALOG) == [1, 1, 1, 0]
    assert item_named(["Try some cheeses"], [[1]], CATALOG) == [1]  # its equivalent


class Shops:
    """Two households and the rarity of what they buy: the first bought milk, both bought cream."""

    def specificity(self, user, origin, goods):
        assert origin == 30
        return {frozenset(): 0.5, frozenset({4}): 0.5, frozenset({0}): float(user == 0)}[frozenset(goods)]


def test_specificity_asks_about_the_goods_that_a_text_claims():
    texts = ["You bought milk", "You bought milk", "You bought cream", "Milk!", "You often buy ice cream"]
    users = [0, 1, 0, 0, 0]
    assert specificity(texts, users, [30] * 5, CATALOG, Shops(), item=[[3]] * 5) == [1, 0, 0.5, 0.5, 0.5]


# --- item_diversity ---


def test_item_diversity_compares_with_what_others_were_told_of_the_item():
    reward = ItemDiversity(memory=3, warmup=2)
    assert reward(["a b"], [[7]], [0]) == [None]
    reward.update(["a b c d", "x y", "other item"], [[7], [7], [8]], [1, 2, 1])
    # a b c d shares two words with a b p q: 2 * 2 / 8; nothing is shared with x y.
    assert reward(["a b p q"], [[7]], [0]) == [pytest.approx(1 - 0.5 / 2)]
    assert reward(["a b p q", "a b"], [[8], [7]], [0, 1]) == [None, None]  # one other text is too few
    again = ItemDiversity(memory=3, warmup=2)
    again.load_state_dict(reward.state_dict())
    assert again(["a b p q"], [[7]], [0]) == reward(["a b p q"], [[7]], [0])
    for user in (3, 4, 5):
        reward.update(["new words"], [[7]], [user])
    assert reward(["a b c d"], [[7]], [0]) == [1]  # the first texts are forgotten
    with pytest.raises(ValueError, match="memory=3, this run 4; set"):
        ItemDiversity(memory=4).load_state_dict(reward.state_dict())
    with pytest.raises(ValueError, match="warmup=9 must lie within 1 and memory=8"):
        ItemDiversity(warmup=9)


# --- length, banned words, protected attributes ---


def test_text_length_counts_words():
    assert text_length(["one two three four five six", "one two three four", "one", ""]) == [1, 0.5, 0, 0]
    assert text_length(["one"], full=(1, 2), half=(1, 3)) == [1]


@pytest.mark.parametrize(
    ("n", "score"),
    [(3, 0), (4, 0.5), (5, 0.5), (6, 1), (11, 1), (12, 0.5), (13, 0.5), (14, 0)],
)
def test_the_bands_of_the_paper_are_the_default(n, score):
    """RecGPT-V2: 1.0 for 6 to 11 words, 0.5 for 4 to 6 or 11 to 13, else 0; of texts and of tags."""
    text = " ".join(["milk,"] * n)
    assert text_length([text]) == [score]
    answers = [Catalog(tags=(text,)).parse(text)]
    assert tag_length(answers, Catalog(tags=(text,)), slots=1) == [score]


@pytest.mark.parametrize(
    ("bands", "error"),
    [
        ({"full": [11, 6]}, r"full=\[11, 6\] must be the least and the most"),
        ({"full": 6}, "full=6 must be the least and the most"),
        ({"half": [4, 8, 13]}, r"half=\[4, 8, 13\] must be the least and the most"),
        ({"full": [1, 2]}, r"full=\[1, 2\] must lie within half=\[4, 13\]"),
    ],
)
def test_bands_that_cannot_be_are_refused(bands, error):
    with pytest.raises(ValueError, match=error):
        text_length(["one"], **bands)


@pytest.mark.parametrize("bad", [{"n": 0}, {"max_words": 1}, {"max_words": -1}])
def test_n_grams_that_no_text_holds_are_refused(bad):
    with pytest.raises(ValueError, match="must be at least 1 and at most max_words"):
        distinct_n(["a b c"], **bad)


def test_banned_words_are_whole_words_in_any_spelling():
    reward = BannedWords(words=["cheap", "buy now", "最便宜"])
    found = reward(
        [
            "So cheap!",
            "cheaper",
            "ＣＨＥＡＰ",
            "che\u200bap",
            "Buy  NOW",
            "buy it now",
            "全城最便宜！",
            "cheap’s",
            "",
        ]
    )
    assert found == [1, 0, 1, 1, 1, 0, 1, 1, 0]
    with pytest.raises(ValueError, match=r"words=.* must list at least one"):
        BannedWords(words=[])
    with pytest.raises(ValueError, match="words='cheap'"):
        BannedWords(words="cheap")


@pytest.mark.parametrize("unfindable", ["$$", "", " ", False, 50])
def test_a_banned_word_that_could_never_be_found_is_refused(unfindable):
    with pytest.raises(ValueError, match=r"must be a text with a letter or digit; quote or remove it"):
        BannedWords(words=["cheap", unfindable])


def test_banned_words_without_words_is_refused_before_a_run():
    with pytest.raises(ValueError, match=r"'banned_words': params .*do not fit"):
        RewardEngine(["banned_words"], resources={}, columns=[])
    spec = RewardSpec(name="banned_words", params={"words": ["cheap"]})
    built = RewardEngine([spec], resources={}, columns=[])
    assert built.rewards[0].direction == "lower"
    assert built.score(["p"], ["cheap tea"], {}, 1).tolist() == [[1]]


@pytest.mark.parametrize(
    "text",
    [
        "At your age milk is good for the bones",
        "Great for families on a low income",
        "Since you are pregnant, try folate",
        "Popular with diabetic shoppers",
        "Your religion asks for it",
        "As a single mother you have little time",
        "For a household of ４５-54",
        "A diabetic's choice",
        "Your wife's favourite",
    ],
)
def test_a_protected_attribute_is_a_leak(text):
    assert AttributeLeak()([text], protected=[["45-54"]]) == [1]


@pytest.mark.parametrize(
    "text",
    [
        "A cream that cares for your skin",
        "Goes well with a 12 year old whisky",
        "Halal baby food and snacks for kids on a diet",
        "The pears are asian, the corn is white",
        "A single cream for women's vitamins",
        "Sold as a single serving for your race day",
        "Cheddar, two years old, perfectly married flavours",
        "White household vinegar",
    ],
)
def test_speaking_of_goods_is_no_leak(text):
    assert AttributeLeak()([text]) == [0]


def test_a_household_without_a_profile_has_no_values_to_leak():
    assert AttributeLeak()(["Milk for 45-54", "Milk"], protected=[None, []]) == [0, 0]


@pytest.mark.parametrize("values", ["45-54", ["$"], [""], [2]])
def test_values_of_a_profile_that_could_never_be_found_are_refused(values):
    with pytest.raises(ValueError, match="protected"):
        AttributeLeak()(["Milk for 45-54"], protected=[values])


def test_a_leak_is_better_avoided():
    assert resolve("attribute_leak").direction == "lower"


def test_a_value_of_another_household_is_no_leak():
    assert AttributeLeak()(["Milk for 45-54", "Milk"], protected=[["25-34"], ["45-54"]]) == [0, 0]


def test_a_lexicon_of_ones_own(tmp_path):
    path = tmp_path / "words.yaml"
    path.write_text("version: 1\nattributes: {star sign: [aries, taurus]}\n")
    assert AttributeLeak(lexicon=str(path))(["For every Taurus", "at your age"]) == [1, 0]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("", "must hold 'attributes"),
        ("words: {age: [old]}", "must hold 'attributes"),
        ("attributes: [old]", "must hold 'attributes"),
        ("attributes: {age: old}", "must hold 'attributes"),
        ("attributes: {}", "must list at least one"),
        ("attributes: {age: ['--']}", "'--' must be a text with a letter or digit"),
    ],
)
def test_a_lexicon_of_another_form_is_refused(tmp_path, content, error):
    path = tmp_path / "words.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=error) as refused:
        AttributeLeak(lexicon=str(path))
    assert f"lexicon={path}" in str(refused.value)


@pytest.mark.parametrize(
    "form", ["We thought of {} for tonight", "your {}", "as a {}", "for {}", "you are {}"]
)
@pytest.mark.parametrize("track", ["category", "type"])
def test_no_goods_of_the_panel_are_a_leak(track, form):
    names = sorted(set(completejourney.load(track).purchases.select("tag").unique().collect()["tag"]))
    assert len(names) > 200
    leaks = AttributeLeak()([form.format(name) for name in names])
    assert [name for name, leak in zip(names, leaks, strict=True) if leak] == []


def test_words_are_those_of_the_texts():
    assert all(text.split() == words(text) for text in texts(50))
