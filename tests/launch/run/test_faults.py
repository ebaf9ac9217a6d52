"""Whatever ends one process of a run ends all of them, soon and with a reason."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import hosts
import psutil
import pytest
import yaml
from whole_runs import SMALL, finished, lines

from recrl.launch.children import end
from recrl.launch.signals import PREEMPTED

pytestmark = pytest.mark.slow

SOON = 20.0  # seconds

REWARDS = """
import os, pathlib, time
from recrl.rewards import reward

CALLS = []

@reward("fragile", range=(0.0, 1.0))
def fragile(answers):
    CALLS.append(1)
    if os.environ.get("RANK") == "1" and len(CALLS) == 3:
        pathlib.Path(os.environ["RAISED"]).write_text(str(time.time()))
        divide(answers)
    return [1.0 for _ in answers]

def divide(answers):
    return len(answers) / 0
"""


@pytest.fixture
def start(tmp_path, cache):
    """Starts ``recrl launch`` with two processes; its output goes to ``output.txt``."""
    started = []

    def launch(*arguments, **changes):
        config = {**SMALL, "output": str(tmp_path / "run"), "data": {"cache": str(cache)}, **changes}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "RAISED": str(tmp_path / "raised"),
        }
        command = [sys.executable, "-m", "recrl.launch.cli", "launch", str(tmp_path / "config.yaml")]
        with (tmp_path / "output.txt").open("a") as output:
            process = subprocess.Popen(
                [*command, "--strategy", "ddp", "--gpus", "2", *arguments],
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield launch
    for process in started:
        end_children(process)
        end(process)


def end_children(process):
    """Each of them leads a group of its own."""
    for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
        child.kill()


def wait_for_steps(process, run, steps):
    until = time.monotonic() + 300
    while not ((run / "metrics.jsonl").exists() and len(lines(run)) >= steps):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)


def ranks(process):
    """The training processes by rank."""
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        if "recrl.launch.train" in child.cmdline() and "RANK" in child.environ():
            found[int(child.environ()["RANK"])] = child
    return found


def test_a_reward_that_raises_on_rank_1_ends_both_with_its_traceback(start, tmp_path, panel_task):
    (tmp_path / "my_rewards.py").write_text(REWARDS)
    process = start(
        rewards=[*SMALL["rewards"], {"name": "fragile", "use": f"{tmp_path / 'my_rewards.py'}:fragile"}]
    )
    code = process.wait(400)
    ended = time.time()
    text = (tmp_path / "output.txt").read_text()
    assert code == 2, text[-3000:]
    assert ended - float((tmp_path / "raised").read_text()) < SOON
    assert text.count("ZeroDivisionError: division by zero") == 1
    for word in (
        'my_rewards.py", line',
        "in divide",
        "reward 'fragile' raised ZeroDivisionError",
        "Fix the function",
    ):
        assert word in text
    assert "engine.py" not in text.split("ZeroDivisionError: division by zero")[0].rpartition("Traceback")[2]


def test_a_lost_rank_ends_the_others(start, tmp_path, panel_task):
    run = tmp_path / "run"
    process = start("train.steps=500")
    wait_for_steps(process, run, 2)
    found = ranks(process)
    assert sorted(found) == [0, 1]
    found[1].send_signal(signal.SIGKILL)
    lost = time.monotonic()
    assert process.wait(60) not in (0, PREEMPTED)
    assert time.monotonic() - lost < SOON
    assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in found.values())


def test_a_rank_that_hangs_is_named_and_ends_the_others(start, tmp_path, panel_task):
    run = tmp_path / "run"
    process = start("train.steps=500", "train.heartbeat=8")
    wait_for_steps(process, run, 2)
    found = ranks(process)
    found[1].send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    assert process.wait(90) == 1
    assert time.monotonic() - stopped < 8 + SOON
    text = (tmp_path / "output.txt").read_text()
    assert f"rank 1 (process {found[1].pid} on " in text
    assert "gives no sign of life" in text
    assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in found.values())


def test_sigterm_leaves_a_checkpoint_of_all_ranks_and_another_number_of_them_goes_on(
    start, tmp_path, panel_task
):
    run = tmp_path / "run"
    process = start("train.steps=500", "train.save_every=200")
    wait_for_steps(process, run, 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == PREEMPTED, (tmp_path / "output.txt").read_text()[-3000:]
    (checkpoint,) = (run / "checkpoints").glob("checkpoint-*")
    stopped = int(checkpoint.name.rpartition("-")[2])
    assert {path.name for path in checkpoint.glob("trainer-rank*")} == {
        "trainer-rank0.json",
        "trainer-rank1.json",
    }

    # Two processes become one.
    finished("train", str(tmp_path / "config.yaml"), "--resume", "auto", f"train.steps={stopped + 2}")
    assert [row["step"] for row in lines(run)] == list(range(1, stopped + 3))


@pytest.mark.skipif(hosts.missing() is not None, reason=str(hosts.missing()))
def test_a_run_on_two_hosts_ends_when_one_of_them_is_lost(tmp_path, cache, panel_task):
    """ZeRO-3 by ``recrl launch`` on each host; the interface is found, since loopback would not do."""
    config = {**SMALL, "output": str(tmp_path / "run"), "data": {"cache": str(cache)}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    with hosts.two() as names, ExitStack() as stack:
        started = []
        for rank, name in enumerate(names):
            words = ["launch", str(tmp_path / "config.yaml"), "train.steps=500", "--strategy", "zero3"]
            words += ["--nodes", "2", "--gpus", "1", "--node-rank", str(rank)]
            words += ["--address", next(iter(names.values()))]
            log = stack.enter_context((tmp_path / f"{rank}.log").open("w"))
            process = subprocess.Popen(
                hosts.on(name, sys.executable, "-m", "recrl.launch.cli", *words),
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            stack.callback(end, process)
            stack.callback(end_children, process)
            started.append(process)
        first, second = started
        wait_for_steps(first, tmp_path / "run", 2)
        for child in psutil.Process(second.pid).children(recursive=True):
            child.kill()
        second.kill()
        lost = time.monotonic()
        assert first.wait(60) not in (0, PREEMPTED)
        assert time.monotonic() - lost < SOON, (tmp_path / "0.log").read_text()[-3000:]
