"""How the engine calls rewards: in which parts, how many at once, where, and how often for the same input."""

import asyncio
import math
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections import Counter, defaultdict, deque
from dataclasses import dataclass

import numpy as np
import psutil
import pytest
import torch
from places import SUPPORT
from pydantic import ValidationError

from recrl.envs.catalog import Catalog
from recrl.envs.storage import states
from recrl.rewards import RewardEngine, RewardError, RewardSpec, RewardSpecError
from recrl.rewards.scoring.calls import ASYNC_CALLS, loop

CATALOG = Catalog(tags=("milk", "bread", "eggs", "tea"))
FILE = SUPPORT / "counted_rewards.py"
PROMPTS = ["p"] * 8
TEXTS = ["milk", "tea", "eggs", "milk", "bread", "tea", "milk", ""]
WEEKS = {"week": [1, 1, 1, 1, 2, 2, 2, 2]}


@pytest.fixture
def spec(monkeypatch):
    """A config entry of a function of the test, found as a user's is: by a dotted path."""
    module = types.ModuleType("test_execution_rewards")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def make(function, name="r", **fields):
        setattr(module, name, function)
        return RewardSpec(name=name, use=f"{module.__name__}:{name}", **{"range": (0, 1), **fields})

    return make


def engine(*specs, **resources):
    return RewardEngine(specs, resources={"catalog": CATALOG, "slots": 2, **resources}, columns=["week"])


def score(*specs, group=4, texts=TEXTS):
    return engine(*specs).score(PROMPTS, texts, WEEKS, group)


def in_worker(function, **fields):
    return RewardSpec(name="r", use=f"{FILE}:{function}", **{"range": (0, 1), "workers": 1, **fields})


# --- parts of a batch ---


def test_a_batch_is_split_into_calls(spec):
    calls = []

    def keep(completions, week):
        calls.append((list(completions), list(week)))
        return [len(calls) / 10] * len(completions)

    assert score(spec(keep, batch_size=3))[:, 0].tolist() == pytest.approx([0.1] * 3 + [0.2] * 3 + [0.3] * 2)
    assert calls == [(TEXTS[:3], [1] * 3), (TEXTS[3:6], [1, 2, 2]), (TEXTS[6:], [2, 2])]


def test_a_fault_in_a_later_call_names_the_samples_of_the_batch(spec):
    def odd(completions):
        return [2.0 if text == "bread" else 0.0 for text in completions]

    with pytest.raises(RewardError, match=r"sample 4: value 2\.0"):
        score(spec(odd, batch_size=3))
    with pytest.raises(RewardError, match=r"on samples 6\.\.7: boom"):
        score(spec(lambda completions: [0.0] * 3 if len(completions) == 3 else boom(), batch_size=3))


def lengths(completions):
    return [float(len(text)) for text in completions]


def boom():
    raise ValueError("boom")


# --- how many at once ---


def test_no_more_async_calls_are_in_flight_than_asked_for(spec):
    flying, most = [0], [0]

    async def judge(completions):
        flying[0] += 1
        most[0] = max(most[0], flying[0])
        await asyncio.sleep(0.01)
        flying[0] -= 1
        return [0.5] * len(completions)

    for concurrency, expected in ((3, 3), (None, ASYNC_CALLS)):
        most[0] = 0
        built = engine(spec(judge, batch_size=1, concurrency=concurrency))
        built.score(["p"] * 40, ["a"] * 40, {"week": [1] * 40}, 1)
        assert most[0] == expected


@pytest.mark.parametrize(
    ("fields", "of_the_trainer"), [({}, True), ({"timeout": 60}, False), ({"thread": "own"}, False)]
)
def test_plain_functions_take_turns_unless_threads_are_asked_for(spec, fields, of_the_trainer):
    running, most, threads = [0], [0], set()

    def slow(completions):
        running[0] += 1
        most[0] = max(most[0], running[0])
        threads.add(threading.current_thread())
        time.sleep(0.01)
        running[0] -= 1
        return [0.5] * len(completions)

    score(spec(slow, "a", batch_size=2, **fields), spec(slow, "b", batch_size=2, **fields))
    assert (most[0], len(threads)) == (1, 1)
    assert (threading.current_thread() in threads) == of_the_trainer

    together = threading.Barrier(4)

    def waits(completions):
        together.wait(5)  # for three others
        return [0.5] * len(completions)

    score(spec(waits, "c", batch_size=1, concurrency=4))
    score(spec(waits, "d", concurrency=4))  # an equal part each
    score(spec(lambda completion: waits([completion])[0], "e", concurrency=4))


