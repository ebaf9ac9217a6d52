"""What works as a reward of TRL works unchanged: called in the same thread, with arguments of its own."""

import asyncio
import copy
import queue
import signal
import sqlite3
import sys
import threading
import time
import types

import numpy as np
import pytest

from recrl.rewards import RewardEngine, RewardError, RewardSpec, RewardSpecError

PROMPTS = [[{"role": "user", "content": "what next?"}]] * 4
TEXTS = ["milk\ntea", "tea", "bread\nmilk", "eggs"]
SAID = [[{"role": "assistant", "content": text}] for text in TEXTS]
COLUMNS = {"week": [1, 2, 3, 4], "target": [[1], [2], [3], [4]], "weights": [np.ones(2) for _ in TEXTS]}


@pytest.fixture
def engine(monkeypatch):
    module = types.ModuleType("test_here_rewards")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def make(*functions, **fields):
        for function in functions:
            setattr(module, function.__name__, function)
        specs = [
            RewardSpec(name=f.__name__, use=f"{module.__name__}:{f.__name__}", range=(0, 100), **fields)
            for f in functions
        ]
        return RewardEngine(specs, resources={}, columns=list(COLUMNS))

    return make


def score(engine):
    return engine.score(PROMPTS, copy.deepcopy(SAID), copy.deepcopy(COLUMNS), 2)


def lengths(completions):
    return [float(len(completion[0]["content"])) for completion in completions]


def alarmed(completions, **kwargs):
    def too_long(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(5)
    try:
        return lengths(completions)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def own_loop(completions, **kwargs):
    async def one(completion):
        await asyncio.sleep(0)
        return float(len(completion[0]["content"]))

    async def everything():
        return await asyncio.gather(*map(one, completions))

    return asyncio.get_event_loop().run_until_complete(everything())


def running_a_loop(completions, **kwargs):
    async def everything():
        return lengths(completions)

    return asyncio.run(everything())


connection = sqlite3.connect(":memory:")


def bound_to_a_thread(completions, **kwargs):
    return [connection.execute("select length(?)", (c[0]["content"],)).fetchone()[0] for c in completions]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("function", [alarmed, own_loop, running_a_loop, bound_to_a_thread])
def test_a_function_that_needs_the_trainers_thread_gives_the_scores_that_trl_would_log(engine, function):
    if function is own_loop:
        asyncio.set_event_loop(asyncio.new_event_loop())  # as a script's main thread has one
    expected = [[value] for value in function(prompts=PROMPTS, completions=copy.deepcopy(SAID), **COLUMNS)]
    assert score(engine(function)).tolist() == expected
    assert score(engine(function, thread="main", retries=1)).tolist() == expected


def test_the_trainers_thread_calls_rewards_in_the_order_of_their_list(engine):
    order = []

    def one(completions):
        order.append("one")
        return [1.0] * len(completions)

    def two(completions):
        order.append("two")
        return [2.0] * len(completions)

    assert score(engine(one, two, batch_size=2)).tolist() == [[1.0, 2.0]] * 4
    assert order == ["one", "one", "two", "two"]


def test_others_go_on_beside_the_trainers_thread(engine):
    met = threading.Barrier(2)

    def waits_here(completions):
        met.wait(10)
        return [0.0] * len(completions)

    def waits_there(completions):
        met.wait(10)
        return [1.0] * len(completions)

    here = engine(waits_here).rewards[0]
    assert not engine(waits_there, timeout=20).elsewhere, "asked in the batch's order, not early"
    there = RewardSpec(name="t", use="test_here_rewards:waits_there", range=(0, 1), timeout=20)
    both = RewardEngine([here, there], resources={}, columns=list(COLUMNS))
    assert score(both).tolist() == [[0.0, 1.0]] * 4


def test_a_thread_of_another_caller_serves_its_own_calls(engine):
    """Two threads that score with one engine at once."""

    def slow(completions):
        time.sleep(0.01)
        return [1.0] * len(completions)

    built, done = engine(slow, batch_size=1), queue.SimpleQueue()
    threads = [threading.Thread(target=lambda: done.put(score(built).tolist())) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert [done.get(timeout=30) for _ in threads] == [[[1.0]] * 4] * 3


def test_a_fault_ends_the_batch_and_the_next_one_is_scored(engine):
    broken = [True]

    def fails(completions):
        if broken[0]:
            raise KeyError("x")
        return [1.0] * len(completions)

    def late(completions):
        return [2.0] * len(completions)

    built = engine(fails, late)
    with pytest.raises(RewardError, match="reward 'fails' raised KeyError"):
        score(built)
    broken[0] = False
    assert score(built).tolist() == [[1.0, 2.0]] * 4


def test_ctrl_c_in_a_reward_reaches_the_caller(engine):
    def interrupted(completions):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(engine(interrupted))


@pytest.mark.parametrize("fields", [{"timeout": 3}, {"workers": 1}, {"concurrency": 2}])
def test_what_the_trainers_thread_cannot_give_is_refused_with_it(engine, fields):
    (setting,) = fields
    with pytest.raises(
        RewardSpecError, match=f"'lengths': thread=main and {setting}=.*leave one of them out"
    ):
        engine(lengths, thread="main", **fields)


def test_an_async_function_has_no_thread(engine):
    async def asks(completions):
        return [0.0] * len(completions)

    with pytest.raises(RewardSpecError, match="thread=main of an async function"):
        engine(asks, thread="main")


# --- arguments ---


def first_line(completions, target, weights, prompts):
    """A reward that cuts what it was given."""
    for c, bought, weight, prompt in zip(completions, target, weights, prompts, strict=True):
        c[-1]["content"] = c[-1]["content"].split("\n")[0]
        bought.clear()
        weight[:] = 0
        prompt.append({"role": "user", "content": "spoilt"})
    return lengths(completions)


def reads(completions, target, weights, prompts):
    return [
        len(c[0]["content"]) + 10 * len(bought) + weight.sum() + 50 * (len(prompt) - 1)
        for c, bought, weight, prompt in zip(completions, target, weights, prompts, strict=True)
    ]


@pytest.mark.parametrize("fields", [{}, {"thread": "own"}])
def test_each_reward_sees_the_answers_as_they_were_sampled(engine, fields):
    completions, columns = copy.deepcopy(SAID), copy.deepcopy(COLUMNS)
    scores = engine(first_line, reads, **fields).score(PROMPTS, completions, columns, 2)
    assert scores[:, 0].tolist() == [4, 3, 5, 4]
    assert scores[:, 1].tolist() == [len(text) + 12 for text in TEXTS]
    assert completions == SAID, "and so does the trainer"
    assert columns["target"] == COLUMNS["target"]
    assert [len(prompt) for prompt in PROMPTS] == [1] * 4


def test_a_memory_learns_what_was_sampled_and_may_change_it(engine):
    class Remembers:
        __name__ = "Remembers"

        def __init__(self):
            self.seen = []

        def __call__(self, completions):
            return [0.0] * len(completions)

        def update(self, completions):
            for completion in completions:
                self.seen.append(completion.pop()["content"])

        def state_dict(self):
            return {"seen": list(self.seen)}

        def load_state_dict(self, state):
            self.seen = state["seen"]

    built, completions = engine(Remembers), copy.deepcopy(SAID)
    built.learn(PROMPTS, completions, COLUMNS)
    assert built.state_dict()["rewards"]["Remembers"] == {"seen": TEXTS}
    assert completions == SAID
