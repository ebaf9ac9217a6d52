"""The engine passes each reward what it names, and lets no value through that cannot be trusted."""

import asyncio
import re
import sys
import threading
import types

import numpy as np
import pytest
import torch

from recrl.envs.catalog import Catalog
from recrl.rewards.base import RewardError, RewardSpecError
from recrl.rewards.scoring.engine import RewardEngine
from recrl.rewards.spec import RewardSpec

CATALOG = Catalog(tags=("milk", "bread", "eggs", "tea"))
COMPLETIONS = [[{"role": "assistant", "content": text}] for text in ("milk\nbread", "tea", "eggs", "??")]
PROMPTS = [[{"role": "user", "content": "What next?"}]] * 4
COLUMNS = {"target": [[0], [0], [2, 3], [2, 3]], "week": [21, 21, 22, 22]}


@pytest.fixture
def spec(monkeypatch):
    """Make a config entry for a function of the test, which is found as a user's is: by a dotted path."""
    module = types.ModuleType("test_engine_rewards")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def make(function, name="r", **fields):
        setattr(module, name, function)
        return RewardSpec(name=name, use=f"{module.__name__}:{name}", **{"range": (0, 1), **fields})

    return make


def engine(*specs, columns=("target", "week"), **resources):
    return RewardEngine(specs, resources={"catalog": CATALOG, "slots": 2, **resources}, columns=columns)


def score(*specs, completions=COMPLETIONS, **resources):
    return engine(*specs, **resources).score(PROMPTS, completions, COLUMNS, group_size=2)


# --- what a reward gets ---


def test_scores_are_a_float32_column_per_name():
    built = engine("validity", RewardSpec(name="recall_1", use="recall", params={"slots": 1}), "recall")
    scores = built.score(PROMPTS, COMPLETIONS, COLUMNS, group_size=2)
    assert built.names == ("validity", "recall_1", "recall")
    assert built.ranges == {"validity": (0, 1), "recall_1": (0, 1), "recall": (0, 1)}
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, [[1, 1, 1], [1, 0, 0], [1, 0.5, 0.5], [0, 0, 0]])


def test_plain_text_completions_score_like_conversations():
    text = [completion[0]["content"] for completion in COMPLETIONS]
    np.testing.assert_array_equal(score("recall", completions=text), score("recall"))


def test_answers_are_parsed_once_for_all_rewards(spec):
    seen = []

    def keep(answers):
        seen.append(answers)
        return [0.0] * len(answers)

    score(spec(keep, "a"), spec(keep, "b"))
    assert [answer.slots for answer in seen[0]] == [(0, 1), (3,), (2,), (-1,)]
    assert all(first is second for first, second in zip(*seen, strict=True))


def test_nothing_is_parsed_when_no_reward_asks(spec):
    class Unreadable:
        def parse(self, text):
            raise AssertionError("parsed")

    score(spec(lambda completions: [0.0] * 4), catalog=Unreadable())


def test_kwargs_get_every_column_and_resource(spec):
    seen = {}

    def keep(**kwargs):
        seen.update(kwargs)
        return [0.0] * 4

    score(spec(keep, params={"depth": 3}))
    assert set(seen) == {"prompts", "completions", "target", "week", "catalog", "slots", "depth"}
    assert seen["week"] == [21, 21, 22, 22]


def test_a_parameter_with_a_default_may_be_absent(spec):
    assert (
        score(spec(lambda completions, trainer_state=None: [float(trainer_state is None)] * 4)).tolist()
        == [[1]] * 4
    )


def test_a_resource_may_be_exchanged_between_batches(spec):
    built = engine(spec(lambda completions, step: [step] * 4), step=0.25)
    built.resources["step"] = 0.5
    assert built.score(PROMPTS, COMPLETIONS, COLUMNS, 2).tolist() == [[0.5]] * 4


def test_a_group_reward_sees_whole_groups(spec):
    calls = []

    def unique(completions, week):
        calls.append(([c[0]["content"] for c in completions], week))
        return [0.25 * len(calls)] * len(completions)

    scores = score(spec(unique, per="group"))
    assert calls == [(["milk\nbread", "tea"], [21, 21]), (["eggs", "??"], [22, 22])]
    assert scores[:, 0].tolist() == [0.25, 0.25, 0.5, 0.5]


