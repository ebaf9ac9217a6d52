"""Figures of the engine's own time, a judge that takes its time, and the tag task's rewards in a step."""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recrl.launch.config.reading import load
from recrl.launch.run.progress import Display
from recrl.launch.run.setup import Setup, prepare_setup
from recrl.rewards import RewardEngine, RewardSpec, reward

SAMPLES = 1000
JUDGED, LATENCY, CONCURRENCY = 64, 0.2, 16
GROUP = 8


@reward("trivial", range=(0, 1))
def trivial(completions: Sequence[Any]) -> list[float]:
    """A number a sample, and nothing else."""
    return [0.5] * len(completions)


@reward("slow_judge", range=(0, 1))
async def slow_judge(completions: Sequence[Any]) -> list[float]:
    """A judge that answers after a while, as a model behind an interface does."""
    await asyncio.sleep(LATENCY)
    return [0.5] * len(completions)


def measure(rounds: int, steps: int, warm_up: int, scratch: Path, display: Display) -> dict[str, Any]:
    """All figures; ``recrl.benchmarks.rewards.report`` renders them."""
    with display.stage("engine and judge", 2) as advance:
        engine = _engine(rounds)
        advance(1)
        judge = _judge(max(3, rounds // 10))
        advance(2)
    setup = prepare_setup(load("demo"), display)
    return {
        "rounds": rounds,
        "engine": engine,
        "judge": judge,
        "shipped": _shipped(setup, rounds, display),
        "step": _step(steps, warm_up, scratch, display),
    }


def _seconds(call: Callable[[], Any], rounds: int) -> list[float]:
    call()  # threads start, embeddings are looked at
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return found


def _summary(seconds: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(seconds), "low": min(seconds), "high": max(seconds)}


def _engine(rounds: int) -> dict[str, Any]:
    """A trivial reward by itself and through the engine, by turns."""
    built = RewardEngine(["trivial"], resources={}, columns=[])
    texts = [f"text {i}" for i in range(SAMPLES)]
    through = _seconds(lambda: built.score(texts, texts, {}, GROUP), rounds)
    alone = _seconds(lambda: np.asarray(trivial(texts), dtype=np.float32), rounds)
    built.close()
    return {"samples": SAMPLES, "engine": _summary(through), "function alone": _summary(alone)}


def _judge(rounds: int) -> dict[str, Any]:
    spec = RewardSpec(name="slow_judge", batch_size=1, concurrency=CONCURRENCY)
    built = RewardEngine([spec], resources={}, columns=[])
    texts = [f"text {i}" for i in range(JUDGED)]
    found = _seconds(lambda: built.score(texts, texts, {}, GROUP), rounds)
    least = LATENCY * -(-JUDGED // CONCURRENCY)
    return {
        "samples": JUDGED,
        "latency": LATENCY,
        "concurrency": CONCURRENCY,
        "least": least,
        **_summary(found),
    }


def _shipped(setup: Setup, rounds: int, display: Display) -> dict[str, dict[str, float]]:
    """Every reward of the demo on lists for real episodes."""
    found = {}
    rows = setup.task.rows("train", SAMPLES // GROUP)
    texts = setup.task.drafts(rows, GROUP, seed=0)
    columns = {
        name: [row[name] for row in rows for _ in range(GROUP)] for name in rows[0] if name != "prompt"
    }
    prompts = [row["prompt"] for row in rows for _ in range(GROUP)]
    specs: list[RewardSpec | str] = [*setup.config.rewards]
    with display.stage("rewards of the demo", len(specs) + 1) as advance:
        for done, part in enumerate([specs, *([spec] for spec in specs)], start=1):
            built = RewardEngine(part, resources=setup.engine.resources, columns=list(columns))
            seconds = _seconds(partial(built.score, prompts, texts, columns, GROUP), max(3, rounds // 4))
            found["all" if part is specs else built.names[0]] = _summary(seconds)
            built.close()
            advance(done)
    return found


def _step(steps: int, warm_up: int, scratch: Path, display: Display) -> dict[str, Any]:
    """A few steps of the demo's own training, in a process of its own, as a user starts it."""
    run = scratch / "run"
    command = [sys.executable, "-m", "recrl.launch.cli", "train", "demo", f"output={run}"]
    options = [f"warm_start.steps={warm_up}", f"train.steps={steps}", "evaluation.max_episodes=4"]
    with display.stage("steps of the demo", 1) as advance:
        subprocess.run([*command, *options], check=True, capture_output=True)
        advance(1)
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][2:]
    shares = [line["time/rewards"] / line["step_time"] for line in log]
    return {
        "steps": len(log),
        "warm_up": warm_up,
        "samples": 32 * 8,
        "rewards": _summary([line["time/rewards"] for line in log]),
        "step": _summary([line["step_time"] for line in log]),
        "share": _summary(shares),
    }
