"""Runs that are killed, or asked to stop, and go on: do they end as one that nobody touched?

Each trial is a process of ``recrl train`` that gets a signal somewhere, and one of ``--resume auto`` behind
it. The run is small and real: sampled answers, epochs of a few steps, a checkpoint after every second one.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.torch import load_file
from torch import Tensor

from recrl.launch.processes import PREEMPTED, end

from .. import BenchmarkError
from . import logs

STEPS, STEPS_OF_AN_EPOCH = 14, 6
_PROMPTS = 8
# Of a run's log, what is no result.
_TIMES = ("time/", "reward_seconds/", "prefix/first_batch", "train_", "step_time")
_PATIENCE = 300.0  # seconds


@dataclass(frozen=True)
class Outcome:
    """What a run ended with.

    Attributes:
        weights: Of the policy.
        constraints: Multipliers, units, statistics.
        logged: Of each step, its figures but for times.
    """

    weights: Mapping[str, Tensor]
    constraints: Mapping[str, Any]
    logged: list[dict[str, Any]]

    def differences(self, other: "Outcome") -> list[str]:
        """In words, where another one is not the same bit for bit."""
        found = [
            f"weights {name}"
            for name, value in self.weights.items()
            if name not in other.weights or not value.equal(other.weights[name])
        ]
        if self.constraints != other.constraints:
            found.append("multipliers")
        if len(self.logged) != len(other.logged):
            found.append(f"{len(other.logged)} logged steps, not {len(self.logged)}")
        for mine, theirs in zip(self.logged, other.logged, strict=False):
            names = [name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name)]
            if names:
                found.append(f"step {mine['step']}: {', '.join(sorted(names)[:3])}")
        return found


@dataclass(frozen=True)
class Trial:
    """When a run gets which signal.

    Attributes:
        step: When so many steps are logged...
        delay: ... and so many seconds have passed.
        number: SIGKILL or SIGTERM.
    """

    step: int
    delay: float
    number: signal.Signals

    def __str__(self) -> str:
        return f"{self.number.name} {self.delay:.2f} s after step {self.step}"


def trials(count: int, seed: int, step_seconds: float) -> list[Trial]:
    """Random ones, half of them of each signal."""
    draw = np.random.default_rng(seed)
    kinds = (signal.SIGKILL, signal.SIGTERM)
    return [
        Trial(int(draw.integers(1, STEPS)), float(draw.uniform(0, 2 * step_seconds)), kinds[i % 2])
        for i in range(count)
    ]


def prepare(folder: Path) -> Path:
    """Data and configuration of the run."""
    folder.mkdir(parents=True, exist_ok=True)
    logs.write(folder / "log.parquet", 60 * logs.EVENTS_OF_A_USER, tags=40)
    config = {
        "name": "resumed",
        "data": {
            "source": str(folder / "log.parquet"),
            "cache": str(folder / "cache"),
            # One origin: an epoch of the training users is a few steps.
            "protocol": {"min_tag_users": 2, "train_origins": [20]},
        },
        "policy": {"tiny": {"hidden": 32, "vocabulary": 400}},
        "task": {"slots": 4},
        "warm_start": {"steps": 2, "prompts_per_step": 4, "lists_per_prompt": 2},
        "rewards": ["recall", "novelty", "duplicates"],
        "optimizer": {"objective": "recall", "constraints": ["novelty >= 0.3 (mean)"]},
        "train": {
            "steps": STEPS,
            "prompts_per_step": _PROMPTS,
            "group_size": 4,
            "save_every": 2,
            "learning_rate": 1e-3,
        },
        "evaluation": {"max_episodes": 4, "answers_per_prompt": 1},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "config.yaml"


def uninterrupted(config: Path) -> Outcome:
    """The run that nobody touches."""
    run = config.parent / "whole"
    _wait(_start(config, run), run)
    return outcome(run)


def interrupted(config: Path, number: int, trial: Trial) -> Outcome:
    """A run that gets a signal, and goes on.

    Raises:
        BenchmarkError: a process ended otherwise than it should.
    """
    run = config.parent / f"trial-{number}"
    run.mkdir()
    shutil.copytree(config.parent / "whole" / "warm", run / "warm")  # the same for all
    shutil.copy(config.parent / "whole" / "catalog.json", run)
    process = _start(config, run)
    try:
        until = time.monotonic() + _PATIENCE
        while len(_logged(run)) < trial.step and process.poll() is None:
            if time.monotonic() > until:
                raise BenchmarkError(f"{run}: no step {trial.step} after {_PATIENCE:g} s")
            time.sleep(0.02)
        time.sleep(trial.delay)
        if process.poll() is None:
            process.send_signal(trial.number)
        code = process.wait(_PATIENCE)
    finally:
        end(process)
    # A signal that comes when the last step is over finds nothing to stop.
    fine = {-signal.SIGKILL, 0} if trial.number == signal.SIGKILL else {PREEMPTED, -signal.SIGTERM, 0}
    if code not in fine:
        raise BenchmarkError(f"{run}: ended with code {code} on {trial}; see {run.with_suffix('.log')}")
    if code:
        _wait(_start(config, run), run)
    return outcome(run)


def outcome(run: Path) -> Outcome:
    """Of a finished run."""
    checkpoint = run / "checkpoints" / f"checkpoint-{STEPS}"
    return Outcome(
        load_file(run / "policy" / "model.safetensors"),
        json.loads((checkpoint / "constraints.json").read_text()),
        [{name: value for name, value in row.items() if not name.startswith(_TIMES)} for row in _logged(run)],
    )


def _start(config: Path, run: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "recrl.launch.cli",
        "train",
        str(config),
        f"output={run}",
        "--resume",
        "auto",
    ]
    # Threads that share a sum in another order give another sum.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with run.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def _wait(process: subprocess.Popen[bytes], run: Path) -> None:
    try:
        code = process.wait(_PATIENCE)
    finally:
        end(process)
    if code:
        raise BenchmarkError(f"{run}: ended with code {code}; see {run.with_suffix('.log')}")


def _logged(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def step_seconds(run: Path) -> list[float]:
    """Of each step of a run."""
    return [sum(value for name, value in row.items() if name.startswith("time/")) for row in _logged(run)]