def test_an_unchanged_trl_reward():
    texts = ["<think>\na\n</think>\nmilk", "milk"] * 2
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    think = RewardSpec(name="think", use="trl.rewards:think_format_reward", range=(0, 1))
    assert score(think, completions=completions)[:, 0].tolist() == [1, 0, 1, 0]


def test_trls_completion_ids_are_a_column(spec):
    from trl.rewards import get_soft_overlong_punishment

    overlong = spec(get_soft_overlong_punishment(10, 4), range=(-1, 0))
    built = engine(overlong, columns=("completion_ids",))
    scores = built.score(PROMPTS, COMPLETIONS, {"completion_ids": [[1] * n for n in (2, 8, 10, 12)]}, 2)
    assert scores[:, 0].tolist() == [0, -0.5, -1, -1]


# --- what the first tags of an answer get ---


def prefixes(built, completions, lengths=None, columns=COLUMNS):
    lines = max(len(CATALOG.parse(completion[0]["content"]).slots) for completion in completions)
    return built.score_prefixes(PROMPTS, completions, columns, lengths or 1 + lines)


def test_the_first_tags_of_an_answer_score_like_an_answer_that_ends_there(spec):
    """Against writing out each beginning and scoring it; past its end an answer keeps what it has."""
    shown = spec(
        lambda answers, week: [len(a.valid) / w for a, w in zip(answers, week, strict=True)], per="tag"
    )
    built = engine("recall", shown, "length")
    texts = ["milk\nbread\n\neggs\n", "tea", "", "eggs\n??\neggs\nbread\nmilk"]
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    running = prefixes(built, completions)
    assert (running.shape, running.dtype) == ((4, 6, 3), np.float32)
    for p in range(6):
        begun = ["\n".join([line for line in text.split("\n") if line][:p]) for text in texts]
        expected = built.score(PROMPTS, begun, COLUMNS, group_size=2)
        np.testing.assert_array_equal(running[:, p, :2], expected[:, :2])
    whole = built.score(PROMPTS, completions, COLUMNS, group_size=2)
    np.testing.assert_array_equal(running[:, -1, :2], whole[:, :2])
    assert running[3, :, 1].tolist() == pytest.approx([0, 1 / 22, 1 / 22, 1 / 22, 2 / 22, 3 / 22])
    assert not running[..., 2].any()  # length judges whole answers


def test_fewer_lengths_than_tags_may_be_asked_for():
    built = engine("recall")
    completions = [[{"role": "assistant", "content": "milk\nbread\neggs"}]] * 4
    short, full = prefixes(built, completions, lengths=2), prefixes(built, completions)
    assert short.shape == (4, 2, 1)
    np.testing.assert_array_equal(short, full[:, :2])


def test_a_missing_score_of_the_first_tags_is_that_of_the_tags_before_or_the_mean(spec, caplog):
    def some(answers):
        scores = [6.0 + len(a.slots) if a.slots else None for a in answers]
        lost = [list(a.slots) == [0, 1] for a in answers]  # milk and bread
        return [np.nan if gone else score for gone, score in zip(lost, scores, strict=True)]

    built = engine(spec(some, per="tag", range=(5, 10), on_error="missing", max_missing=0))
    texts = ["milk\nbread\ntea", "tea\nbread\nmilk", "tea", ""]
    running = prefixes(built, [[{"role": "assistant", "content": text}] for text in texts])[..., 0]
    mean = (7 + 9 + 7 + 8 + 9 + 7) / 6
    expected = [[mean, 7, 7, 9], [mean, 7, 8, 9], [mean, 7, 7, 7], [mean] * 4]
    np.testing.assert_allclose(running, expected, rtol=1e-6)
    # A beginning is no answer of the policy: it is said, and not counted.
    assert "'r' could not score 1 of 11 beginnings of answers" in caplog.text
    assert built.failed == {"r": 0}


@pytest.mark.parametrize(
    ("function", "columns"),
    [
        (lambda answers, completions: [], ()),
        (lambda answers, completion_ids: [], ("completion_ids",)),
        (lambda week: [], ("week",)),
    ],
    ids=["completions", "completion_ids", "no answers"],
)
def test_a_reward_that_cannot_judge_the_first_tags_is_refused_per_tag(spec, function, columns):
    with pytest.raises(RewardSpecError, match=r"'r': per='tag' needs .* 'answers' .*Use per='sample'"):
        engine(spec(function, per="tag"), columns=columns)


def test_an_async_reward_is_refused_per_tag(spec):
    async def judge(answers):
        return [0.0] * len(answers)

    with pytest.raises(RewardSpecError, match=r"'r': per='tag' .*async"):
        engine(spec(judge, per="tag"))