def test_a_timeout_of_the_function_itself_is_its_own_exception(spec):
    def asks(completions):
        raise TimeoutError("the database")

    with pytest.raises(RewardError, match=r"raised TimeoutError on samples .* the database"):
        score(spec(asks))


def test_threads_end_with_their_engine(spec):
    # Those of engines that earlier tests left behind may go at the same time.
    def mine():
        return [t for t in threading.enumerate() if t.name == "recrl-reward" and t.ident in seen]

    seen = set()

    def note(completions):
        seen.add(threading.get_ident())
        time.sleep(0.02)
        return [0.5] * len(completions)

    built = engine(spec(note, batch_size=1, concurrency=4))
    built.score(PROMPTS, TEXTS, WEEKS, 4)
    assert len(mine()) == 4
    built.close()
    until = time.monotonic() + 5
    while mine() and time.monotonic() < until:
        time.sleep(0.01)
    assert not mine()


# --- processes ---


def test_workers_are_processes_of_their_own_that_share_a_batch():
    built = engine(in_worker("process", workers=2))
    found = built.score(PROMPTS, TEXTS, WEEKS, 4)[:, 0]
    assert len(set(found.tolist())) == 2
    assert np.float32(os.getpid() / 1e7) not in found
    built.close()


def test_columns_resources_and_params_reach_a_worker():
    built = engine(in_worker("reads", params={"depth": 3}))
    found = built.score(PROMPTS, TEXTS, WEEKS, 4)[:, 0]
    assert found.tolist() == pytest.approx([0.08] * 4 + [0.09] * 4)
    built.close()


def test_a_worker_sees_whole_groups():
    built = engine(in_worker("by_group", per="group", workers=2))
    assert built.score(PROMPTS, TEXTS, WEEKS, 4)[:, 0].tolist() == pytest.approx([0.04] * 8)
    built.close()


def test_an_exception_of_a_worker_keeps_its_type_and_traceback():
    with pytest.raises(RewardError, match="raised KeyError") as raised:
        score(in_worker("raises"))
    assert isinstance(raised.value.__cause__, KeyError)
    assert "counted_rewards.py" in "".join(raised.value.__cause__.__notes__)


