"""What each setting of a reward promises alone holds together with the others."""

import asyncio
import sys
import threading
import types

import numpy as np
import pytest
import torch

from recrl.envs.catalog import Catalog
from recrl.rewards import RewardEngine, RewardError, RewardSpec, RewardSpecError
from recrl.rewards.scoring import cache
from recrl.rewards.scoring.scores import RANGE_TOLERANCE

CATALOG = Catalog(tags=("milk", "bread", "eggs", "tea"))
TEXTS = ["milk", "milk\nbread\ntea", "tea\ntea\nrum", "milk"]
PROMPTS = ["p"] * 4


@pytest.fixture
def spec(monkeypatch):
    """A config entry of a function of the test, found as a user's is: by a dotted path."""
    module = types.ModuleType("test_combinations_rewards")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def make(function, name="r", **fields):
        setattr(module, name, function)
        return RewardSpec(name=name, use=f"{module.__name__}:{name}", **{"range": (0, 1), **fields})

    return make


def engine(*specs, columns=(), **resources):
    return RewardEngine(specs, resources={"catalog": CATALOG, "slots": 3, **resources}, columns=columns)


def score(built, texts=TEXTS, group=1):
    return built.score(["p"] * len(texts), texts, {}, group)[:, 0].tolist()


# --- a cache ---


def test_a_cache_tells_the_first_tags_of_an_answer_from_the_whole(spec):
    def share(answers):
        return [len(answer.slots) / 10 for answer in answers]

    plain, cached = (engine(spec(share, per="tag", cache=cache)) for cache in (False, True))
    for _ in range(2):
        assert score(cached) == pytest.approx([0.1, 0.3, 0.3, 0.1])
        found = cached.score_prefixes(PROMPTS, TEXTS, {}, 4)
        np.testing.assert_array_equal(found, plain.score_prefixes(PROMPTS, TEXTS, {}, 4))
    assert found[1, :, 0].tolist() == pytest.approx([0, 0.1, 0.2, 0.3])


def test_equal_inputs_of_groups_that_were_asked_for_early_score_the_same(spec):
    """Though both were under way at once, before either had a score."""
    calls = []

    async def judge(completions):
        calls.append(1)
        await asyncio.sleep(0.05 / len(calls))
        return [len(calls) / 10 + i / 100 for i in range(len(completions))]

    built = engine(spec(judge, cache=True))
    early = built.early(2)
    for first in (0, 2):
        early.add(first, PROMPTS[:2], ["tea", "milk"], {})
    found = built.score(PROMPTS, ["tea", "milk"] * 2, {}, 2, early)[:, 0]
    assert len(calls) == 2
    assert found[:2].tolist() == found[2:].tolist()
    assert built.score(PROMPTS, ["tea", "milk"] * 2, {}, 2)[:2, 0].tolist() == found[:2].tolist()


def test_every_sample_of_a_cached_fault_is_counted(spec):
    def fails(completions):
        raise ConnectionError("nobody is there")

    built = engine(spec(fails, cache=True, on_error="missing", max_missing=0.007))
    assert np.isnan(score(built, ["tea", "tea", "tea", "milk"])).all()
    assert built.failed == {"r": 4}
    with pytest.raises(RewardError, match="could not score 8 of the last 8 samples"):
        score(built, ["tea"] * 4)


def test_what_changes_is_hidden_from_a_cached_reward(spec):
    def counts(completions, **kwargs):
        return [float("trainer_state" in kwargs)] * len(completions)

    assert score(engine(spec(counts, cache=True), trainer_state=1)) == [0] * 4
    assert score(engine(spec(counts), trainer_state=1)) == [1] * 4


def test_answers_that_were_not_used_early_are_not_counted(spec):
    async def fails(completions):
        raise ConnectionError("nobody is there")

    built = engine(spec(fails, on_error="missing", max_missing=1))
    early = built.early(4)
    early.add(0, PROMPTS, TEXTS, {})
    assert np.isnan(built.score(PROMPTS, TEXTS[::-1], {}, 4, early)).all()
    assert built.failed == {"r": 4}


