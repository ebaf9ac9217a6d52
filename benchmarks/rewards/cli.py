"""Command line of ``recrl bench rewards``."""

import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from . import report

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    output: Annotated[Path, typer.Option(help="Folder of the result and its report.")] = Path("runs/rewards"),
    rounds: Annotated[int, typer.Option(min=3, help="Calls that a median is of.")] = 50,
    steps: Annotated[int, typer.Option(min=4, help="Steps of the demo's training.")] = 12,
    warm_up: Annotated[int, typer.Option(min=1, help="Steps of its warm start; the demo has 900.")] = 200,
    report_only: Annotated[bool, typer.Option("--report-only", help="Render what is there.")] = False,
) -> None:
    """What rewards cost: the engine's own time, a slow judge, and the tag task's rewards in a step."""
    from recrl.launch.run.progress import Display

    from .measure import measure

    if not report_only:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="recrl-rewards-") as scratch:
            found = measure(rounds, steps, warm_up, Path(scratch), Display())
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
        (output / report.RESULT).write_text(json.dumps({"machine": machine, **found}, indent=1))
    Console().print(f"report: {report.write(output)}")


if __name__ == "__main__":
    app()
