"""Tag rewards against cases worked out by hand, and against plain loops over random answers."""

import sys
import time
from itertools import combinations

import numpy as np
import pytest

from recrl.envs.catalog import Catalog
from recrl.rewards import encoder as encoder_module
from recrl.rewards.encoder import encode_tags
from recrl.rewards.engine import RewardEngine

CATALOG = Catalog(tags=("milk", "bread", "eggs", "tea", "wine"))
# milk and bread at right angles, eggs opposite to milk, tea between milk and bread, wine as milk.
ENCODER = np.array([[1, 0], [0, 1], [-1, 0], [0.6, 0.8], [1, 0]], dtype=np.float32)
TAG_REWARDS = ("recall", "novelty", "diversity", "alignment", "length", "validity", "duplicates")
EPISODE = {"target": [0, 3], "lookback": [0, 1], "history": [0, 1], "history_weight": [3.0, 4.0]}


def score(name, text, slots=3, **episode):
    engine = RewardEngine(
        [name], resources={"catalog": CATALOG, "encoder": ENCODER, "slots": slots}, columns=list(EPISODE)
    )
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


def random_batch(n, tags, group_size=8, seed=0):
    """Answers with invalid and repeated lines, and columns that repeat within a group as TRL's do."""
    rng = np.random.default_rng(seed)
    catalog = Catalog(tags=[f"tag {i}" for i in range(tags)])
    vectors = rng.normal(size=(tags, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    completions = [
        "\n".join(f"tag {i}" for i in rng.integers(0, tags + 5, rng.integers(0, 13))) for _ in range(n)
    ]
    columns = {"target": [], "lookback": [], "history": [], "history_weight": []}
    for _ in range(n // group_size):
        for name, size in (("target", 40), ("lookback", 80), ("history", 120)):
            columns[name] += [rng.permutation(tags)[: min(size, tags)].tolist()] * group_size
        columns["history_weight"] += [rng.integers(1, 30, len(columns["history"][-1])).tolist()] * group_size
    return catalog, vectors, completions, columns


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
    resources = {"catalog": catalog, "encoder": vectors, "slots": 10}
    engine = RewardEngine(TAG_REWARDS, resources=resources, columns=list(columns))
    spent = []
    for _ in range(5):
        before = time.process_time()  # not wall-clock: other processes may be busy
        engine.score(completions, completions, columns, group_size=8)
        spent.append(time.process_time() - before)
    # About 20 ms for the seven rewards and 10 ms to parse; a loop over pairs of tags exceeds the bound.
    assert min(spent) < 0.1


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
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("embeddings")


def test_the_encoder_knows_which_tags_are_alike(cache, monkeypatch):
    pytest.importorskip("sentence_transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    vectors = encode_tags(("cheese", "cheeses", "motor oil"), cache_dir=cache)
    assert (vectors.shape, vectors.dtype) == ((3, 384), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.8 > 0.4 > vectors[0] @ vectors[2]

    # The second time, the file is read and no model is loaded.
    monkeypatch.setattr(encoder_module, "minilm_folder", None)
    np.testing.assert_array_equal(encode_tags(("cheese", "cheeses", "motor oil"), cache_dir=cache), vectors)
    assert [path.suffix for path in cache.iterdir()] == [".npy"]


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
