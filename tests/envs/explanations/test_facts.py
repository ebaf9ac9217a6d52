"""What a text claims and what is true, worked by hand on a few goods, and for every author on the panel."""

import numpy as np
import pytest

from recrl.envs.agents.style import AUDIENCES, DEVICES, OCCASIONS, TONES, Guideline
from recrl.envs.catalog import Catalog
from recrl.envs.explanations.companions import companions
from recrl.envs.explanations.facts import (
    CUES,
    KINDS,
    Claim,
    claims,
    holds,
    in_words,
    named_goods,
    of_row,
    told,
)
from recrl.envs.explanations.households import OTHERS, Households
from recrl.envs.explanations.teaching import write
from recrl.rewards.shipped.explanations import AttributeLeak

CATALOG = Catalog(
    ("milk", "cheese", "cheeses", "bread", "easter", "summer toys"), equivalents=[("cheese", "cheeses")]
)
ROW = {
    "history": [0, 3, 1],
    "history_weight": [6.0, 3.0, 1.0],
    "history_last": [2, 1, 9],
    "calendar": "October, autumn; ahead: Halloween, Thanksgiving",
}
FACTS = of_row(ROW, item=4, shopped=10, companions=[3], campaign=True)


def test_facts_of_a_row():
    assert tuple(sorted(FACTS)) == tuple(sorted(KINDS))
    assert FACTS["weekly"] == [0]  # 6 of 10 weeks
    assert FACTS["often"] == [0, 3]
    assert FACTS["last week"] == [3]
    assert FACTS["bought"] == [0, 3, 1]
    assert (FACTS["companion"], FACTS["campaign"]) == ([3], [4])
    assert (FACTS["season"], FACTS["holiday"]) == (["autumn"], ["Halloween", "Thanksgiving"])


def test_what_is_not_known_is_no_fact():
    nothing = of_row({**ROW, "calendar": ""}, item=4, shopped=10, companions=[], campaign=False)
    assert [nothing[kind] for kind in ("companion", "season", "holiday", "campaign")] == [[], [], [], []]
    assert told("May, spring; ahead: no holiday") == ("spring", [])


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("You bought milk.", {("bought", 0): True}),
        ("You buy milk and bread most weeks.", {("weekly", 0): True, ("weekly", 3): False}),
        ("You often buy bread", {("often", 3): True}),
        ("Bought last week: milk, bread.", {("last week", 0): False, ("last week", 3): True}),
        ("You bought cheeses.", {("bought", 1): True}),  # an equivalent, by the first of its class
        ("Bread goes with it. Milk is white", {("companion", 3): True}),
        ("Milk pairs with it", {("companion", 0): False}),
        ("Lovely on autumn days, or in summer", {("season", "summer"): False, ("season", "autumn"): True}),
        ("Before Thanksgiving", {("holiday", "Thanksgiving"): True}),
        ("After Easter", {("holiday", "Easter"): False}),  # though goods are called so
        ("Now on offer", {("campaign", 4): True}),
        ("You bought summer toys", {("bought", 5): False}),  # a name holds no season
        ("You keep buying bread", {("bought", 3): True}),
        ("You bought easter", {("holiday", "Easter"): False}),
        ("Try milk tonight!", {}),
        ("", {}),
    ],
)
def test_claims_and_their_truth(text, made):
    found = {
        (claim.kind, claim.subject): holds(claim, FACTS, CATALOG) for claim in claims(text, CATALOG, [4])
    }
    assert found == made


def test_a_claim_counts_once_and_reads_as_words():
    made = claims("You often buy milk. Your regular milk, often.", CATALOG)
    assert made == [Claim("often", 0)]
    assert in_words(made[0], CATALOG) == "milk: often"
    assert named_goods([*made, Claim("companion", 3), Claim("season", "autumn")]) == {0}


@pytest.fixture(scope="module")
def rows(explained):
    return explained.rows("train", 60)


def test_every_author_tells_the_truth_about_goods_and_leaks_nothing(explained, rows):
    rng, leak = np.random.default_rng(0), AttributeLeak()
    texts = []
    for tone in TONES:
        for device in DEVICES:
            for i, row in enumerate(rows):
                style = Guideline(
                    tone=tone,
                    audience=AUDIENCES[i % len(AUDIENCES)],
                    occasion=OCCASIONS[i % len(OCCASIONS)],
                    device=device,
                )
                text = write(row, explained.catalog, rng, style)
                made = explained.grounds(row, text)
                assert made, text
                assert all(true for _, true in made), (text, made)
                assert explained.catalog.tags[row["item"][0]] in text
                texts.append(text)
    owned = [row["protected"] for _ in range(len(TONES) * len(DEVICES)) for row in rows]
    assert leak(texts, owned) == [0.0] * len(texts)
    assert any("coupon" in text or "on offer" in text for text in texts) or not any(
        row["campaign"] for row in rows
    )


def test_every_cue_can_be_found():
    for name, phrases in CUES.items():
        for phrase in phrases:
            made = claims(f"You bought milk {phrase}.", CATALOG, [4])
            assert any(name in (claim.kind, claim.subject) for claim in made), (name, phrase)


def test_companions_are_bought_together_more_than_by_chance(panel_task):
    found = companions(panel_task)
    tags = panel_task.catalog.tags
    assert len(found) == len(tags)
    assert all(item not in goods for item, goods in enumerate(found))
    named = {tags[item]: [tags[tag] for tag in goods] for item, goods in enumerate(found)}
    assert {"dry noodles/pasta", "hot dogs"} <= named.keys()
    assert "dry noodles/pasta" in named["pasta sauce"]


def test_a_household_is_told_apart_from_others_by_what_it_bought(panel_task):
    households = Households(panel_task)
    user, origin = 7, 41
    others = households.others(user, origin)
    assert len(set(others)) == OTHERS
    assert user not in others
    assert (others == Households(panel_task).others(user, origin)).all()
    bought = panel_task.panel.tag[(panel_task.panel.user == user) & (panel_task.panel.week < origin)]
    same = panel_task.catalog.equivalence_class
    unknown = sorted({same[tag] for tag in range(panel_task.panel.n_tags)} - {same[tag] for tag in bought})
    assert households.specificity(user, origin, []) == 0.5  # nothing is said: all fit alike
    assert households.specificity(user, origin, bought.tolist()) > 0.9
    assert households.specificity(user, origin, unknown) < 0.1
    own, theirs = households.overlaps(user, origin, [int(bought[0])])
    weeks = np.log1p(panel_task.panel.counts(0, origin).toarray())
    rarity = households.rarity
    merged = np.zeros_like(weeks)
    for tag, first in enumerate(same):
        merged[:, first] += np.expm1(weeks[:, tag])
    vectors = np.log1p(merged) * rarity
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    tag = same[int(bought[0])]
    assert own == pytest.approx(vectors[user, tag] * rarity[tag], rel=1e-5)
    assert theirs == pytest.approx(vectors[others, tag] * rarity[tag], rel=1e-5)