# --- async ---


def test_async_rewards_run_concurrently_and_beside_sync_ones(spec):
    # Each waits for all the others: run one after another, they would never get past the first.
    meeting = asyncio.Barrier(4)
    sync_ran = threading.Event()

    async def meet(completions):
        await asyncio.wait_for(meeting.wait(), timeout=5)
        assert sync_ran.is_set()
        return [0.5] * len(completions)

    async def meet_late(completions):
        while not sync_ran.is_set():
            await asyncio.sleep(0.001)
        return await meet(completions)

    def sync(completions):
        sync_ran.set()
        return [1.0] * 4

    scores = score(
        spec(meet_late, "a"), spec(meet_late, "b"), spec(meet_late, "groups", per="group"), spec(sync, "sync")
    )
    assert scores.tolist() == [[0.5, 0.5, 0.5, 1.0]] * 4


def test_async_rewards_work_inside_a_running_loop_and_keep_their_own(spec):
    loops = []

    class Client:
        async def __call__(self, completions):
            loops.append(asyncio.get_running_loop())
            return [0.0] * 4

    async def notebook():
        return [score(spec(Client())), score(spec(Client()))]

    asyncio.run(notebook())
    assert loops[0] is loops[1]


def test_an_async_fault_names_the_reward(spec):
    async def fails(completions):
        raise KeyError("judge")

    with pytest.raises(RewardError, match="reward 'r' raised KeyError") as raised:
        score(spec(fails))
    assert isinstance(raised.value.__cause__, KeyError)


def test_time_is_kept_per_reward(spec):
    async def sleeps(completions):
        await asyncio.sleep(0.02)
        return [0.0] * 4

    built = engine("recall", spec(sleeps))
    built.score(PROMPTS, COMPLETIONS, COLUMNS, 2)
    assert built.seconds["r"] >= 0.02 > built.seconds["recall"] > 0


# --- faults of a reward ---


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([0.0, 1.0], "reward 'r' returned 2 values for the 4 samples 0..3"),
        (None, "reward 'r' returned NoneType; return a list"),
        ("0000", "reward 'r' returned str"),
        (0.5, "reward 'r' returned float"),
        ([0.0, "1", 0.0, 0.0], "sample 1: value '1' is a str; return a number"),
        ([0.0, 0.0, [0.0], 0.0], r"sample 2: value \[0.0\] is a list"),
        ([0.0, 0.0, 0.0, float("nan")], "sample 3: value is NaN; return None if .* Completion: '\\?\\?'"),
        (np.array([0.0, np.nan, 0.0, 0.0]), "sample 1: value is NaN"),
        ([float("inf"), 0.0, 0.0, 0.0], r"sample 0: value inf is outside the declared range \[0, 1\]"),
        ([0.0, 0.0, 1.1, 0.0], "sample 2: value 1.1 is outside .* declare the range .* Completion: 'eggs'"),
        ([-0.1, 0.0, 0.0, 0.0], r"sample 0: value -0.1 is outside .* Completion: 'milk\\nbread'"),
    ],
)
def test_what_is_not_a_score_is_refused(spec, returned, message):
    with pytest.raises(RewardError, match=message):
        score(spec(lambda completions: returned))


@pytest.mark.parametrize(
    "returned",
    [
        [None, 1, 0.5, True],
        [None, np.float32(1), np.float64(0.5), np.bool_(True)],
        [None, torch.tensor(1.0), torch.tensor(0.5), torch.tensor(True)],
        (None, 1 + 5e-7, 0.5, 1.0),  # rounding of float32
    ],
)
def test_numbers_of_every_kind_are_scores_and_none_is_missing(spec, returned):
    np.testing.assert_allclose(
        score(spec(lambda completions: returned))[:, 0], [np.nan, 1, 0.5, 1], rtol=1e-6
    )


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_an_array_of_scores(spec, kind):
    assert score(spec(lambda completions: kind([0.0, 1.0, 0.5, 1.0])))[:, 0].tolist() == [0, 1, 0.5, 1]


def test_a_reward_that_raises_is_named_and_its_exception_kept(spec):
    def fails(completions):
        raise ZeroDivisionError("no views")

    with pytest.raises(
        RewardError, match=r"'r' raised ZeroDivisionError on samples 0\.\.3: no views"
    ) as raised:
        score(spec(fails))
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_a_fault_in_a_later_group_names_the_row_of_the_batch(spec):
    with pytest.raises(RewardError, match="sample 3: value 9"):
        score(spec(lambda week: [0, 9] if week[0] == 22 else [0, 0], per="group"))


