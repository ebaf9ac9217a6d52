"""Tag rewards against cases worked out by hand, and against plain loops over random answers."""

import random
import sys
import time
from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import dcg_score, ndcg_score

from recrl.envs.catalog import Catalog
from recrl.rewards.registry import resolve
from recrl.rewards.scoring.engine import RewardEngine
from recrl.rewards.shipped import encoder as encoder_module
from recrl.rewards.shipped.encoder import encode_tags
from recrl.rewards.shipped.holidays import CalendarFit
from recrl.rewards.spec import RewardSpec

CATALOG = Catalog(tags=("milk", "bread", "eggs", "tea", "wine"))
# milk and bread at right angles, eggs opposite to milk, tea between milk and bread, wine as milk.
ENCODER = np.array([[1, 0], [0, 1], [-1, 0], [0.6, 0.8], [1, 0]], dtype=np.float32)
TAG_REWARDS = (
    "recall",
    "novel_recall",
    "ndcg",
    "hit",
    "novelty",
    "diversity",
    "alignment",
    "calendar_fit",
    "length",
    "tag_length",
    "validity",
    "duplicates",
)
HALLOWEEN, NOTHING = "October, autumn; ahead: Halloween", "July, summer; ahead: no holiday"
EPISODE = {
    "target": [0, 3],
    "lookback": [0, 1],
    "history": [0, 1],
    "history_weight": [3.0, 4.0],
    "calendar": HALLOWEEN,
}


def toward_bread(texts):
    """Puts every holiday where bread is: bread, tea, milk and wine, eggs follow in this order."""
    return np.array([[0.1, 0.99]] * len(texts), dtype=np.float32)


def score(name, text, slots=3, params=None, **episode):
    resources = {
        "catalog": CATALOG,
        "encoder": ENCODER,
        "slots": slots,
        "calendar_table": CalendarFit(ENCODER, toward_bread),
    }
    spec = RewardSpec(name=name, params=params or {})
    engine = RewardEngine([spec], resources=resources, columns=list(EPISODE))
    columns = {column: [value] for column, value in {**EPISODE, **episode}.items()}
    return float(engine.score(["?"], [text], columns, group_size=1)[0, 0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("milk\ntea\neggs", 1.0),
        ("eggs\nmilk", 0.5),
        ("bread\neggs\nwine", 0.0),
        ("milk\nmilk\nbread\ntea", 0.5),  # the repeat uses a slot up: tea is the fourth
        ("milk\ngold\nbread\ntea", 0.5),  # and so does a string that is no tag
        ("", 0.0),
    ],
)
def test_recall_is_the_share_of_the_target_among_the_first_k_slots(text, expected):
    assert score("recall", text) == expected


def test_recall_is_missing_without_a_target():
    assert np.isnan(score("recall", "milk", target=[]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("milk\nbread", 0.0),
        ("milk\ntea", 0.5),
        ("tea\ntea\neggs", 1.0),  # distinct tags count, not slots
        ("tea\ngold", 1.0),
        ("milk\nbread\nmilk\ntea", 0.0),  # beyond the list that was asked for
        ("gold", 0.0),
        ("", 0.0),  # showing nothing does not pass a novelty floor
    ],
)
def test_novelty_is_the_share_of_shown_tags_outside_the_look_back(text, expected):
    assert score("novelty", text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("milk\nbread", 1.0),
        ("milk\neggs", 2.0),
        ("milk\nwine", 0.0),
        ("milk\nbread\neggs", (1 + 2 + 1) / 3),
        ("milk\ntea", 1 - 0.6),
        ("milk\nmilk", 0.0),  # fewer than two distinct tags
        ("milk\ngold\nbread\neggs", 1.0),  # eggs is the fourth slot
        ("", 0.0),
    ],
)
def test_diversity_is_the_mean_pairwise_cosine_distance(text, expected):
    assert score("diversity", text) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # the household is (3, 4) / 5
        ("milk", 0.6),
        ("bread", 0.8),
        ("tea", 1.0),
        ("eggs", -0.6),
        ("milk\nbread", 1.4 / np.sqrt(2)),
        ("milk\neggs", 0.0),  # they cancel out: no direction
        ("", 0.0),
    ],
)
def test_alignment_is_the_cosine_to_the_weighted_history(text, expected):
    assert score("alignment", text) == pytest.approx(expected, abs=1e-6)


