"""Command line of ``recrl bench paper``, also ``python -m recrl.benchmarks.paper.cli``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recrl.launch.config.schema import ConfigError
from recrl.launch.faults import fail
from recrl.launch.signals import INTERRUPTED, Interruption

from .. import BenchmarkError
from ..options import MANY, List, split
from .plan import COMMITTED, read

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def paper(
    output: Annotated[Path, typer.Option(help="Folder of stages and report.")] = Path("runs/paper"),
    plan: Annotated[Path, typer.Option(help="File of stages and their commands.")] = COMMITTED,
    only: Annotated[List, typer.Option(help=f"Stages that are done; all by default ({MANY}).")] = None,
    taken: Annotated[
        List, typer.Option("--from", help=f"STAGE=FOLDER: results that take a stage's place ({MANY}).")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Stages at once; they share the cores.")] = 1,
    report_only: Annotated[bool, typer.Option("--report-only", help="Render what is there.")] = False,
) -> None:
    """The tables of RecGPT-V2 on this machine: which of its orders of methods hold.

    A bench that was stopped goes on with the stages that have not ended.
    """
    from . import report
    from .execute import execute, take

    console = Console(soft_wrap=True)

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    try:
        stages = read(plan)
        places = _taken(split(taken), list(stages))
        wanted = split(only) or list(stages)
        if unknown := [name for name in wanted if name not in stages]:
            raise BenchmarkError(f"--only {unknown[0]}: unknown; known: {', '.join(stages)}")
        for name, folder in places.items():
            take(output, name, folder)
        if not report_only:
            execute(output, stages, wanted, jobs, tell)
        path = report.write(output, stages)
    except (BenchmarkError, ConfigError) as error:
        fail(" ".join(str(error).split()), 2)
    except (KeyboardInterrupt, Interruption):
        fail("stopped; the same command goes on with the stages that have not ended", INTERRUPTED)
    tell(f"report: {path}")


def _taken(given: list[str], known: list[str]) -> dict[str, Path]:
    """Folders of ``--from``, by stage."""
    found = {}
    for one in given:
        name, equals, folder = one.partition("=")
        if not equals or name not in known:
            raise BenchmarkError(f"--from {one}: write STAGE=FOLDER; stages: {', '.join(known)}")
        found[name] = Path(folder)
    return found


if __name__ == "__main__":
    app()