def test_a_worker_that_starts_later_finds_the_same_function(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, value in ((here, 0.25), (there, 0.75)):
        folder.mkdir()
        (folder / "late_rewards.py").write_text(
            f"def r(completions):\n    return [{value}] * len(completions)\n"
        )
    monkeypatch.chdir(here)
    built = engine(RewardSpec(name="r", use="late_rewards.py:r", range=(0, 1), workers=1))
    monkeypatch.chdir(there)
    assert set(built.score(PROMPTS, TEXTS, WEEKS, 4)[:, 0].tolist()) == {0.25}
    for child in children():
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # whoever started it can still learn its end
    (here / "late_rewards.py").write_text("def r(completions):\n    return [0.5] * len(completions)\n")
    with pytest.raises(RewardError, match=r"the file of late_rewards\.py:r changed while the run goes on"):
        built.score(PROMPTS, TEXTS, WEEKS, 4)
    built.close()


def test_params_go_before_columns_in_a_worker_too():
    spec = in_worker("reads", params={"depth": 3, "week": [5] * 8})
    assert score(spec)[:, 0].tolist() == pytest.approx([0.12] * 8)


def test_a_worker_that_hangs_disturbs_no_other():
    texts = ["hang", "a", "b", "c", "d", "e", "f", "g"]
    spec = in_worker("sleeps_once", workers=2, timeout=1.0, on_error="missing", batch_size=4, max_missing=1)
    built = engine(spec)
    first = built.score(PROMPTS, texts, WEEKS, 4)[:, 0]
    assert np.isnan(first[:4]).all()
    second = built.score(PROMPTS, ["a"] * 8, WEEKS, 4)[:, 0]
    assert np.isfinite(second).all()
    assert first[4] in second  # the one that worked is still there
    built.close()


def children():
    found = psutil.process_iter(["pid", "ppid", "cmdline"])
    mine = [p for p in found if p.info["ppid"] == os.getpid()]
    return [p for p in mine if "recrl.rewards.scoring.worker" in " ".join(p.info["cmdline"] or ())]


@pytest.mark.parametrize("closed", [True, False])
def test_no_worker_outlives_its_engine(closed):
    before = {process.pid for process in children()}
    built = engine(in_worker("process"))
    built.score(PROMPTS, TEXTS, WEEKS, 4)
    made = [process for process in children() if process.pid not in before]
    assert len(made) == 1
    if closed:
        built.close()
    else:
        del built
    assert not psutil.wait_procs(made, timeout=5)[1]


def test_no_worker_outlives_a_process_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, time\n"
        "from recrl.rewards import RewardEngine, RewardSpec\n"
        f"spec = RewardSpec(name='r', use='{FILE}:process', range=(0, 1), workers=1)\n"
        "engine = RewardEngine([spec], resources={}, columns=[])\n"
        "print(round(engine.score(['p'], ['a'], {}, 1)[0, 0].item() * 1e7), flush=True)\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    until = time.monotonic() + 5
    while runs(int(ended.stdout)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not runs(int(ended.stdout))


def runs(worker):
    """Whether this is still a worker: a process that ended may wait for its parent to take note."""
    try:
        return "recrl.rewards.scoring.worker" in psutil.Process(worker).cmdline()
    except psutil.NoSuchProcess:
        return False


# --- the same input once ---


def test_equal_inputs_are_scored_once(spec):
    calls = []

    def keep(completions):
        calls.append(list(completions))
        return [len(text) / 10 for text in completions]

    built = engine(spec(keep, cache=True))
    for _ in range(2):
        found = built.score(PROMPTS, TEXTS, WEEKS, 4)[:, 0]
        assert found.tolist() == pytest.approx([len(text) / 10 for text in TEXTS])
    assert sorted(calls[0]) == sorted(set(TEXTS))
    assert calls[1:] == []


def test_what_counts_as_equal_is_what_the_function_reads(spec):
    seen = []

    def keep(completions, week):
        seen.extend(zip(completions, week, strict=True))
        return [0.5] * len(completions)

    score(spec(keep, cache=True))
    assert sorted(seen) == sorted(set(zip(TEXTS, WEEKS["week"], strict=True)))


def test_a_group_is_cached_as_a_whole(spec):
    groups = []

    def rank(completions):
        groups.append(list(completions))
        return [i / 10 for i in range(len(completions))]

    built = engine(spec(rank, per="group", cache=True))
    texts = ["a", "b", "b", "a", "a", "b", "c", "d"]
    found = built.score(PROMPTS, texts, WEEKS, 2)[:, 0]
    assert found.tolist() == pytest.approx([0, 0.1] * 4)
    assert groups == [["a", "b"], ["b", "a"], ["c", "d"]]


def test_missing_scores_are_asked_for_again(spec):
    calls = []

    def sometimes(completions):
        calls.append(list(completions))
        return [None if len(calls) == 1 and text == "tea" else 0.5 for text in completions]

    built = engine(spec(sometimes, cache=True))
    first = built.score(PROMPTS, TEXTS, WEEKS, 4)[:, 0]
    assert np.isnan(first[[1, 5]]).all()
    assert np.isfinite(built.score(PROMPTS, TEXTS, WEEKS, 4)).all()
    assert calls[1:] == [["tea"]]


def test_an_input_whose_content_cannot_be_told_is_named(spec):
    built = RewardEngine(
        [spec(lambda thing: [0.0] * len(thing), cache=True)], resources={}, columns=["thing"]
    )
    with pytest.raises(RewardError, match=r"'r': cache: true cannot tell .* holds object; set cache: false"):
        built.score(["p"], ["a"], {"thing": [object()]}, 1)
    assert built.score(["p"] * 2, ["a"] * 2, {"thing": [np.ones(2), np.ones(2)]}, 1).tolist() == [[0], [0]]


# --- sums ---


def test_a_sum_adds_up_other_rewards(spec):
    a = spec(lambda week: [w / 10 for w in week], "a")
    b = spec(lambda completions: [None if not text else 0.5 for text in completions], "b")
    built = engine(RewardSpec(name="both", sum={"a": 2.0, "b": -1.0}), a, b)
    assert built.names == ("both", "a", "b")
    assert built.ranges["both"] == (-1.0, 2.0)
    found = built.score(PROMPTS, TEXTS, WEEKS, 4)
    assert found[:-1, 0].tolist() == pytest.approx([-0.3] * 4 + [-0.1] * 3)
    assert np.isnan(found[-1, 0])  # where a part is missing


def test_a_sum_of_what_is_better_low_says_so(spec):
    good, bad = spec(lambda week: week, "good"), spec(lambda week: week, "bad", direction="lower")

    def direction(**fields):
        return engine(good, bad, RewardSpec(name="s", **fields)).rewards[2].direction

    with pytest.raises(RewardSpecError, match=r"'s': sum adds 'bad', .* make its weight -0\.5, or say"):
        direction(sum={"good": 0.5, "bad": 0.5})
    assert direction(sum={"good": 0.5, "bad": 0.5}, direction="higher") == "higher"
    assert direction(sum={"good": 0.5, "bad": -0.5}) == "higher"
    assert direction(sum={"bad": 2.0}) == "lower"


def test_a_sum_out_of_the_range_that_its_entry_gives_is_an_error(spec):
    a = spec(lambda week: [w / 10 for w in week], "a")
    built = engine(a, RewardSpec(name="s", sum={"a": 10.0}, range=(0, 1)))
    with pytest.raises(RewardError, match=r"'s', sample 4: value 2\.0 is outside the declared range"):
        built.score(PROMPTS, TEXTS, WEEKS, 4)


def test_a_sum_names_rewards_of_the_list(spec):
    a = spec(lambda week: week, "a")
    with pytest.raises(RewardSpecError, match=r"'s': sum names 'b', which .* lacks .*known: a"):
        engine(a, RewardSpec(name="s", sum={"b": 1.0}))
    with pytest.raises(RewardSpecError, match=r"'t': sum names 's', .* is a sum itself"):
        engine(a, RewardSpec(name="s", sum={"a": 1.0}), RewardSpec(name="t", sum={"s": 1.0}))
    with pytest.raises(ValidationError, match="leave out timeout, use"):
        RewardSpec(name="s", sum={"a": 1.0}, use="a", timeout=3)
    with pytest.raises(ValidationError, match="at least one"):
        RewardSpec(name="s", sum={})
    with pytest.raises(ValidationError, match="other than 0"):
        RewardSpec(name="s", sum={"a": 0.0})


# --- functions of one sample ---


def test_a_function_of_one_sample(spec):
    def grade(completion, week, catalog):
        return (len(completion) + week + len(catalog)) / 100

    expected = [(len(t) + w + 4) / 100 for t, w in zip(TEXTS, WEEKS["week"], strict=True)]
    assert score(spec(grade))[:, 0].tolist() == pytest.approx(expected)


def test_an_async_function_of_one_sample_with_a_state(spec):
    async def grade(prompt, completion, state, **kwargs):
        assert state == {"prompt": prompt, "completion": completion, "week": kwargs["week"]}
        assert kwargs["slots"] == 2
        await asyncio.sleep(0)
        return kwargs["week"] / 10

    assert score(spec(grade))[:, 0].tolist() == pytest.approx([0.1] * 4 + [0.2] * 4)


# --- what makes a reward ---


def test_what_a_factory_returns_is_the_reward():
    use = "trl.rewards:get_soft_overlong_punishment()"
    params = {"max_completion_len": 10, "soft_punish_cache": 4}
    built = RewardEngine(
        [RewardSpec(name="short", use=use, params=params, range=(-1, 0))],
        resources={},
        columns=["completion_ids"],
    )
    columns = {"completion_ids": [[1] * n for n in (2, 8, 10, 12)]}
    assert built.score(PROMPTS[:4], TEXTS[:4], columns, 2)[:, 0].tolist() == [0, -0.5, -1, -1]
    with pytest.raises(RewardSpecError, match=r"with params {'depth': 1} does not fit"):
        RewardEngine(
            [RewardSpec(name="short", use=use, params={"depth": 1}, range=(-1, 0))], resources={}, columns=[]
        )


# --- early groups ---


def test_groups_that_are_asked_for_early_score_like_the_batch(spec):
    asked = []

    async def judge(completions, week):
        asked.append(list(completions))
        return [w / 10 for w in week]

    built = engine(spec(judge, "judge"), spec(lambda completions: [0.5] * len(completions), "plain"))
    assert built.elsewhere
    early = built.early(4)
    early.add(4, PROMPTS[4:], TEXTS[4:], {"week": WEEKS["week"][4:]})
    early.add(0, PROMPTS[:4], TEXTS[:4], {"week": WEEKS["week"][:4]})
    found = built.score(PROMPTS, TEXTS, WEEKS, 4, early)
    np.testing.assert_array_equal(
        found,
        engine(spec(judge, "judge"), spec(lambda week: [0.5] * len(week), "plain")).score(
            PROMPTS, TEXTS, WEEKS, 4
        ),
    )
    assert asked[:2] == [TEXTS[4:], TEXTS[:4]]
    assert len(asked) == 3  # the second engine's


def test_other_answers_than_those_that_came_early_are_scored_anew(spec):
    async def judge(completions):
        return [len(text) / 10 for text in completions]

    built = engine(spec(judge))
    early = built.early(4)
    early.add(0, PROMPTS, TEXTS, WEEKS)
    other = [text.upper() + "!" for text in TEXTS]
    assert built.score(PROMPTS, other, WEEKS, 4, early)[:, 0].tolist() == pytest.approx(
        [len(t) / 10 for t in other]
    )


def test_an_early_fault_is_raised_with_the_batch(spec):
    async def judge(completions):
        raise KeyError("judge")

    built = engine(spec(judge))
    early = built.early(4)
    early.add(0, PROMPTS[:4], TEXTS[:4], {"week": [1] * 4})
    early.add(4, PROMPTS[4:], TEXTS[4:], {"week": [1] * 4})
    with pytest.raises(RewardError, match="raised KeyError"):
        built.score(PROMPTS, TEXTS, WEEKS, 4, early)


def test_what_nobody_asks_for_any_more_is_cancelled(spec):
    ended = threading.Event()

    async def judge(completions):
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.set()
            raise

    built = engine(spec(judge))
    early = built.early(4)
    early.add(0, PROMPTS, TEXTS, WEEKS)
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0.05), loop()).result()
    early.cancel()
    assert ended.wait(5)