def test_alignment_of_households_that_share_only_tags_or_only_weights():
    engine = RewardEngine(
        ["alignment"],
        resources={"catalog": CATALOG, "encoder": ENCODER, "slots": 3},
        columns=["history", "history_weight"],
    )
    columns = {
        "history": [[0], [1], [0, 1], [0, 1]],
        "history_weight": [[1.0], [1.0], [1.0, 0.0], [0.0, 1.0]],
    }
    found = engine.score(["?"] * 4, ["milk"] * 4, columns, group_size=1)[:, 0]
    assert found.tolist() == pytest.approx([1, 0, 1, 0], abs=1e-6)


def test_alignment_is_missing_without_a_history():
    assert np.isnan(score("alignment", "milk", history=[], history_weight=[]))


@pytest.mark.parametrize(
    ("lines", "expected"), [(4, 1.0), (3, 0.75), (5, 0.75), (1, 0.25), (0, 0.0), (8, 0.0), (20, 0.0)]
)
def test_length_falls_with_the_distance_from_the_length_asked_for(lines, expected):
    assert score("length", "\n".join(["milk"] * lines), slots=4) == expected


@pytest.mark.parametrize(
    ("text", "valid", "repeated"),
    [
        ("milk\nbread", 1.0, 0.0),
        ("milk\ngold\nmilk\nmilk", 0.75, 0.5),
        ("gold\ngold", 0.0, 0.0),  # a repeated non-tag is invalid, not a duplicate
        ("", 0.0, 0.0),
    ],
)
def test_validity_and_duplicates_count_all_slots(text, valid, repeated):
    assert (score("validity", text), score("duplicates", text)) == (valid, repeated)


def test_duplicates_are_better_lower():
    assert {name: resolve(name).direction for name in ("duplicates", "validity")} == {
        "duplicates": "lower",
        "validity": "higher",
    }


@pytest.mark.parametrize("name", ["ndcg", "novel_recall", "calendar_fit", "tag_length"])
def test_credit_of_the_tags_adds_up_to_the_score_of_the_answer(name):
    """The share of each tag, worked out from answers that end behind it."""
    table = CalendarFit(ENCODER, toward_bread)
    resources = {"catalog": CATALOG, "slots": 3, "calendar_table": table}
    params = {"full": [1, 1], "half": [1, 2]} if name == "tag_length" else {}
    engine = RewardEngine([RewardSpec(name=name, params=params)], resources=resources, columns=list(EPISODE))
    columns = {column: [value] for column, value in EPISODE.items()}
    lines = ["tea", "gold", "bread"]
    running = engine.score_prefixes(["?"], ["\n".join(lines)], columns, lengths=5)[0, :, 0]
    alone = [score(name, "\n".join(lines[:p]), params=params) for p in range(4)]
    if name in ("calendar_fit", "tag_length"):  # means: the first p tags count for p / 3
        alone = [value * p / 3 for p, value in enumerate(alone)]
    np.testing.assert_allclose(running, [*alone, alone[-1]], atol=1e-6)
    assert running[0] == 0
    assert running[1] > 0


