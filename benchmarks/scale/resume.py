"""Runs that are killed, or asked to stop, and go on: do they end as one that nobody touched?

Each trial is a process of ``recrl train`` that gets a signal somewhere, and one of ``--resume auto`` behind
it. The run is small and real: a warm start, multipliers that start from samples of it, sampled answers,
epochs of a few steps, a checkpoint after every second one, validations, averaged weights, an evaluation in
several batches.
"""

import json
import os
import signal
import statistics
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

from recrl.launch.children import end
from recrl.launch.signals import PREEMPTED

from .. import BenchmarkError
from . import logs

STEPS, STEPS_OF_AN_EPOCH, WARM_STEPS = 14, 6, 40
STAGES = ("warm start", "training", "evaluation", "anywhere")
_PROMPTS = 8
# Entries of a run's log that are no results.
_TIMES = ("time/", "reward_seconds/", "prefix/first_batch", "train_", "step_time")
_PATIENCE = 300.0  # seconds


@dataclass(frozen=True)
class Outcome:
    """Results with which a run ended.

    Attributes:
        weights: Weights of the policy.
        constraints: Multipliers, units, statistics.
        logged: Figures of each step but for times.
        losses: Losses of the warm start.
        validated: Lines of the validations but for times.
        evaluation: Tables of the evaluation.
        files: Files in the run folder, see :func:`_files`.
    """

    weights: Mapping[str, Tensor]
    constraints: Mapping[str, Any]
    logged: list[dict[str, Any]]
    losses: list[dict[str, Any]]
    validated: list[dict[str, Any]]
    evaluation: Mapping[str, Any]
    files: frozenset[str]

    def differences(self, other: "Outcome") -> list[str]:
        """Words for what is not the same bit for bit in another outcome."""
        found = [
            f"weights {name}"
            for name, value in self.weights.items()
            if name not in other.weights or not value.equal(other.weights[name])
        ]
        if self.constraints != other.constraints:
            found.append("multipliers")
        if self.losses != other.losses:
            found.append("losses of the warm start")
        if self.validated != other.validated:
            found.append("validations")
        if self.evaluation != other.evaluation:
            found.append("evaluation")
        found += [f"{name} is left or lacking" for name in sorted(self.files ^ other.files)]
        if len(self.logged) != len(other.logged):
            found.append(f"{len(other.logged)} logged steps, not {len(self.logged)}")
        for mine, theirs in zip(self.logged, other.logged, strict=False):
            names = [name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name)]
            if names:
                found.append(f"step {mine['step']}: {', '.join(sorted(names)[:3])}")
        return found


@dataclass(frozen=True)
class Trial:
    """Signal to a run, and its time.

    Attributes:
        stage: Stage of :data:`STAGES`.
        step: Number of its steps that have to be logged.
        delay: Seconds that have to pass after them.
        number: Signal: SIGKILL or SIGTERM.
    """

    stage: str
    step: int
    delay: float
    number: signal.Signals

    def __str__(self) -> str:
        place = {"anywhere": "the start", "evaluation": "the training"}.get(
            self.stage, f"step {self.step} of the {self.stage}"
        )
        return f"{self.number.name} {self.delay:.2f} s after {place}"

    def due(self, run: Path) -> bool:
        """Whether a run has reached the step."""
        if self.stage == "training":
            return len(_logged(run / "metrics.jsonl")) >= self.step
        if self.stage == "warm start":
            return len(_logged(run / "warm_start.jsonl")) >= self.step
        return self.stage == "anywhere" or (run / "policy").exists()