# --- memories ---


class Counted:
    """Share of the samples that were learned from so far."""

    def __init__(self):
        self.known = []

    def __call__(self, completions):
        return [min(1.0, len(self.known) / 100)] * len(completions)

    def update(self, completions, week):
        self.known += list(zip(completions, week, strict=True))

    def state_dict(self):
        return {"known": self.known}

    def load_state_dict(self, state):
        self.known = list(state["known"])


def test_a_memory_learns_from_the_samples_of_all_ranks_in_order(spec):
    alone, ranks = engine(spec(Counted)), [engine(spec(Counted)), engine(spec(Counted))]
    halves = [slice(0, 4), slice(4, 8)]
    shared = [{"completions": TEXTS[half], "week": WEEKS["week"][half]} for half in halves]
    alone.learn(PROMPTS, TEXTS, WEEKS)
    for rank, half in zip(ranks, halves, strict=True):
        rank.learn(PROMPTS[half], TEXTS[half], {"week": WEEKS["week"][half]}, gather=lambda mine: shared)
    assert ranks[0].state_dict() == ranks[1].state_dict() == alone.state_dict()
    assert len(alone.state_dict()["rewards"]["r"]["known"]) == 8
    assert alone.forgetful() == []


def test_a_memory_without_update_is_forgetful(spec):
    class Own(Counted):
        update = None

    del Own.update

    class Forgetful:
        def __call__(self, completions):
            return [0.0] * len(completions)

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    assert engine(spec(Forgetful)).forgetful() == ["r"]


