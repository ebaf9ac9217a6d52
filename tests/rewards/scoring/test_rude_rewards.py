"""A reward may try to end or to stop the process that calls it: it is a fault of that reward like others."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import CancelledError

import numpy as np
import psutil
import pytest
from places import SUPPORT

from recrl.rewards import RewardEngine, RewardError, RewardSpec
from recrl.rewards.scoring import here

FILE = SUPPORT / "rude_rewards.py"


@pytest.fixture
def engine(monkeypatch):
    """Of one function of the test."""
    module = types.ModuleType("test_rude_rewards_functions")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def make(function, **fields):
        module.r = function
        spec = RewardSpec(name="r", use=f"{module.__name__}:r", **{"range": (0, 1), "timeout": 20, **fields})
        return RewardEngine([spec], resources={}, columns=[])

    return make


def score(built, *texts):
    return built.score(["p"] * len(texts), texts, {}, 1)[:, 0].tolist()


def stops():
    return next(iter([]))


def exits():
    sys.exit(3)


def interrupts():
    raise KeyboardInterrupt


def cancels():
    raise CancelledError


def cancels_itself():
    raise asyncio.CancelledError


def panics():
    """As extensions written in Rust do."""

    class PanicException(BaseException):
        pass

    raise PanicException("index out of bounds")


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize("rude", [stops, exits, interrupts, cancels, cancels_itself, panics])
def test_no_exception_ends_more_than_its_call(engine, rude, kind):
    def plain(completions):
        return [rude() if text == "rude" else 0.5 for text in completions]

    async def awaited(completions):
        return [rude() if text == "rude" else 0.5 for text in completions]

    function = {"plain": plain, "async": awaited}[kind]
    built = engine(function)
    started = time.monotonic()
    with pytest.raises(RewardError, match=r"'r' raised \w+ on samples 0\.\.1"):
        score(built, "rude", "fine")
    assert score(built, "fine", "fine") == [0.5, 0.5]
    built = engine(function, on_error="missing", batch_size=1)
    np.testing.assert_array_equal(score(built, "fine", "rude", "fine"), [0.5, np.nan, 0.5])
    assert built.failed == {"r": 1}
    assert time.monotonic() - started < 5


def test_an_async_function_that_waits_too_long_is_cancelled(engine):
    cancelled = threading.Event()

    async def waits(completions):
        try:
            await asyncio.sleep(20 if "long" in completions else 0)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return [0.5] * len(completions)

    built = engine(waits, timeout=0.2, on_error="missing", batch_size=1)
    started = time.monotonic()
    np.testing.assert_array_equal(score(built, "long", "short"), [np.nan, 0.5])
    assert time.monotonic() - started < 5
    assert cancelled.wait(5)


def test_an_async_function_that_blocks_the_event_loop_is_an_error(engine, monkeypatch):
    monkeypatch.setattr(here, "GRACE", 0.2)
    let_go = threading.Event()

    async def blocks(completions):
        if "block" in completions:
            let_go.wait(30)
        return [0.5] * len(completions)

    built = engine(blocks, timeout=0.2)
    started = time.monotonic()
    try:
        with pytest.raises(
            RewardError, match=r"async reward \(r\) blocked the event loop for longer than timeout=0\.2"
        ):
            score(built, "block")
        assert time.monotonic() - started < 10
    finally:
        let_go.set()
    assert score(built, "fine") == [0.5]


def test_a_worker_is_replaced_whatever_ended_it():
    spec = RewardSpec(name="r", use=f"{FILE}:rude", range=(0, 1), workers=1)
    built = RewardEngine([spec], resources={}, columns=[])

    def worker():
        return round(score(built, "fine")[0] * 1e7)

    first = worker()
    with pytest.raises(RewardError, match=r"raised RemoteError on samples 0\.\.0: TwoPartsError: no views"):
        score(built, "raise")
    with pytest.raises(RewardError, match=r"'r' raised \w+ on samples 0\.\.0: .*pickle"):
        score(built, "unpicklable")
    assert worker() == first
    with pytest.raises(RewardError, match=r"its process ended during the call, exit status -9"):
        score(built, "killed")
    second = worker()
    assert second != first
    # Between two batches, as the kernel does that runs out of memory.
    mine = [child for child in psutil.Process().children() if child.pid == second]
    mine[0].kill()
    mine[0].wait(5)
    third = worker()
    assert third != second
    with pytest.raises(RewardError, match=r"its process ended during the call, exit status 3"):
        score(built, "exit")
    built.close()


def test_what_a_worker_started_ends_with_it(tmp_path):
    spec = RewardSpec(name="r", use=f"{FILE}:starts_another", range=(0, 1), workers=1, timeout=1)
    built = RewardEngine([spec], resources={}, columns=[])
    with pytest.raises(RewardError, match="took longer than timeout=1 seconds"):
        score(built, str(tmp_path / "pid"))
    started = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 5
    while runs(started) and time.monotonic() < until:
        time.sleep(0.02)
    assert not runs(started)


def runs(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_fork_of_a_process_that_scored_can_score(tmp_path):
    script = tmp_path / "forks.py"
    script.write_text(
        "import os\n"
        "from recrl.rewards import RewardEngine, RewardSpec\n"
        f"spec = RewardSpec(name='r', use='{FILE}:rude', range=(0, 1), timeout=2)\n"
        "def score(): return RewardEngine([spec], resources={}, columns=[]).score(['p'], ['a'], {}, 1)\n"
        "score()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if score()[0, 0] > 0 else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(script)], env=environment, check=True, timeout=60)


def test_a_worker_that_stands_still_runs_out_of_time_whatever_it_is_sent():
    spec = RewardSpec(name="r", use=f"{FILE}:rude", range=(0, 1), workers=1, timeout=1, on_error="missing")
    built = RewardEngine([spec.model_copy(update={"max_missing": 1})], resources={}, columns=[])
    for text in ("short", "long" * 500_000):  # a long message waits until it is read
        worker = round(score(built, "fine")[0] * 1e7)
        os.kill(worker, signal.SIGSTOP)
        started = time.monotonic()
        assert np.isnan(score(built, text)[0])
        assert time.monotonic() - started < 5
        assert not psutil.pid_exists(worker)
    built.close()


def test_threads_that_others_wait_in_do_not_hold_a_worker_up(engine):
    """An async reward whose blocking client fills the event loop's own threads."""
    let_go = threading.Event()

    async def asks(completion):
        await asyncio.to_thread(let_go.wait, 30)
        return 0.5

    stuck = engine(asks, timeout=0.5, on_error="missing", max_missing=1, concurrency=64)
    spec = RewardSpec(name="w", use=f"{FILE}:rude", range=(0, 1), workers=1, timeout=20)
    built = RewardEngine([spec], resources={}, columns=[])
    try:
        assert np.isnan(score(stuck, *["a"] * 64)).all()
        started = time.monotonic()
        assert score(built, "fine")[0] > 0
        assert time.monotonic() - started < 15
    finally:
        let_go.set()
    built.close()
