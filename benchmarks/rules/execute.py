"""Runs of the cells, each in processes of its own; ``results.jsonl`` has one line for each that has ended.

``Bench``    a benchmark's folder: its settings, results, and the runs that are missing
``execute``  a whole plan: tuning, the values it chose, all that is reported

A run begins with the warm start of its seed, which is trained once. A bench that is stopped goes on with the
runs that have no line yet; those of recrl go on from their checkpoints.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from recrl.envs.storage.sealed import write
from recrl.launch.children import child
from recrl.launch.config import plain_yaml
from recrl.launch.config.reading import dump, validate
from recrl.launch.config.schema import ConfigError, RunConfig
from recrl.launch.run.folder import RunFolder, copy_warm_start
from recrl.rl.policy.folders import holds_policy

from .. import BenchmarkError
from ..speed.measure import machine
from .cells import ARMS, SECONDS, Cell, Job, Plan, Record

RESULTS, SETTINGS, BASE, PLAN = "results.jsonl", "settings.json", "base.yaml", "plan.json"
EPISODES = "episodes"
"""Folder with the values of every episode, a file for each run that is reported."""
_RUNS = "runs"
_PATIENCE = 120.0  # seconds until a process that was left behind has saved what it has

Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Task:
    """Commands of one run, one after the other.

    Attributes:
        name: What it is, for messages.
        log: File of all that they print.
        commands: Arguments of Python.
        prepare: Function that is called before the first command.
    """

    name: str
    log: Path
    commands: Sequence[Sequence[str]]
    prepare: Callable[[], None]


class Bench:
    """A benchmark's folder.

    Args:
        folder: The folder; it need not exist.
        base: Configuration that all runs share.
        jobs: Number of runs at once.
        threads: Threads of each.
        tell: Function that is told what happens, in lines.

    Raises:
        BenchmarkError: the folder holds the benchmark of another configuration.
    """

    def __init__(self, folder: Path, base: RunConfig, jobs: int, threads: int, tell: Tell) -> None:
        self.folder, self.base, self.jobs, self.threads, self.tell = folder, base, jobs, threads, tell
        tree = plain_yaml.read(dump(base)) | {"output": None}
        self._settings = {"config": tree, "constraints": _constraints(base), "recrl": version("recrl")}
        path = folder / SETTINGS
        if path.exists():
            known = json.loads(path.read_text())
            changed = [key for key in self._settings if known.get(key) != self._settings[key]]
            if changed:
                raise BenchmarkError(
                    f"{path} is of a benchmark with other settings ({', '.join(changed)}), and compared runs "
                    "have to agree in them; choose another --output, or remove the folder"
                )
        self.records: dict[Cell, Record] = {}
        self._took: dict[str, list[float]] = {}

    def open(self) -> None:
        """Write the settings and read the results, once nothing can be refused any more."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for record in read(self.folder):
            cell = Cell.from_record(record)
            self.records[cell] = record
            self._took.setdefault(cell.arm, []).append(record["seconds"]["whole"])
        # Without the half of a line that a kill may have left.
        write(self.folder / RESULTS, "".join(json.dumps(record) + "\n" for record in self.records.values()))
        write(self.folder / SETTINGS, json.dumps({**self._settings, "machine": machine("cpu")}, indent=1))
        write(self.folder / BASE, dump(self.base))

    def run(self, cells: Sequence[Cell], later: Sequence[Cell] = ()) -> None:
        """Do the runs that are missing.

        Args:
            later: Runs that follow these, for the estimate of the time left.

        Raises:
            BenchmarkError: a process failed; runs that have ended are kept.
        """
        missing = [cell for cell in dict.fromkeys(cells) if cell not in self.records]
        seeds = [seed for seed in dict.fromkeys(cell.seed for cell in missing) if not self._warmed(seed)]
        for _ in self._done([self._warm_start(seed) for seed in seeds]):
            pass
        tasks = {self._task(cell): cell for cell in missing}
        for task, seconds in self._done(list(tasks)):
            cell = tasks.pop(task)
            record = self._keep(cell, seconds)
            values = ", ".join(f"{mode} {means[0]:.3f}" for mode, means in record["means"].items())
            remaining = [*tasks.values(), *(one for one in later if one not in self.records)]
            self.tell(f"{cell}: {values}; {seconds:.0f} s; {self._estimate(remaining)}")

    def _done(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, float]]:
        """Run tasks, some at once; yield each that has ended with its seconds."""
        waiting, running = deque(tasks), list[_Running]()
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    running.append(_Running(waiting.popleft(), environment, self.tell))
                for one in [one for one in running if one.ended()]:
                    running.remove(one)
                    yield one.task, time.monotonic() - one.began
                time.sleep(0.05)
        finally:
            for one in running:
                one.close()

    def _run_folder(self, name: str) -> Path:
        return (self.folder / _RUNS / name).absolute()

    def _warmed(self, seed: int) -> bool:
        return holds_policy(self._run_folder(f"warm_seed-{seed}") / "warm")

    def _warm_start(self, seed: int) -> Task:
        """Task that trains the warm start of a seed: a run that is over after its first step."""
        folder = self._run_folder(f"warm_seed-{seed}")
        tree = plain_yaml.read(dump(Cell("sft", None, None, seed).config(self.base)))
        tree["train"]["steps"] = 1
        config = self._written(folder, tree)
        return Task(
            f"warm start, seed {seed}",
            _beside(folder, ".log"),
            [_train(config)],
            lambda: _wait_until_free(folder),
        )

    def _task(self, cell: Cell) -> Task:
        """Task of a run: its training, and its judgement."""
        arm, folder, warm = ARMS[cell.arm], self._run_folder(cell.name), f"warm_seed-{cell.seed}"
        commands: list[list[str]] = []
        config = self._written(folder, plain_yaml.read(dump(cell.config(self.base))))
        if arm.stock:
            commands.append(["-m", "recrl.benchmarks.rules.stock", str(config)])
        elif arm.rule is not None:
            commands.append(_train(config))
        policy = self._run_folder(warm) / "warm" if arm.rule is None else folder / "policy"
        if arm.stock and (folder / SECONDS).exists():
            commands = []  # it was trained to its end
        job = Job(str(self.folder / BASE), str(policy), cell.split, cell.seed, str(self._judged(cell)))
        path = _beside(folder, ".job.json")
        commands.append(["-m", "recrl.benchmarks.rules.answers", str(path)])

        def prepare() -> None:
            _wait_until_free(folder)
            job.save(path)
            if arm.rule is not None and not holds_policy(folder / "warm"):
                copy_warm_start(self._run_folder(warm), folder)

        return Task(str(cell), _beside(folder, ".log"), commands, prepare)

    def _written(self, folder: Path, tree: dict[str, Any]) -> Path:
        """Write the configuration of a run beside its folder."""
        tree = {**tree, "name": "rules", "output": str(folder)}
        path = _beside(folder, ".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, dump(validate(tree, str(path))))
        return path

    def _judged(self, cell: Cell) -> Path:
        return (self.folder / EPISODES / cell.name).absolute()

    def _keep(self, cell: Cell, seconds: float) -> Record:
        """Append the line of a run that has ended, and delete its checkpoints."""
        folder, judged = self._run_folder(cell.name), self._judged(cell)
        path = _beside(judged, ".json")
        found = json.loads(path.read_text())
        spent = {"training": _trained(cell, folder), "judging": found.pop("seconds"), "whole": seconds}
        record = {"cell": vars(cell), **found, "seconds": spent}
        record["machine"] = {"jobs": self.jobs, "threads": self.threads}
        with (self.folder / RESULTS).open("a") as stream:
            stream.write(json.dumps(record) + "\n")
        path.unlink()
        if cell.split != "test":  # tuning reads means
            _beside(judged, ".npz").unlink()
        for name in ("checkpoints", "warm"):
            shutil.rmtree(folder / name, ignore_errors=True)
        self.records[cell] = record
        self._took.setdefault(cell.arm, []).append(seconds)
        return record

    def _estimate(self, cells: Sequence[Cell]) -> str:
        """The time that runs will take, by those of the same kind."""
        every = [seconds for took in self._took.values() for seconds in took]
        mean = {arm: sum(took) / len(took) for arm, took in self._took.items()}
        total = sum(mean.get(cell.arm, sum(every) / len(every)) for cell in cells) / self.jobs
        return f"{len(cells)} left, about {total / 60:.0f} min" if cells else "none left"


def execute(bench: Bench, plan: Plan) -> None:
    """Do all runs of a plan, and keep it with the values that tuning chose.

    Raises:
        ConfigError: a rule refuses the configuration, or another process works in the folder.
        BenchmarkError: see :meth:`Bench.run`.
    """
    for cell in plan.all():
        cell.config(bench.base)  # what one of them refuses is said now, not after hours
    with RunFolder(bench.folder).locked():
        bench.open()
        tuning = plan.tuning()
        bench.run(tuning, [cell for cell in plan.all() if cell not in tuning])
        chosen = plan.choose(bench.records)
        write(bench.folder / PLAN, json.dumps({"plan": asdict(plan), "chosen": chosen}, indent=1))
        bench.run([*plan.reported(chosen), *plan.swept(chosen)])


def read(folder: Path) -> list[Record]:
    """Lines of the results; a last one that is not whole is left out.

    Raises:
        BenchmarkError: another line is damaged.
    """
    path = folder / RESULTS
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    try:
        return [json.loads(line) for line in lines if line.endswith("\n")]
    except ValueError as error:
        raise BenchmarkError(f"{path}: a line is damaged ({error}); remove that line") from error


class _Running:
    """A task under way."""

    def __init__(self, task: Task, environment: Mapping[str, str], tell: Tell) -> None:
        self.task, self.began = task, time.monotonic()
        self._environment, self._left = environment, deque(task.commands)
        self._ending = ExitStack()
        tell(f"{task.name}: started")
        task.prepare()
        self._next()

    def ended(self) -> bool:
        """Whether the last command has ended; the next begins where one has.

        Raises:
            BenchmarkError: a command failed.
        """
        code = self._process.poll()
        if code is None:
            return False
        self.close()
        if code:
            lines = self.task.log.read_text(errors="replace").splitlines()
            last = next((line for line in reversed(lines) if line.strip()), "")
            raise BenchmarkError(
                f"{self.task.name} ended with code {code}; the same command goes on. See {self.task.log}: "
                f"{last}"
            )
        if self._left:
            self._next()
            return False
        return True

    def close(self) -> None:
        """End its process, if it still runs."""
        self._ending.close()

    def _next(self) -> None:
        with self.task.log.open("ab") as log:
            self._process = self._ending.enter_context(
                child(
                    [sys.executable, *self._left.popleft()],
                    self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )


def _beside(path: Path, suffix: str) -> Path:
    """A path with a suffix behind its name, which may have dots of its own."""
    return path.with_name(path.name + suffix)


def _train(config: Path) -> list[str]:
    return ["-m", "recrl.launch.cli", "train", str(config), "--resume", "auto"]


def _constraints(base: RunConfig) -> list[dict[str, Any]]:
    """Constraints as the report reads them."""
    return [
        {
            "name": c.name,
            "reward": c.reward,
            "sign": c.sign,
            "bound": {"mean": c.bound, "rate": c.bound, "gate": 1.0}[c.kind],
        }
        for c in base.problem().constraints
    ]


def _wait_until_free(folder: Path) -> None:
    """Wait for a process of a bench that was killed, which saves what it has.

    Raises:
        BenchmarkError: it does not end.
    """
    until = time.monotonic() + _PATIENCE
    while folder.exists():
        try:
            with RunFolder(folder).locked():
                return
        except ConfigError as error:
            if time.monotonic() > until:
                raise BenchmarkError(str(error)) from error
        time.sleep(0.2)


def _trained(cell: Cell, folder: Path) -> float:
    """Seconds of the steps of a run."""
    arm = ARMS[cell.arm]
    if arm.rule is None:
        return 0.0
    if arm.stock:
        return float(json.loads((folder / SECONDS).read_text()))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return float(sum(value for row in rows for name, value in row.items() if name.startswith("time/")))
