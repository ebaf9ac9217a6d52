"""Command line of ``recrl bench agents``, also ``python -m recrl.benchmarks.agents.cli``."""

import itertools
import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recrl.envs.data.settings import DataConfig
from recrl.envs.storage.sealed import write
from recrl.launch.faults import fail

from .. import BenchmarkError

CACHE = DataConfig().cache

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def agents(
    output: Annotated[Path, typer.Option(help="Folder of figures and report.")] = Path("runs/bench-agents"),
    cache: Annotated[Path, typer.Option(help="Folder of the panel's tables.")] = CACHE,
    households: Annotated[
        int | None, typer.Option(min=10, help="Unseen episodes of each track, evenly spread; all by default.")
    ] = None,
    read: Annotated[int, typer.Option(min=1, help="Households whose reading is measured.")] = 6,
    expert: Annotated[
        list[Path] | None, typer.Option(help="Run of a trained expert, such as runs/agents; once for each.")
    ] = None,
    report_only: Annotated[bool, typer.Option("--report-only", help="Render what is there.")] = False,
) -> None:
    """A team of planner, experts and arbiter against flat routes and one list, at equal budgets.

    A bench that was stopped goes on with the cells that are missing.
    """
    from . import report

    console = Console(soft_wrap=True)
    try:
        if not report_only:
            _measure(output, cache, households, read, expert or [], console)
        path = report.write(output)
    except BenchmarkError as error:
        fail(str(error), 2)
    console.print(f"report: {path}", markup=False, highlight=False)


def _measure(
    output: Path, cache: Path, households: int | None, read: int, experts: list[Path], console: Console
) -> None:
    from .arms import Track
    from .measure import CELLS, EXPERTS, measure, track_of
    from .trained import check, compared, policies

    check(experts)
    asked = {"households": households, "read": read}
    output.mkdir(parents=True, exist_ok=True)
    settings = output / "settings.json"
    if settings.exists() and json.loads(settings.read_text()) != asked:
        raise BenchmarkError(
            f"{settings} is of a benchmark with other settings ({settings.read_text().strip()}); choose "
            "another --output, or remove the folder"
        )
    write(settings, json.dumps(asked))
    if experts and not (output / f"{EXPERTS}.json").exists():
        write(
            output / f"{EXPERTS}.json", json.dumps(compared(*policies(experts, cache), households), indent=1)
        )
    missing = [cell for cell in CELLS if not (output / f"{cell}.json").exists()]
    for name, cells in itertools.groupby(missing, track_of):
        track = Track.load(name, cache, households)
        for cell in cells:
            begun = time.monotonic()
            write(output / f"{cell}.json", json.dumps(measure(cell, track, read), indent=1))
            left = len(missing) - missing.index(cell) - 1
            told = f"{cell}: {time.monotonic() - begun:.0f} s; {left} left"
            console.print(told, markup=False, highlight=False)


if __name__ == "__main__":
    app()
