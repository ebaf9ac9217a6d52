"""Command line of ``recrl bench simulator``, also ``python -m recrl.benchmarks.simulator.cli``."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from recrl.envs.storage.sealed import write
from recrl.launch.faults import fail

from ..options import MANY, List, split

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def simulator(
    output: Annotated[Path, typer.Option(help="Folder of report and figures.")] = Path("runs/simulator"),
    only: Annotated[
        List, typer.Option(help=f"Measurements ({MANY}); by default all that are missing.")
    ] = None,
    tests: Annotated[int, typer.Option(min=2, help="A/A tests.")] = 1000,
    shoppers: Annotated[int, typer.Option(min=100, help="Shoppers of each A/A test.")] = 400,
) -> None:
    """How real simulated shoppers are, and whether tests on them are calibrated; goes on where it stopped."""
    from recrl.envs.data.settings import DataConfig
    from recrl.envs.simulator import fitting
    from recrl.envs.tags.settings import TagsConfig
    from recrl.envs.tags.task import Tags

    from .measure import MEASUREMENTS, Setting
    from .report import report

    if unknown := sorted({*split(only)} - {*MEASUREMENTS}):
        fail(f"--only {unknown[0]}: unknown; use some of {', '.join(MEASUREMENTS)}", 2)
    output.mkdir(parents=True, exist_ok=True)
    wanted = split(only) or [name for name in MEASUREMENTS if not (output / f"{name}.json").exists()]
    task = Tags(TagsConfig(), DataConfig())
    given = Setting(task, fitting.fit(task.data), tests, shoppers)
    for name in wanted:
        begun = time.process_time()
        found = MEASUREMENTS[name](given)
        found = {"processor seconds": round(time.process_time() - begun, 1), "found": found}
        write(output / f"{name}.json", json.dumps(found, indent=1))
        typer.echo(f"{name}: {found['processor seconds']} processor seconds")
    write(output / "report.md", report(output))
    typer.echo(f"report: {output / 'report.md'}")


if __name__ == "__main__":
    app()
