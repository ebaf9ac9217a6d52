"""Stages in processes of their own. ``STAGE.json`` beside a stage's folder says what it did and what it took.

``Record``   that file: commands, which of them have ended, seconds, load; or where a stage was taken from
``execute``  the stages that have not ended, some at once; after a kill each goes on with its last command
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import psutil

from recrl.envs.storage.sealed import write
from recrl.launch.children import child
from recrl.launch.run.folder import RunFolder

from .. import BenchmarkError
from .plan import Stage

Tell = Callable[[str], None]

_GRACE = 120.0  # seconds in which a stage that is stopped saves what it has
_NOTED = 5.0  # seconds between two notes of what a stage has taken


@dataclass(frozen=True)
class Record:
    """What a stage did.

    Attributes:
        commands: Its commands, as the plan has them.
        ended: Number of those that have ended.
        taken: Folder that the stage was taken from, in place of all else.
        seconds, processor: Seconds of the clock and of processors, over all attempts.
        attempts: Number of times that it was started.
        load: Mean load of the machine meanwhile, this stage's own included; None before the first note.
        process: Process that works on it, and when that was started.
    """

    commands: Sequence[str] = ()
    ended: int = 0
    taken: str | None = None
    seconds: float = 0.0
    processor: float = 0.0
    attempts: int = 0
    load: float | None = None
    process: tuple[int, float] | None = None

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The record of a file; None if there is none."""
        return cls(**json.loads(path.read_text())) if path.is_file() else None

    @property
    def done(self) -> bool:
        """Whether the stage's results are there."""
        return self.taken is not None or (self.attempts > 0 and self.ended == len(self.commands))


def record_of(output: Path, name: str) -> Record | None:
    """The record of a stage; None where it was never begun."""
    return Record.read(output / f"{name}.json")


def folder_of(output: Path, name: str) -> Path:
    """Folder of a stage's results: where it was taken from, or its own."""
    record = record_of(output, name)
    return output / name if record is None or record.taken is None else Path(record.taken)


def take(output: Path, name: str, folder: Path) -> None:
    """Use a folder of results as a stage that has ended.

    Raises:
        BenchmarkError: there is no such folder.
    """
    if not folder.is_dir():
        raise BenchmarkError(f"--from {name}={folder}: there is no such folder")
    output.mkdir(parents=True, exist_ok=True)
    write(output / f"{name}.json", json.dumps(asdict(Record(taken=str(folder))), indent=1))


def execute(output: Path, stages: Mapping[str, Stage], wanted: Sequence[str], jobs: int, tell: Tell) -> None:
    """Do the stages that have not ended.

    Args:
        output: Folder of all stages.
        stages: All stages by name; those in ``wanted`` are done.
        jobs: Number of stages at once; they share the cores.
        tell: Function that is told what happens, in lines.

    Raises:
        BenchmarkError: a stage has other commands than before, needs one that is not there, or failed.
        ConfigError: another process works in the folder.
    """
    done = {name for name in stages if (record := record_of(output, name)) is not None and record.done}
    waiting = [stages[name] for name in wanted if name not in done]
    for stage in waiting:
        _same(output, stage)
        if missing := stage.needs - done - set(wanted):
            raise BenchmarkError(
                f"stage {stage.name} needs {', '.join(sorted(missing))}; name it in --only too, or take it "
                "--from a folder"
            )
    for name in wanted:
        if name in done:
            tell(f"{name}: there")
    output.mkdir(parents=True, exist_ok=True)
    # As they are named: what stages write of them shall hold elsewhere too.
    folders = {name: folder_of(output, name) for name in stages}
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    running: list[_Running] = []
    try:
        with RunFolder(output).locked():
            while waiting or running:
                free = [stage for stage in waiting if stage.needs <= done][: jobs - len(running)]
                for stage in free:
                    waiting.remove(stage)
                    running.append(_Running(output, stage, folders, environment, tell))
                for one in [one for one in running if one.ended()]:
                    running.remove(one)
                    done.add(one.stage.name)
                    left = len(waiting) + len(running)
                    tell(f"{one.stage.name}: done, {one.record.seconds / 60:.1f} min; {left} left")
                time.sleep(0.1)
    finally:
        for one in running:
            one.close()