def random_batch(n, tags, group_size=8, seed=0):
    """Answers with invalid and repeated lines, and columns that repeat within a group as TRL's do."""
    rng = np.random.default_rng(seed)
    catalog = Catalog(tags=[f"tag {i}" for i in range(tags)])
    vectors = rng.normal(size=(tags, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    completions = [
        "\n".join(f"tag {i}" for i in rng.integers(0, tags + 5, rng.integers(0, 13))) for _ in range(n)
    ]
    columns = {"target": [], "lookback": [], "history": [], "history_weight": [], "calendar": []}
    for group in range(n // group_size):
        columns["calendar"] += [(HALLOWEEN, NOTHING)[group % 2]] * group_size
        for name, size in (("target", 40), ("lookback", 80), ("history", 120)):
            columns[name] += [rng.permutation(tags)[: min(size, tags)].tolist()] * group_size
        columns["history_weight"] += [rng.integers(1, 30, len(columns["history"][-1])).tolist()] * group_size
    return catalog, vectors, completions, columns


# --- ranking, calendar, words ---


def ndcg_by_hand(text, target, slots):
    """A slot that names a wanted tag for the first time is relevant; an ideal list has them all in front."""
    seen, relevant = set(), []
    for line in text.splitlines()[:slots]:
        tag = CATALOG.tags.index(line) if line in CATALOG.tags else None
        relevant.append(float(tag in target and tag not in seen))
        seen.add(tag)
    relevant += [0.0] * (slots - len(relevant))
    ideal = [1.0] * min(slots, len(target)) + [0.0] * max(0, slots - len(target))
    # With positions as scores, scikit-learn's DCG is that of the list as it stands.
    order = np.arange(slots, 0, -1)[None]
    return dcg_score([relevant], order) / dcg_score([ideal], order)


@pytest.mark.parametrize("slots", [2, 3, 5])
@pytest.mark.parametrize("target", [[0], [0, 3], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize(
    "text", ["milk\ntea\neggs", "gold\nmilk\ntea", "milk\nmilk\ntea", "eggs\nwine\nbread\ntea\nmilk", "gold"]
)
def test_ndcg_agrees_with_scikit_learn(text, target, slots):
    assert score("ndcg", text, slots=slots, target=target) == pytest.approx(ndcg_by_hand(text, target, slots))


@pytest.mark.parametrize("slots", [1, 5, 10, 40])
def test_ndcg_of_random_answers_is_that_of_a_ranked_catalogue(slots):
    catalog, _, completions, columns = random_batch(n=200, tags=60)
    engine = RewardEngine(["ndcg"], resources={"catalog": catalog, "slots": slots}, columns=["target"])
    scores = engine.score(completions, completions, {"target": columns["target"]}, group_size=8)[:, 0]
    for row, text in enumerate(completions):
        # A slot that shows nothing new is a place of the ranking that is not relevant, behind the catalogue.
        relevant, ranked = np.zeros(60 + slots), np.full(60 + slots, -1000.0) - np.arange(60 + slots)
        relevant[columns["target"][row]] = 1
        answered = catalog.parse(text).slots[:slots]
        for slot in range(slots):
            new = slot < len(answered) and answered[slot] >= 0 and answered[slot] not in answered[:slot]
            ranked[answered[slot] if new else 60 + slot] = -slot
        assert scores[row] == pytest.approx(ndcg_score([relevant], [ranked], k=slots), abs=1e-6)


def test_ndcg_is_missing_without_a_target_and_nothing_for_an_empty_answer():
    assert np.isnan(score("ndcg", "milk", target=[]))
    assert score("ndcg", "") == 0


@pytest.mark.parametrize(("text", "expected"), [("milk\neggs", 1), ("eggs\nwine\nbread\ntea", 0), ("", 0)])
def test_hit_is_whether_any_shown_tag_is_wanted(text, expected):
    assert score("hit", text) == expected
    assert score("hit", text, target=[0, 3, 5, 6, 7]) == expected  # one of many is enough
    assert np.isnan(score("hit", text, target=[]))


@pytest.mark.parametrize(
    ("text", "target", "lookback", "expected"),
    [
        ("milk\ntea", [0, 3], [0, 1], 1.0),  # only tea is wanted and new
        ("milk\neggs", [0, 3], [0, 1], 0.0),
        ("tea\neggs", [0, 2, 3, 4], [0], 2 / 3),
        ("milk", [0], [0], np.nan),  # nothing new was bought
    ],
)
def test_novel_recall_is_recall_of_what_was_not_bought_lately(text, target, lookback, expected):
    found = score("novel_recall", text, target=target, lookback=lookback)
    assert found == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("text", "full", "half", "expected"),
    [
        ("soft drinks\nmilk", (2, 2), (1, 3), 0.75),
        ("a b c d e f\nmilk", (6, 11), (4, 13), 0.5),
        ("gold\nsoft drinks", (2, 2), (1, 3), 1.0),  # what is no tag has no name
        ("gold\ngold\ngold\nmilk\nsoft drinks", (2, 2), (1, 3), 0.0),  # beyond the list that was asked for
        ("", (1, 2), (1, 3), 0.0),
    ],
)
def test_tag_length_is_the_mean_band_of_the_shown_names(text, full, half, expected):
    tags = Catalog(tags=("soft drinks", "milk", "a b c d e f"))
    spec = RewardSpec(name="tag_length", params={"full": full, "half": half})
    engine = RewardEngine([spec], resources={"catalog": tags, "slots": 3}, columns=[])
    assert engine.score(["?"], [text], {}, 1)[0, 0] == pytest.approx(expected)


def test_calendar_fit_is_the_mean_percentile_by_likeness_to_the_holidays():
    """Percentiles counted one by one; equal tags share theirs."""
    asked = []

    def encode(texts):
        asked.append(list(texts))
        return np.array([[1.0, 0.0]], dtype=np.float32)

    table = CalendarFit(ENCODER, encode)
    likeness = ENCODER @ np.array([1.0, 0.0])
    percentile = [(np.sum(likeness < x) + (np.sum(likeness == x) - 1) / 2) / 4 for x in likeness]
    engine = RewardEngine(
        ["calendar_fit"],
        resources={"catalog": CATALOG, "slots": 3, "calendar_table": table},
        columns=["calendar"],
    )
    texts = ["milk\ntea", "eggs", "gold", "milk"]
    columns = {"calendar": ["October, autumn; ahead: Halloween"] * 3 + ["March, spring; ahead: no holiday"]}
    found = engine.score(["?"] * 4, texts, columns, 1)[:, 0]
    assert found[:3].tolist() == pytest.approx([(percentile[0] + percentile[3]) / 2, percentile[2], 0])
    assert np.isnan(found[3])
    assert asked == [["Halloween"]]  # once, whatever the number of samples
    with pytest.raises(ValueError, match="does not say what is ahead"):
        table.percentiles("October")


def test_the_calendar_line_is_the_one_that_episodes_have(panel_task):
    lines = panel_task.table["calendar"].unique().to_list()
    table = CalendarFit(ENCODER, lambda texts: np.array([[0.0, 1.0]], dtype=np.float32))
    for line in lines:
        assert (table.percentiles(line) is None) == ("no holiday" in line)


def test_embedding_rewards_agree_with_plain_loops():
    catalog, vectors, completions, columns = random_batch(n=64, tags=60)
    resources = {"catalog": catalog, "encoder": vectors, "slots": 10}
    engine = RewardEngine(["diversity", "alignment"], resources=resources, columns=list(columns))
    scores = engine.score(completions, completions, columns, group_size=8)
    for row, text in enumerate(completions):
        shown = list(dict.fromkeys(tag for tag in catalog.parse(text).slots[:10] if tag >= 0))
        distances = [1 - vectors[i] @ vectors[j] for i, j in combinations(shown, 2)]
        assert scores[row, 0] == pytest.approx(np.mean(distances) if distances else 0.0, abs=1e-5)
        weights, history = columns["history_weight"][row], columns["history"][row]
        household = sum(w * vectors[i] for w, i in zip(weights, history, strict=True))
        mean = sum(vectors[i] for i in shown) if shown else np.zeros(384)
        length = np.linalg.norm(mean) * np.linalg.norm(household)
        assert scores[row, 1] == pytest.approx(mean @ household / length if length else 0.0, abs=1e-5)


def test_a_batch_of_a_thousand_takes_milliseconds():
    catalog, vectors, completions, columns = random_batch(n=1000, tags=1350)
    resources = {
        "catalog": catalog,
        "encoder": vectors,
        "slots": 10,
        "calendar_table": CalendarFit(vectors, lambda texts: vectors[: len(texts)]),
    }
    engine = RewardEngine(TAG_REWARDS, resources=resources, columns=list(columns))
    spent = []
    for _ in range(5):
        before = time.process_time()  # not wall-clock: other processes may be busy
        engine.score(completions, completions, columns, group_size=8)
        spent.append(time.process_time() - before)
    # About 40 ms for the twelve rewards, 10 ms to parse; a loop over pairs of tags exceeds the bound.
    assert min(spent) < 0.15


@pytest.mark.parametrize(
    ("vectors", "message"),
    [(2 * ENCODER, "unit-norm rows"), (ENCODER[:3], "tag id 4 has no row in the encoder's 3")],
)
def test_embeddings_of_another_kind_are_refused(vectors, message):
    engine = RewardEngine(
        ["diversity"], resources={"catalog": CATALOG, "encoder": vectors, "slots": 3}, columns=[]
    )
    with pytest.raises(RuntimeError, match=message):
        engine.score(["?"], ["milk\nwine"], {}, group_size=1)


# --- the sentence encoder ---


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory):
    return tmp_path_factory.mktemp("embeddings")


def test_the_encoder_knows_which_tags_are_alike(embeddings, monkeypatch):
    pytest.importorskip("sentence_transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    vectors = encode_tags(("cheese", "cheeses", "motor oil"), cache_dir=embeddings)
    assert (vectors.shape, vectors.dtype) == ((3, 384), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.8 > 0.4 > vectors[0] @ vectors[2]

    # The second time, the file is read and no model is loaded.
    monkeypatch.setattr(encoder_module, "minilm_folder", None)
    np.testing.assert_array_equal(
        encode_tags(("cheese", "cheeses", "motor oil"), cache_dir=embeddings), vectors
    )
    assert [path.suffix for path in embeddings.iterdir()] == [".npz"]


def test_damaged_embeddings_are_never_read(tmp_path):
    """Flipped bits, cuts, and files of others: the tags are embedded again."""
    draw, path = random.Random(0), tmp_path / "some.npz"
    vectors = np.linspace(0, 1, 3 * 384, dtype=np.float32).reshape(3, 384)
    encoder_module._save_whole(path, "some", vectors)
    assert [path.name for path in tmp_path.iterdir()] == ["some.npz"]
    whole, found = path.read_bytes(), 0
    for trial in range(250):
        spoiled = bytearray(whole)
        spoiled[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(spoiled if trial < 200 else whole[: draw.randrange(len(whole))])
        kept = encoder_module._kept(path, "some", 3)
        found += kept is None
        assert kept is None or np.array_equal(kept, vectors)  # a bit that says nothing, such as a date's
    assert found > 200
    path.write_bytes(whole)
    assert encoder_module._kept(path, "another", 3) is None  # copied under another name
    assert encoder_module._kept(path, "some", 4) is None
    np.save(tmp_path / "old.npy", vectors)
    assert encoder_module._kept(tmp_path / "old.npy", "some", 3) is None
    assert encoder_module._kept(tmp_path / "none.npz", "some", 3) is None


def test_damaged_embeddings_are_written_again(embeddings, caplog):
    pytest.importorskip("sentence_transformers")
    tags = ("cheese", "cheeses", "motor oil")
    vectors = encode_tags(tags, cache_dir=embeddings)
    (path,) = embeddings.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-2000])
    np.testing.assert_allclose(encode_tags(tags, cache_dir=embeddings), vectors, atol=1e-6)
    assert "is written again: " in caplog.text
    assert len(path.read_bytes()) == len(whole)


def test_the_encoder_knows_what_a_holiday_is_about(tmp_path, monkeypatch):
    pytest.importorskip("sentence_transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tags = ("motor oil", "turkey", "roses", "tomatoes")
    table = CalendarFit(
        encode_tags(tags, cache_dir=tmp_path), lambda texts: encode_tags(texts, cache_dir=tmp_path)
    )
    for line, nearest in (("Thanksgiving", "turkey"), ("Valentine's Day", "roses")):
        assert tags[np.argmax(table.percentiles(f"any; ahead: {line}"))] == nearest


def test_the_cache_tells_tags_and_models_apart():
    assert (
        len(
            {
                encoder_module._content_hash(*key)
                for key in ((["a", "b"], "m"), (["ab"], "m"), (["a", "b"], "n"))
            }
        )
        == 3
    )


def test_a_missing_encoder_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'recrl\[demo\]'"):
        encode_tags(["milk"])
    monkeypatch.setattr(encoder_module, "MINILM_PACKAGE", "not_installed_minilm")
    with pytest.raises(ImportError, match=r"pip install 'recrl\[demo\]'"):
        encoder_module.minilm_folder()
