"""A process that hangs is named by the others, which end."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from recrl.launch.run.heartbeats import Heartbeats

PATIENCE = 2.5

PROCESS = """
import sys, time
from pathlib import Path
from recrl.launch.run.heartbeats import Heartbeats

folder, rank, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
beats = Heartbeats(folder, rank, size, float(sys.argv[4]))
print("ready", flush=True)
sys.stdin.readline()  # all begin together, however long they took to import
beats.start()
if sys.argv[5] == "leaves":
    time.sleep(0.5)
    beats.close()
    time.sleep(60)
time.sleep(60)
"""


@pytest.fixture
def start(tmp_path):
    """Starts processes that only give signs of life."""
    started = []

    def process(rank, size, plan="lasts"):
        arguments = [str(tmp_path / "beats"), str(rank), str(size), str(PATIENCE), plan]
        found = subprocess.Popen(
            [sys.executable, "-c", PROCESS, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(found)
        return found

    def begin(*processes):
        for found in processes:
            assert found.stdout.readline() == "ready\n"
        for found in processes:
            found.stdin.write("\n")
            found.stdin.flush()
        return processes

    yield lambda *plans: begin(*(process(*plan) for plan in plans))
    for found in started:
        found.kill()
        found.communicate()


@pytest.mark.slow
def test_a_process_that_stands_still_is_named_and_ended(start):
    processes = start((0, 3), (1, 3), (2, 3))
    time.sleep(PATIENCE * 1.5)
    assert all(process.poll() is None for process in processes)  # signs are seen
    processes[1].send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    for rank in (0, 2):
        _, said = processes[rank].communicate(timeout=20)
        assert processes[rank].returncode == 1
        assert f"rank 1 (process {processes[1].pid} on " in said
        assert "train.heartbeat=2.5" in said
        assert said.count("\n") == 1
    assert time.monotonic() - stopped < 6 * PATIENCE
    assert processes[1].wait(5) == -signal.SIGKILL


@pytest.mark.slow
def test_a_process_that_came_to_its_end_is_not_missed(start):
    first, second = start((0, 2), (1, 2, "leaves"))
    time.sleep(1.2)
    second.kill()
    time.sleep(2 * PATIENCE)
    assert first.poll() is None


def test_a_process_that_never_began_is_named(start):
    (first,) = start((0, 2))
    _, said = first.communicate(timeout=20)
    assert "rank 1 (which never began, silent for" in said


@pytest.mark.slow
def test_one_that_stood_still_itself_first_looks_at_the_others(start):
    first, second = start((0, 2), (1, 2))
    time.sleep(0.5)
    # The whole machine stands still: both are stopped, and go on one after the other.
    for process in (first, second):
        process.send_signal(signal.SIGSTOP)
    time.sleep(2 * PATIENCE)
    first.send_signal(signal.SIGCONT)
    time.sleep(PATIENCE / 3)
    second.send_signal(signal.SIGCONT)
    time.sleep(2 * PATIENCE)
    assert first.poll() is None
    assert second.poll() is None


def test_others_wait_until_the_first_process_is_past_a_place(tmp_path):
    first, second = (Heartbeats(tmp_path, rank, 2, 60) for rank in (0, 1))
    first.start()
    second.start()
    try:
        first.reached("data")
        second.wait_for("data")
        assert json.loads((tmp_path / "0.json").read_text())["pid"] == os.getpid()
        first.wait_for("nowhere")  # itself it never waits for
    finally:
        first.close()
        second.close()


def test_one_process_alone_writes_nothing(tmp_path):
    beats = Heartbeats(tmp_path / "beats", 0, 1, 1)
    beats.start()
    beats.reached("data")
    beats.wait_for("data")
    beats.close()
    assert not (tmp_path / "beats").exists()