def _same(output: Path, stage: Stage) -> None:
    record = record_of(output, stage.name)
    if record is not None and list(record.commands) != list(stage.commands):
        raise BenchmarkError(
            f"{output / stage.name}.json is of other commands than --plan has; choose another --output, or "
            "remove that file and the folder beside it"
        )


class _Running:
    """A stage under way."""

    def __init__(
        self,
        output: Path,
        stage: Stage,
        folders: Mapping[str, Path],
        environment: Mapping[str, str],
        tell: Tell,
    ) -> None:
        self.stage, self._folders, self._environment, self._tell = stage, folders, environment, tell
        self._path, self._log = output / f"{stage.name}.json", output / f"{stage.name}.log"
        before = Record.read(self._path) or Record(commands=stage.commands)
        _wait_for(before)
        self.record = replace(before, attempts=before.attempts + 1)
        (output / stage.name).mkdir(exist_ok=True)
        self._ending = ExitStack()
        self._shown = self._log.stat().st_size if self._log.exists() else 0
        self._start()

    def ended(self) -> bool:
        """Whether the last command has ended; the next begins where one has.

        Raises:
            BenchmarkError: a command failed.
        """
        code = self._process.poll()
        self._follow()
        if code is None:
            if time.monotonic() - self._noted > _NOTED:
                self._note()
            return False
        self._note()
        self.close()
        if code:
            raise BenchmarkError(
                f"stage {self.stage.name} ended with code {code}; the same command goes on; see {self._log}"
            )
        self.record = replace(self.record, ended=self.record.ended + 1, process=None)
        self._write()
        if self.record.done:
            return True
        self._start()
        return False

    def close(self) -> None:
        """End its process, if it still runs."""
        self._ending.close()

    def _start(self) -> None:
        number = self.record.ended
        self._tell(
            f"{self.stage.name}, {number + 1} of {len(self.stage.commands)}: {self.stage.commands[number]}"
        )
        arguments = [sys.executable, *self.stage.arguments(number, self._folders)]
        with self._log.open("ab") as log:
            self._process = self._ending.enter_context(
                child(arguments, self._environment, _GRACE, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )
        self._watched = psutil.Process(self._process.pid)
        self._begun, self._before, self._loads = time.monotonic(), self.record, list[float]()
        self.record = replace(self.record, process=(self._process.pid, self._watched.create_time()))
        self._note()

    def _note(self) -> None:
        """Write what the stage has taken so far."""
        self._noted = time.monotonic()
        seconds, before = self._noted - self._begun, self._before
        self._loads.append(os.getloadavg()[0])
        here = sum(self._loads) / len(self._loads)
        whole = before.seconds + seconds
        load = (
            here
            if before.load is None
            else (before.load * before.seconds + here * seconds) / max(whole, 1e-9)
        )
        spent = _processor(self._watched)
        self.record = replace(
            self.record,
            seconds=whole,
            load=load,
            # A process that has just ended tells nothing any more.
            processor=max(self.record.processor, before.processor + spent),
        )
        self._write()

    def _write(self) -> None:
        write(self._path, json.dumps(asdict(self.record), indent=1))

    def _follow(self) -> None:
        """Tell the lines that its log has got."""
        with self._log.open("rb") as log:
            log.seek(self._shown)
            new = log.read()
        whole, _, _ = new.rpartition(b"\n")
        if whole:
            self._shown += len(whole) + 1
            for line in whole.decode(errors="replace").splitlines():
                self._tell(f"{self.stage.name} | {line}")


def _processor(process: psutil.Process) -> float:
    """Processor seconds of a process and of all that it started; 0 once it is gone."""
    total = 0.0
    try:
        for one in (process, *process.children(recursive=True)):
            times = one.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    except psutil.Error:
        return total
    return total


def _wait_for(record: Record) -> None:
    """Wait for the process of a bench that was killed, which saves what it has.

    Raises:
        BenchmarkError: it does not end.
    """
    if record.process is None:
        return
    pid, created = record.process
    try:
        process = psutil.Process(pid)
        if process.create_time() == created:
            process.wait(_GRACE)
    except psutil.NoSuchProcess:
        return
    except psutil.TimeoutExpired as error:
        raise BenchmarkError(
            f"process {pid} of an earlier start still works on the stage; end it first"
        ) from error