def test_entries_beside_samples_keep_their_order(spec):
    """``log_extra`` adds to a column whose rows are the samples of a batch."""
    noted = []

    async def notes(completion, log_extra):
        await asyncio.sleep(0.02 if completion == "milk" else 0)
        log_extra("text", [completion])
        return 0.5

    built = engine(spec(notes), log_extra=lambda name, values: noted.extend(values))
    assert not built.elsewhere
    score(built)
    assert noted == TEXTS


def test_a_cache_that_is_full_forgets_nothing_of_the_batch_at_hand(spec, monkeypatch):
    monkeypatch.setattr(cache, "ENTRIES", 2)
    built = engine(spec(lambda completions: [len(text) / 10 for text in completions], cache=True))
    assert score(built, ["a"]) == pytest.approx([0.1])
    assert score(built, ["a", "bb", "ccc", "dddd"]) == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_a_fault_of_a_cached_reward_names_the_first_sample_that_has_it(spec):
    def odd(completions):
        return [2.0 if text == "b" else 0.5 for text in completions]

    with pytest.raises(RewardError, match=r"sample 1: value 2\.0"):
        score(engine(spec(odd, cache=True)), ["a", "b", "b", "a"])


def test_a_cache_names_the_column_that_it_cannot_compare(spec):
    built = engine(spec(lambda week, thing: [0.0] * len(thing), cache=True), columns=["week", "thing"])
    with pytest.raises(RewardError, match=r"'r': cache: true .* column 'thing': .* object; set cache: false"):
        built.score(["p"], ["a"], {"week": [1], "thing": [object()]}, 1)


@pytest.mark.parametrize("name", ["trainer_state", "log_metric"])
def test_a_cache_is_refused_to_what_reads_the_training_state(spec, name):
    read = {"trainer_state": lambda trainer_state: [], "log_metric": lambda log_metric: []}[name]
    with pytest.raises(RewardSpecError, match=f"'r' reads '{name}', .* set cache: false"):
        engine(spec(read, cache=True), **{name: None})


# --- workers ---


def test_a_worker_gets_answers_without_a_catalogue_of_its_own():
    """Of a function that reads nothing else; for whole answers and for their first tags."""
    here, there = (engine(RewardSpec(name="validity", workers=workers)) for workers in (0, 1))
    assert score(there) == score(here) == pytest.approx([1, 1, 2 / 3, 1])
    np.testing.assert_array_equal(
        there.score_prefixes(PROMPTS, TEXTS, {}, 4), here.score_prefixes(PROMPTS, TEXTS, {}, 4)
    )
    there.close()


# --- missing values ---


def test_the_share_that_may_be_missing_is_one_of_a_large_batch_too(spec):
    def some(completions):
        return ["none" if text == "bad" else 0.5 for text in completions]

    def fails(bad, of, **fields):
        return score(engine(spec(some, on_error="missing", **fields)), ["bad"] * bad + ["good"] * (of - bad))

    assert np.isnan(fails(400, of=4000)).sum() == 400
    with pytest.raises(
        RewardError, match=r"401 of the last 4000 samples, more than max_missing=0\.1 of 4000"
    ):
        fails(401, of=4000)
    assert np.isnan(fails(2000, of=2000, max_missing=1)).all()
    with pytest.raises(RewardError, match=r"101 of the last 200 samples, more than max_missing=0\.1 of 1000"):
        fails(101, of=200)
    with pytest.raises(RewardError, match="1 of the last 4 samples, more than max_missing=0 "):
        fails(1, of=4, max_missing=0)


def test_a_value_that_is_no_score_is_not_asked_for_again(spec):
    """A retry is for a call that gave none: whether a fault ends the run does not decide it."""
    calls = []

    def once(completions):
        calls.append(1)
        return [float("nan") if len(calls) == 1 else 0.5] * len(completions)

    with pytest.raises(RewardError, match="value is NaN"):
        score(engine(spec(once, retries=2)))
    calls.clear()
    assert np.isnan(score(engine(spec(once, retries=2, on_error="missing")))).all()
    assert len(calls) == 1


