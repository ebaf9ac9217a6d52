"""Running the benchmark: problems x rules x seeds in worker processes, one JSON line a finished run.

``plan``       the runs to do; seeds are paired: every rule sees the same ones
``execute``    does what the results file lacks; an interrupted benchmark goes on where it stopped
``read``       the records of a results file
``frontiers``  the best objective that any policy has at each slack, for the report's plots

Only the parent process writes, one whole line at a time, so that a stop at any moment leaves a whole file.
"""

import itertools
import json
import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from recrl.rl.optimizer.problem import Problem
from recrl.rl.optimizer.rules import find_rule
from recrl.rl.optimizer.settings import Credit

from .. import BenchmarkError
from .oracles import find_oracle
from .problems import KnownProblem
from .tabular import train

Record: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[str, str, int, str, tuple[float, ...] | None]

RESULTS, FRONTIERS = "results.jsonl", "frontiers.json"
TRANSFORMER, FIXED = "T6", "fixed multipliers"
"""Problem that the real trainer runs, and the name in its records of multipliers that are not learned."""
# Significant digits of the curves: they are drawn, and make up most of the file.
_TRACE_DIGITS = 4
_FRONTIER_POINTS = 25
# A rate of 0 is no constraint, and `Constraint` refuses it.
_LEAST_SHARE = 1e-9


@dataclass(frozen=True)
class Run:
    """One training run."""

    problem: str
    rule: str
    seed: int
    credit: Credit = "sequence"
    multipliers: tuple[float, ...] | None = None
    """Multipliers that stay as they are; None: learned."""

    @property
    def key(self) -> Key:
        """Identity of the run and its record."""
        rule = self.rule if self.multipliers is None else FIXED
        return self.problem, rule, self.seed, self.credit, self.multipliers


def plan(problems: Mapping[str, KnownProblem], rules: Sequence[str], seeds: int) -> list[Run]:
    """Every rule on every table, seed by seed, so that a stopped benchmark is balanced; at last credit per
    tag where an action has tags."""
    for rule in rules:
        try:
            find_rule(rule)
        except ValueError as error:
            raise BenchmarkError(f"--rules: {error}") from error
    runs = [Run(name, rule, seed) for seed in range(seeds) for name in problems for rule in rules]
    parted = [name for name, known in problems.items() if known.running is not None and "lagrangian" in rules]
    return runs + [Run(name, "lagrangian", seed, "tag") for seed in range(seeds) for name in parted]


def plan_transformer(seeds: int) -> list[Run]:
    """Runs of T6: learned multipliers with both kinds of credit, and a grid of fixed ones, one seed each."""
    from .transformer import GRID

    grid = [Run(TRANSFORMER, "lagrangian", 0, multipliers=pair) for pair in itertools.product(GRID, repeat=2)]
    learned = [
        Run(TRANSFORMER, "lagrangian", seed, credit)
        for seed in range(seeds)
        for credit in ("sequence", "tag")
    ]
    return learned + grid