# --- faults of the configuration and of the batch ---


def test_a_parameter_that_nothing_provides(spec):
    with pytest.raises(
        RewardSpecError, match=r"'r' needs 'price', which nothing provides\. Dataset columns: .*week"
    ):
        engine(spec(lambda completions, price: []))


def test_answers_need_a_catalog():
    with pytest.raises(
        RewardSpecError,
        match=r"'recall' needs 'answers', .* derived: none; resources: slots. Pass the resource 'catalog'",
    ):
        RewardEngine(["recall"], resources={"slots": 2}, columns=["target"])


def test_params_that_the_function_lacks(spec):
    with pytest.raises(RewardSpecError, match=r"'r' has no parameter 'k' .* it has: completions"):
        engine(spec(lambda completions: [], params={"k": 10}))


def test_two_rewards_with_one_name():
    with pytest.raises(RewardSpecError, match="two rewards are called 'recall'"):
        engine("recall", RewardSpec(name="recall", params={"slots": 1}))


def test_a_column_that_hides_a_resource():
    with pytest.raises(RewardSpecError, match=r"dataset column 'slots' .* rename the column"):
        engine("length", columns=("target", "slots"))


def test_a_batch_that_is_not_as_announced():
    built = engine("recall")
    with pytest.raises(ValueError, match="group_size=3 must divide the 4 completions"):
        built.score(PROMPTS, COMPLETIONS, COLUMNS, group_size=3)
    with pytest.raises(ValueError, match="column 'week' has 1 entries for 4 completions"):
        built.score(PROMPTS, COMPLETIONS, {**COLUMNS, "week": [1]}, group_size=2)
    with pytest.raises(
        ValueError, match="'recall' needs column 'target', which this batch lacks; it has: week"
    ):
        built.score(PROMPTS, COMPLETIONS, {"week": COLUMNS["week"]}, group_size=2)


# --- stateful rewards ---


class Seen:
    """1 for an answer that was never scored before."""

    def __init__(self, limit=100):
        self.limit = limit
        self.seen = []

    def __call__(self, answers):
        scores = [float(answer.slots not in self.seen) for answer in answers]
        self.seen = [*self.seen, *(answer.slots for answer in answers)][-self.limit :]
        return scores

    def state_dict(self):
        return {"seen": list(self.seen)}

    def load_state_dict(self, state):
        self.seen = list(state["seen"])


def test_a_class_gives_each_engine_its_own_instance(spec):
    seen = spec(Seen, params={"limit": 1})
    first, second = engine(seen), engine(seen)
    assert first.score(PROMPTS, COMPLETIONS, COLUMNS, 2).sum() == 4
    assert second.score(PROMPTS, COMPLETIONS, COLUMNS, 2).sum() == 4
    assert first.state_dict()["rewards"] == {"r": {"seen": [(-1,)]}}


def test_state_survives_a_resume(spec):
    first = engine(spec(Seen), "recall")
    first.score(PROMPTS, COMPLETIONS, COLUMNS, 2)
    resumed = engine(spec(Seen), "recall")
    resumed.load_state_dict(first.state_dict())
    assert resumed.score(PROMPTS, COMPLETIONS, COLUMNS, 2)[:, 0].tolist() == [0, 0, 0, 0]


def test_a_resume_with_other_rewards_is_refused(spec):
    with pytest.raises(ValueError, match=r"saved state is of the rewards \[\], .* \['r'\]"):
        engine(spec(Seen)).load_state_dict(engine("recall").state_dict())


def test_a_function_that_makes_a_reward_is_not_one(spec):
    def longest(most):
        return lambda completions: [len(text) / most for text in completions]

    built = spec(longest, params={"most": 10})
    with pytest.raises(RewardSpecError, match=r"'r' reads nothing: .* write use: '.*:r\(\)'"):
        engine(built)
    made = engine(built.model_copy(update={"use": f"{built.use}()"}))
    assert made.score(["p"], ["milk"], {}, 1).tolist() == pytest.approx(np.array([[0.4]]))


def test_a_reward_that_says_itself_what_is_wrong_is_not_blamed(spec):
    def refuses(completions):
        raise RewardError("no licence: set SHOP_LICENCE")

    with pytest.raises(RewardError, match=r"^reward 'r' on samples 0\.\.\d+: no licence: set SHOP_LICENCE$"):
        score(spec(refuses))