# --- early groups ---


def test_a_fault_of_one_early_group_ends_the_calls_of_the_others(spec):
    cancelled = threading.Event()

    async def judge(completions):
        try:
            await asyncio.sleep(0.05 if completions[0] == "bad" else 20)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise KeyError("judge")

    built = engine(spec(judge))
    early = built.early(1)
    early.add(0, ["p"], ["bad"], {})
    early.add(1, ["p"], ["good"], {})
    with pytest.raises(RewardError, match="raised KeyError"):
        built.score(["p"] * 2, ["bad", "good"], {}, 1, early)
    assert cancelled.wait(5)


def test_early_groups_are_parsed_only_for_rewards_that_wait_elsewhere(spec):
    parsed = []

    class Counting(Catalog):
        def parse(self, text):
            parsed.append(text)
            return super().parse(text)

    async def judge(completions):
        return [0.5] * len(completions)

    built = engine("validity", spec(judge), catalog=Counting(tags=CATALOG.tags))
    early = built.early(2)
    for first in (0, 2):
        early.add(first, PROMPTS[:2], TEXTS[first : first + 2], {})
    assert parsed == []
    built.score(PROMPTS, TEXTS, {}, 2, early)
    assert parsed == TEXTS
    built.learn(PROMPTS, TEXTS, {})  # nobody does
    assert parsed == TEXTS


# --- memories ---


class Slots:
    """Learns from answers, which it does not score by."""

    def __init__(self):
        self.slots, self.weights = [], []

    def __call__(self, completions):
        return [0.5] * len(completions)

    def update(self, answers, weight=3):
        self.slots += [answer.slots for answer in answers]
        self.weights.append(weight)

    def state_dict(self):
        return {"slots": self.slots, "weights": self.weights}

    def load_state_dict(self, state):
        self.slots, self.weights = state["slots"], state["weights"]


def test_a_memory_may_learn_from_what_it_does_not_score_by(spec):
    built = engine(spec(Slots))
    score(built)
    built.learn(PROMPTS, TEXTS, {})
    assert built.state_dict()["rewards"]["r"] == {
        "slots": [(0,), (0, 1, 3), (3, 3, -1), (0,)],
        "weights": [3],  # no column of this name: the default
    }


# --- names of parameters ---


def test_a_parameter_that_params_set_does_not_make_a_function_of_one_sample(spec):
    def judged(answers, prompt):
        assert len(answers) == 4
        return [len(prompt) / 10] * 4

    assert score(engine(spec(judged, params={"prompt": "Rate"}))) == pytest.approx([0.4] * 4)


# --- what a score is ---


@pytest.mark.parametrize("high", [0.01, 1, 100, 1e6])
def test_the_range_has_room_for_the_rounding_of_float32(spec, high):
    rounded = float(np.nextafter(np.float32(high), np.float32(np.inf)))
    above = high + 1.01 * RANGE_TOLERANCE * max(1, high)
    assert score(engine(spec(lambda completions: [rounded], range=(0, high))), ["a"]) == [rounded]
    with pytest.raises(RewardError, match="outside the declared range"):
        score(engine(spec(lambda completions: [above], range=(0, high))), ["a"])


@pytest.mark.parametrize(
    ("returned", "message"),
    [([10**400], "sample 0: value 1000.* outside the declared range"), (b"0", "returned bytes")],
)
def test_what_no_float_holds_is_no_score(spec, returned, message):
    with pytest.raises(RewardError, match=message):
        score(engine(spec(lambda completions: returned, range=(0, 100))), ["a"])


@pytest.mark.parametrize("returned", [torch.eye(4).to_sparse(), 10**5000], ids=["sparse", "long"])
def test_what_cannot_even_be_read_is_a_fault(spec, returned):
    entry = spec(lambda completions: returned if torch.is_tensor(returned) else [returned] * 4)
    with pytest.raises(RewardError, match=r"reward 'r' returned a .* that cannot be read, .*Return a list"):
        score(engine(entry))
    assert np.isnan(score(engine(entry.model_copy(update={"on_error": "missing"})))).all()