def execute(
    problems: Mapping[str, KnownProblem],
    runs: Sequence[Run],
    path: Path,
    *,
    workers: int = 1,
    on_run: Callable[[int, int, Record], None] = lambda done, total, record: None,
) -> list[Record]:
    """Do the runs that a results file lacks, and append their records to it.

    Args:
        problems: Problems by name; `TRANSFORMER` needs no entry.
        runs: Runs that the file is to hold in the end; it may hold more.
        path: Path of the results file.
        workers: Number of processes with one thread each; 1 stays in this process.
        on_run: Callback after each run with the numbers of finished and planned runs, and its record.

    Returns:
        Records of `runs`, in their order.

    Raises:
        BenchmarkError: the file holds one of the runs with another number of steps.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {key(record): record for record in read(path, repair=True)}
    for run in runs:
        known = problems.get(run.problem)
        if known and run.key in found and found[run.key]["steps"] != known.steps:
            raise BenchmarkError(
                f"{path} holds {run.problem!r} at {found[run.key]['steps']} steps, but this benchmark takes "
                f"{known.steps}; choose another --output, or remove the file"
            )
    missing = [run for run in runs if run.key not in found]
    done = len(runs) - len(missing)
    with path.open("a") as file:
        for outcome in _outcomes(problems, missing, workers):
            record = _compact(outcome)
            file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
            found[key(record)] = record
            done += 1
            on_run(done, len(runs), record)
    return [found[run.key] for run in runs]


def key(record: Mapping[str, Any]) -> Key:
    """The key of the run that a record is of."""
    multipliers = tuple(record["multipliers"].values()) if record["rule"] == FIXED else None
    return record["problem"], record["rule"], record["seed"], record.get("credit", "sequence"), multipliers


def read(path: Path, *, repair: bool = False) -> list[Record]:
    """Records of a results file; none if there is no such file.

    Args:
        path: Path of the results file.
        repair: Whether to cut off a last line that a killed process left unfinished.

    Raises:
        BenchmarkError: a line is no record.
    """
    if not path.exists():
        return []
    whole, newline, torn = path.read_bytes().rpartition(b"\n")
    if torn and repair:
        with path.open("r+b") as file:
            file.truncate(len(whole) + len(newline))
    records = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            record = json.loads(line)
            key(record)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise BenchmarkError(f"{path}, line {number} is not the record of a run; remove it") from error
        records.append(record)
    return records


def shortened(problems: Mapping[str, KnownProblem], share: float) -> dict[str, KnownProblem]:
    """The same problems with a share of their steps, for a quick look."""
    return {name: replace(p, steps=max(20, round(share * p.steps))) for name, p in problems.items()}


def frontiers(
    problems: Mapping[str, KnownProblem], records: Sequence[Record]
) -> dict[str, dict[str, list[float]]]:
    """J* with every bound tightened by the same slack: no policy lies above this line.

    Args:
        problems: Problems by name.
        records: Records, whose smallest slacks say how far the line goes.

    Returns:
        Lines ``slack`` and ``objective`` of equal length, by problem; they end where no policy is feasible.
    """
    lines = {}
    for name, known in problems.items():
        least = [min(r["slacks"].values()) for r in records if r["problem"] == name and r["slacks"]]
        if not least:
            continue
        reach = max(least) - min(least)
        slacks = np.linspace(min(0.0, *least), max(0.05 * reach, *least), _FRONTIER_POINTS)
        slacks = np.unique(np.append(slacks, 0.0))  # the corner at the bounds themselves
        points = [(float(s), best) for s in slacks if (best := _best_at(known, s)) is not None]
        lines[name] = {"slack": [s for s, _ in points], "objective": [best for _, best in points]}
    return lines


def rebound(problem: Problem, bounds: Sequence[float]) -> Problem | None:
    """The problem with other bounds, without margins; gates keep theirs.

    A bound that asks for less than the declared range allows is moved to its end, where it asks for nothing.

    Returns:
        The problem; None if no reward can reach a bound, or if the sides of a band contradict each other.
    """
    constraints = []
    for constraint, bound in zip(problem.constraints, bounds, strict=True):
        if constraint.kind == "gate":
            constraints.append(constraint)
            continue
        low, high = (_LEAST_SHARE, 1.0) if constraint.kind == "rate" else problem.ranges[constraint.reward]
        if (bound > high) if constraint.sign > 0 else (bound < low):
            return None
        bound = min(max(bound, low), high)
        constraints.append(replace(constraint, bound=bound, margin=0.0))
    try:
        return replace(problem, constraints=tuple(constraints))
    except ValueError:
        return None


def _best_at(known: KnownProblem, slack: float) -> float | None:
    """J* if every slack has to be at least `slack`; None when that cannot be."""
    bounds = [c.bound + c.sign * slack for c in known.problem.constraints]
    problem = rebound(known.problem, bounds)
    oracle = problem and find_oracle(problem, known.table, known.beta, known.reference)
    return float(oracle.objective) if oracle else None


def _outcomes(problems: Mapping[str, KnownProblem], runs: Sequence[Run], workers: int) -> Iterator[Record]:
    """Records as the runs finish."""
    if workers == 1 or len(runs) < 2:
        for run in runs:
            yield _train(problems, run)
        return
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        min(workers, len(runs)),
        multiprocessing.get_context("spawn"),  # torch's threads do not survive a fork
        initializer=_start_worker,
        initargs=(dict(problems),),
    )
    waiting: set[Future[Record]] = set()
    try:
        waiting = {pool.submit(_train_in_worker, run) for run in runs}
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    finally:
        pool.shutdown(wait=not waiting, cancel_futures=True)
        if waiting:  # after Ctrl-C or an error: the runs under way are worth less than the wait for them
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()


_problems: dict[str, KnownProblem] = {}


def _start_worker(problems: dict[str, KnownProblem]) -> None:
    # Ctrl-C reaches the whole process group; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    _problems.update(problems)


def _train_in_worker(run: Run) -> Record:
    return _train(_problems, run)


def _train(problems: Mapping[str, KnownProblem], run: Run) -> Record:
    if run.problem != TRANSFORMER:
        return train(problems[run.problem], run.rule, run.seed, run.credit)
    from . import transformer

    return transformer.train(run.rule, run.seed, multipliers=run.multipliers, credit=run.credit)


def _compact(record: Record) -> Record:
    """Record for JSON: an open end of an interval becomes null, curves are rounded."""

    def walk(node: Any, digits: int) -> Any:
        if isinstance(node, dict):
            return {
                name: walk(child, _TRACE_DIGITS if name == "trace" else digits)
                for name, child in node.items()
            }
        if isinstance(node, list):
            return [walk(child, digits) for child in node]
        if isinstance(node, float):
            return float(f"{node:.{digits}g}") if math.isfinite(node) else None
        return node

    return walk(record, 17)