def test_a_class_that_is_no_reward(spec):
    with pytest.raises(RewardSpecError, match="'r': class dict needs a __call__"):
        engine(spec(dict))
    with pytest.raises(RewardSpecError, match=r"'r': params .*'size'.* do not fit"):
        engine(spec(Seen, params={"size": 1}))


# --- what a line adds ---


def test_what_a_line_adds_is_the_score_of_an_answer_of_that_line():
    built = engine("recall", "novelty", "validity", "hit", columns=("target", "week", "lookback"))
    columns = {**COLUMNS, "lookback": [[0], [1], [0, 1], []]}
    lines = ["milk", "eggs", "no such tag"]
    found = built.score_lines(PROMPTS, columns, lines, {"recall", "novelty"})
    assert found.shape == (4, 3, 4)
    for j, line in enumerate(lines):
        whole = built.score(PROMPTS, [line] * 4, columns, 1)
        np.testing.assert_allclose(found[:, j, 0], whole[:, 0])
        # One of two slots: half of a mean over the list.
        np.testing.assert_allclose(found[:, j, 1], whole[:, 1] / 2)
    assert not found[:, :, 2:].any()


def test_rewards_that_are_not_asked_have_no_score():
    built = engine("validity", "recall", "length")
    scores = built.score(PROMPTS, COMPLETIONS, COLUMNS, 2, only={"recall"})
    np.testing.assert_array_equal(np.isnan(scores), [[True, False, True]] * 4)
    whole = built.score(PROMPTS, COMPLETIONS, COLUMNS, 2)
    np.testing.assert_array_equal(scores[:, 1], whole[:, 1])


def test_a_sum_that_is_asked_is_scored_with_its_parts():
    total = RewardSpec(name="total", sum={"validity": 1.0, "recall": 2.0}, range=(0, 3))
    built = engine("validity", "recall", "length", total)
    scores = built.score(PROMPTS, COMPLETIONS, COLUMNS, 2, only={"total"})
    whole = built.score(PROMPTS, COMPLETIONS, COLUMNS, 2)
    np.testing.assert_array_equal(scores[:, 3], whole[:, 3])
    assert np.isnan(scores[:, 2]).all(), "no part of it"
    assert np.isnan(built.score(PROMPTS, COMPLETIONS, COLUMNS, 2, only={"recall"})[:, 3]).all()


def test_a_sum_is_judged_by_its_parts_before_the_outcome():
    total = RewardSpec(name="total", sum={"validity": 1.0, "recall": 1.0}, range=(0, 2))
    free = RewardSpec(name="free", sum={"validity": 1.0, "length": 1.0}, range=(0, 2))
    built = engine("validity", "recall", "length", total, free)
    assert built.unheld("free", {"target"}) is None
    assert built.unheld("total", {"target"}) == "reads the outcome (target)"
    assert built.unheld("total", {"week"}) is None


# --- whether it can be computed when answers are served ---


def everything(completions, **columns):
    return [0.5] * len(completions)


def of_the_outcome(completions, target):
    return [0.5] * len(completions)


def alone(completions):
    return [0.5] * len(completions)


@pytest.mark.parametrize(
    ("function", "serving", "why"),
    [
        (everything, None, r"takes \*\*kwargs .* declare serving: true"),
        (everything, True, None),
        (alone, None, None),
        (alone, False, "is declared serving: false"),
        (of_the_outcome, None, r"reads the outcome \(target\)"),
    ],
)
def test_what_a_reward_reads_or_declares_says_whether_it_can_be_served(spec, function, serving, why):
    built = engine(spec(function, range=(0, 1), serving=serving))
    built.check_serving({"target"})
    found = built.unheld("r", {"target"})
    assert found is None if why is None else re.search(why, found)


@pytest.mark.parametrize(
    ("function", "per", "why"),
    [
        (of_the_outcome, "sample", r"'r': serving=True, but it reads the outcome \(target\)"),
        (alone, "group", "'r': serving=True, but it compares several answers"),
    ],
)
def test_a_reward_that_cannot_be_served_is_refused_where_it_says_that_it_can(spec, function, per, why):
    built = engine(spec(function, range=(0, 1), per=per, serving=True))
    with pytest.raises(RewardSpecError, match=why):
        built.check_serving({"target"})