def test_a_memory_that_could_not_be_kept_is_refused(spec):
    class Unsaved:
        def __call__(self, completions):
            return [0.0] * len(completions)

        def update(self, completions):
            pass

    class Awaiting(Counted):
        async def update(self, completions):
            pass

    class HalfSaved(Unsaved):
        def state_dict(self):
            return {}

    with pytest.raises(RewardSpecError, match=r"\(update\) but has no state_dict and no load_state_dict"):
        engine(spec(Unsaved))
    with pytest.raises(RewardSpecError, match=r"\(update\) but has no load_state_dict"):
        engine(spec(HalfSaved))
    with pytest.raises(RewardSpecError, match="update is an async function, which nobody awaits"):
        engine(spec(Awaiting))


@dataclass
class Seen:
    text: str


UNSAVED = {
    "an object": ({"seen": [Seen("a")]}, r"\['seen'\]\[0\] is a Seen"),
    "a generator": ({"rng": np.random.default_rng(0)}, r"\['rng'\] is a Generator"),
    "a default": (defaultdict(int), "it is a defaultdict"),
    "a function": ({"score": len}, r"\['score'\] is a builtin_function_or_method"),
    "objects in an array": ({"a": np.array([None])}, "numpy array of dtype object"),
}


@pytest.mark.parametrize("kind", UNSAVED)
def test_a_memory_that_cannot_be_saved_without_code_is_refused_at_the_start(spec, kind):
    state, message = UNSAVED[kind]
    unsaved = type("Unsaved", (Counted,), {"state_dict": lambda self: state})
    with pytest.raises(RewardSpecError, match=message) as error:
        engine(spec(unsaved))
    assert str(error.value).startswith("reward 'r': its state_dict() cannot be saved: ")
    assert "Return what is made of None, bool, int" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_memory_that_fails_to_be_saved_is_refused_at_the_start(spec):
    failing = type("Failing", (Counted,), {"state_dict": lambda self: {"a": 1}["b"]})
    with pytest.raises(RewardSpecError, match=r"reward 'r': its state_dict\(\) raised KeyError\('b'\)"):
        engine(spec(failing))


