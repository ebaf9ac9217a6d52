"""Command line of ``recrl bench offers``."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recrl.envs.data.prepared import prepare
from recrl.envs.data.settings import DataConfig

from . import report
from .measure import measure

CACHE = DataConfig().cache

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    output: Annotated[Path, typer.Option(help="Folder of the result and its report.")] = Path("runs/offers"),
    cache: Annotated[Path, typer.Option(help="Folder of the panel's tables.")] = CACHE,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    report_only: Annotated[bool, typer.Option("--report-only", help="Render what is there.")] = False,
) -> None:
    """The ranker behind offer_acceptance on later campaigns: ranking, calibration, baselines."""
    if not report_only:
        output.mkdir(parents=True, exist_ok=True)
        found = measure(prepare(DataConfig(cache=cache)), seed)
        (output / report.RESULT).write_text(json.dumps(found, indent=1))
    Console().print(f"report: {report.write(output)}")


if __name__ == "__main__":
    app()
