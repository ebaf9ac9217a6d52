"""Tables of made-up logs: seconds and memory of building them, each in a process of its own.

Usage of the process: ``python -m recrl.benchmarks.scale.data LOG CACHE``.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recrl.envs.data.prepared import prepare
from recrl.envs.data.settings import DataConfig

from .. import BenchmarkError
from ..memory import memory
from . import logs

SIZES = (1_500_000, 15_000_000, 60_000_000)


def measure(
    sizes: Sequence[int], rounds: int, scratch: Path, on_step: Callable[[int, str], None]
) -> list[dict[str, Any]]:
    """Build the tables of a log of each size, ``rounds`` times in turns.

    Args:
        sizes: Numbers of rows.
        scratch: Folder with room for the largest log and its tables: some 60 bytes a row.
        on_step: Function that is told how many builds are done, and what is next.

    Returns:
        For each size ``events``, ``users``, ``episodes``, ``log_bytes``, and for each round ``seconds`` and
        ``peak`` (bytes).

    Raises:
        BenchmarkError: a process failed.
    """
    records: list[dict[str, Any]] = []
    for size in sizes:
        path = scratch / f"{size}.parquet"
        on_step(0, f"writing {size:,} events")
        users = logs.write(path, size)
        records.append(
            {"events": size, "users": users, "log_bytes": path.stat().st_size, "seconds": [], "peak": []}
        )
    done = 0
    for _ in range(rounds):
        for record in records:
            on_step(done, f"{record['events']:,} events")
            found = _in_a_process(scratch / f"{record['events']}.parquet", scratch / "cache")
            record["seconds"].append(found["seconds"])
            record["peak"].append(found["peak"])
            record["episodes"] = found["episodes"]
            shutil.rmtree(scratch / "cache")
            done += 1
    return records


def _in_a_process(log: Path, cache: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "recrl.benchmarks.scale.data", str(log), str(cache)]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        raise BenchmarkError(f"building the tables of {log} failed: {found.stderr[-2000:]}")
    return dict(json.loads(found.stdout.splitlines()[-1]))


def main() -> None:
    log, cache = map(Path, sys.argv[1:])
    started = time.perf_counter()
    task = prepare(DataConfig(source=str(log), cache=cache))
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - started,
                "peak": memory("VmHWM"),
                "episodes": task.table.height,
            }
        )
    )


if __name__ == "__main__":
    main()