def test_a_memory_comes_back_from_files_as_it_was(spec, tmp_path):
    kept = {
        "seen": {("a", 1), ("b", 2)},
        "recent": deque([(-1,), (3, 4)], maxlen=5),
        "counts": Counter({7: 2}),
        "means": np.array([0.1, math.nan]),
        "weights": torch.tensor([0.1, 0.2]).bfloat16(),
        "rng": np.random.default_rng(4).bit_generator.state,
        3: None,
    }
    built = engine(spec(type("Kept", (Counted,), {"state_dict": lambda self: kept})))
    states.write(built.state_dict(), tmp_path / "state")
    found = states.read(tmp_path / "state")["rewards"]["r"]
    assert {name: type(value) for name, value in found.items()} == {n: type(v) for n, v in kept.items()}
    for name in ("seen", "recent", "counts", "rng", 3):
        assert found[name] == kept[name]
    np.testing.assert_array_equal(found["means"], kept["means"])
    assert torch.equal(found["weights"], kept["weights"])
    assert found["recent"].maxlen == 5


def test_a_memory_that_learns_as_it_scores_sees_the_batch_in_its_order(spec):
    class Seen:
        def __init__(self):
            self.texts = []

        async def __call__(self, completion):
            await asyncio.sleep(0.02 if not self.texts else 0)  # the first takes longest
            self.texts.append(completion)
            return len(self.texts) / 10

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    built = engine(spec(Seen))
    assert not built.elsewhere  # groups that end early would come first
    assert built.score(PROMPTS, TEXTS, WEEKS, 4)[:, 0].tolist() == pytest.approx(
        [i / 10 for i in range(1, 9)]
    )
    with pytest.raises(RewardSpecError, match="per='tag' is called on the first tags of answers too"):
        engine(spec(type("Tags", (Seen,), {"__call__": lambda self, answers: []}), per="tag"))


# --- settings that exclude one another ---


def positional(completions, /):
    return [0.0] * len(completions)


async def awaited(completions):
    return [0.0] * len(completions)


@pytest.mark.parametrize(
    ("function", "fields", "message"),
    [
        (awaited, {"workers": 2}, "workers=2 of an async function, .* set concurrency"),
        (lengths, {"workers": 2, "concurrency": 3}, "workers=2 and concurrency=3; .* leave concurrency out"),
        (Counted, {"workers": 1}, "remembers samples .* leave them out"),
        (Counted, {"cache": True}, "remembers samples .* leave them out"),
        (Counted, {"concurrency": 2}, "remembers samples .* leave them out"),
        (awaited, {"per": "group", "batch_size": 2}, "batch_size=2 with per='group'.* leave it out"),
        (lambda completion: 0, {"per": "group"}, "one 'completion' a call; .* or use per='sample'"),
        (lambda completions, log_metric: 0, {"workers": 1}, "reads 'log_metric', .* use workers: 0"),
        (lambda completion, log_extra: 0, {"concurrency": 2}, "reads 'log_extra', .* leave it out"),
        (
            lambda completion, prompts: 0,
            {},
            r"names one sample and many \(completion, prompts\); read either",
        ),
        (positional, {}, "parameter 'completions' is positional-only, .* remove the '/'"),
    ],
)
def test_settings_that_exclude_one_another(spec, function, fields, message):
    with pytest.raises(RewardSpecError, match=f"reward 'r'.*{message}"):
        engine(spec(function, **fields), log_metric=None, log_extra=None)


@pytest.mark.parametrize("field", [{"timeout": 0}, {"retries": -1}, {"batch_size": 0}, {"max_missing": 2}])
def test_settings_out_of_bounds(field):
    with pytest.raises(ValidationError, match=next(iter(field))):
        RewardSpec(name="r", **field)