def trials(count: int, seed: int, seconds: Mapping[str, float]) -> list[Trial]:
    """Random trials, the stages in turns, half of them with each signal.

    Args:
        seconds: Longest delay of each stage.
    """
    draw = np.random.default_rng(seed)
    kinds = (signal.SIGKILL, signal.SIGTERM)
    steps = {"warm start": WARM_STEPS, "training": STEPS}
    found = []
    for i in range(count):
        stage = STAGES[i % len(STAGES)]
        step = int(draw.integers(1, steps.get(stage, 2)))
        found.append(Trial(stage, step, float(draw.uniform(0, seconds[stage])), kinds[i // len(STAGES) % 2]))
    return found


def longest_delays(run: Path, seconds: float) -> dict[str, float]:
    """Longest delay of each stage, from a run that nobody touched and the seconds that it took."""
    step = statistics.median(step_seconds(run))
    # The files of an evaluation are the last that a run writes.
    evaluating = (run / "report.md").stat().st_mtime - (run / "policy").stat().st_mtime
    return {
        "warm start": 2 * step,
        "training": 2 * step,
        "evaluation": max(evaluating, step),
        "anywhere": seconds,
    }


def prepare(folder: Path) -> Path:
    """Write the data and the configuration of the run."""
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
        "warm_start": {
            "steps": WARM_STEPS,
            "prompts_per_step": 4,
            "lists_per_prompt": 2,
            "save_every": 8,
        },
        "rewards": ["recall", "novelty", "duplicates"],
        "optimizer": {
            "objective": "recall",
            "constraints": ["novelty >= 0.3 (mean)"],
            "reference": {"prompts": 4, "answers": 4},
        },
        "train": {
            "steps": STEPS,
            "prompts_per_step": _PROMPTS,
            "group_size": 4,
            "save_every": 2,
            "learning_rate": 1e-3,
            "kl": 0.02,
            "average": 0.5,
        },
        "evaluation": {
            "max_episodes": 12,
            "answers_per_prompt": 1,
            "batch_size": 2,
            "every": 5,
            "validation_episodes": 4,
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "config.yaml"


def uninterrupted(config: Path) -> tuple[Outcome, float]:
    """Outcome of the run that nobody touches, and the seconds that it took."""
    run, started = config.parent / "whole", time.monotonic()
    _wait(_start(config, run), run)
    return outcome(run), time.monotonic() - started


def interrupted(config: Path, number: int, trial: Trial) -> Outcome:
    """Outcome of a run that gets a signal, and goes on.

    Raises:
        BenchmarkError: a process ended otherwise than it should.
    """
    run = config.parent / f"trial-{number}"
    process = _start(config, run)
    try:
        until = time.monotonic() + _PATIENCE
        while not trial.due(run) and process.poll() is None:
            if time.monotonic() > until:
                raise BenchmarkError(f"{run}: it did not come to {trial} in {_PATIENCE:g} s")
            time.sleep(0.02)
        time.sleep(trial.delay)
        if process.poll() is None:
            process.send_signal(trial.number)
        code = process.wait(_PATIENCE)
    finally:
        end(process)
    # A signal that comes when the run is over finds nothing to stop.
    fine = {-signal.SIGKILL, 0} if trial.number == signal.SIGKILL else {PREEMPTED, 0}
    if trial.stage == "anywhere" and not run.exists():
        fine.add(-signal.SIGTERM)  # Python itself had not started yet
    if code not in fine:
        raise BenchmarkError(f"{run}: ended with code {code} on {trial}; see {run.with_suffix('.log')}")
    if code:
        _wait(_start(config, run), run)
    return outcome(run)


def outcome(run: Path) -> Outcome:
    """Outcome of a finished run."""
    checkpoint = run / "checkpoints" / f"checkpoint-{STEPS}"
    return Outcome(
        load_file(run / "policy" / "model.safetensors"),
        json.loads((checkpoint / "constraints.json").read_text()),
        [
            {name: value for name, value in row.items() if not name.startswith(_TIMES)}
            for row in _logged(run / "metrics.jsonl")
        ],
        _logged(run / "warm_start.jsonl"),
        [
            {name: value for name, value in row.items() if name != "seconds"}
            for row in _logged(run / "validation.jsonl")
        ],
        json.loads((run / "evaluation.json").read_text()),
        _files(run),
    )


def _files(run: Path) -> frozenset[str]:
    """Files of a run, its checkpoints by their place: a run that was stopped between two of those that are
    due has one of that step."""
    places = {}
    numbers = sorted(int(path.name.rpartition("-")[2]) for path in (run / "checkpoints").glob("checkpoint-*"))
    for place, number in enumerate(reversed(numbers)):
        places[f"checkpoint-{number}"] = f"checkpoint, {place} before the last"
    found = set()
    for path in run.rglob("*"):
        parts = path.relative_to(run).parts
        if parts[:2] != ("checkpoints", "runs"):  # every start writes events of its own for TensorBoard
            found.add("/".join(places.get(part, part) for part in parts))
    return frozenset(found)


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


def _logged(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def step_seconds(run: Path) -> list[float]:
    """Seconds of each step of a run."""
    return [
        sum(value for name, value in row.items() if name.startswith("time/"))
        for row in _logged(run / "metrics.jsonl")
    ]
