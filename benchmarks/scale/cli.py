"""Command line of ``recrl bench scale``."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from recrl.launch.faults import fail
from recrl.launch.signals import INTERRUPTED, Interruption

from .. import BenchmarkError
from ..options import MANY, List, split

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

PARTS = ("data", "training", "resume")
RESULT = "scale.json"


@app.command()
def main(
    output: Annotated[
        Path, typer.Option(help="Folder of results and report; what it holds of other parts stays.")
    ] = Path("runs/scale"),
    parts: Annotated[List, typer.Option(help=f"Of {', '.join(PARTS)}; all by default ({MANY}).")] = None,
    events: Annotated[List, typer.Option(help=f"Sizes of logs; 1500000,15000000,60000000 ({MANY}).")] = None,
    processes: Annotated[int, typer.Option(min=2, help="Processes that share a training step.")] = 2,
    model: Annotated[str, typer.Option(help="Policy of the training steps, see recrl bench speed.")] = "15M",
    strategies: Annotated[List, typer.Option(help=f"ddp,zero1,zero2,zero3 ({MANY}).")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Measured of each launch.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="Launches of each kind, and builds of each log.")] = 3,
    trials: Annotated[int, typer.Option(min=1, help="Runs that are killed.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the moments at which they are.")] = 0,
    report_only: Annotated[bool, typer.Option("--report-only", help="Render what is there.")] = False,
) -> None:
    """Large logs, several processes, and runs that are killed and go on."""
    from recrl.launch.run.progress import Display

    from . import report

    chosen = split(parts) or list(PARTS)
    try:
        for part in chosen:
            if part not in PARTS:
                raise BenchmarkError(f"--parts {part}: unknown; known: {', '.join(PARTS)}")
        sizes = [int(size) for size in split(events)] or None
        display = Display()
        if not report_only:
            for part in chosen:
                with tempfile.TemporaryDirectory(prefix="recrl-scale-") as scratch:
                    run: dict[str, Callable[[], Any]] = {
                        "data": lambda: _data(sizes, rounds, Path(scratch), display),
                        "training": lambda: _training(
                            processes, model, split(strategies), steps, rounds, Path(scratch), display
                        ),
                        "resume": lambda: _resume(trials, seed, Path(scratch), display),
                    }
                    _keep(output, part, run[part]())
        path = report.write(output)
    except ValueError as error:
        fail(str(error), 2)
    except (KeyboardInterrupt, Interruption):
        fail("stopped; parts that came to their end are kept", INTERRUPTED)
    Console(soft_wrap=True).print(f"report: {path}", highlight=False)


def _data(sizes: list[int] | None, rounds: int, scratch: Path, display: Any) -> list[dict[str, Any]]:
    from . import data

    chosen = sizes or list(data.SIZES)
    with display.stage("tables", len(chosen) * rounds) as advance:
        return data.measure(chosen, rounds, scratch, advance)


def _training(
    processes: int, model: str, strategies: list[str], steps: int, rounds: int, scratch: Path, display: Any
) -> list[dict[str, Any]]:
    from . import training

    kinds = training.kinds(processes, 2, strategies or ["ddp", "zero1", "zero2", "zero3"])
    with display.stage("training", len(kinds) * rounds) as advance:
        return training.measure(kinds, model, steps, rounds, scratch, advance)


def _resume(count: int, seed: int, scratch: Path, display: Any) -> dict[str, Any]:
    from . import resume

    config = resume.prepare(scratch)
    with display.stage("killed runs", count + 1) as advance:
        advance(0, "the uninterrupted run")
        whole, seconds = resume.uninterrupted(config)
        delays = resume.longest_delays(config.parent / "whole", seconds)
        found: list[dict[str, Any]] = []
        for number, trial in enumerate(resume.trials(count, seed, delays)):
            advance(1 + number, str(trial))
            apart = whole.differences(resume.interrupted(config, number, trial))
            found.append(
                {
                    "signal": trial.number.name,
                    "stage": trial.stage,
                    "when": str(trial),
                    "apart": apart,
                }
            )
    return {"steps": resume.STEPS, "epoch": resume.STEPS_OF_AN_EPOCH, "trials": found}


def _keep(folder: Path, part: str, found: Any) -> None:
    from ..speed.measure import machine

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RESULT
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**kept, part: {"machine": machine("cpu"), "found": found}}, indent=1))


if __name__ == "__main__":
    app()
