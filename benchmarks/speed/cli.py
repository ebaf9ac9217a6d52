"""The command line: ``recrl bench speed``, also ``python -m recrl.benchmarks.speed.cli``."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from recrl.launch.faults import fail
from recrl.launch.signals import INTERRUPTED, Interruption

from .. import BenchmarkError
from ..options import MANY, List, split
from .cells import (
    KINDS,
    MODELS,
    ON_GPU,
    QUICK,
    QUICK_ROLLOUTS,
    ROLLOUTS,
    SAMPLERS,
    Cell,
    Settings,
    Sweep,
    plan,
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

QUICK_ROUNDS, QUICK_WARMUP = 2, 1
_WHICH = "Which cells"


@app.command()
def speed(
    output: Annotated[
        Path | None, typer.Option(help="Folder of results and report; runs/speed by default.")
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="cpu (fp32) or cuda (bf16).")] = "cpu",
    quick: Annotated[
        bool, typer.Option("--quick", help="One tiny cell, 2 rounds: a look and no result.")
    ] = False,
    rollouts: Annotated[
        bool, typer.Option("--rollouts", help="Engines that sample answers, instead of training steps.")
    ] = False,
    rounds: Annotated[int | None, typer.Option(min=1, help="Measured steps of each kind; 5.")] = None,
    warmup: Annotated[int | None, typer.Option(min=1, help="Steps before them; 2.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, prompts and sampling.")] = 0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of torch in each process; all cores by default.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the finished cells of the folder.")] = False,
    report_only: Annotated[bool, typer.Option("--report-only", help="Render what is there.")] = False,
    kinds: Annotated[
        List,
        typer.Option(
            rich_help_panel=_WHICH,
            help=f"Of {', '.join(KINDS)}; with --rollouts of {', '.join(SAMPLERS)} ({MANY}).",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(rich_help_panel=_WHICH, help=f"Of the sweep: {', '.join(MODELS)}.")
    ] = None,
    sizes: Annotated[
        List, typer.Option(rich_help_panel=_WHICH, help=f"Further models, in the middle cell ({MANY}).")
    ] = None,
    prompt_tokens: Annotated[
        List, typer.Option(rich_help_panel=_WHICH, help=f"Prompt lengths P; 200,600,1500 ({MANY}).")
    ] = None,
    group_sizes: Annotated[
        List, typer.Option(rich_help_panel=_WHICH, help=f"Answers a prompt, G; 4,8,16 ({MANY}).")
    ] = None,
    answer_tokens: Annotated[
        int | None, typer.Option(rich_help_panel=_WHICH, help="Longest answer, C; 64.")
    ] = None,
    groups: Annotated[int | None, typer.Option(rich_help_panel=_WHICH, help="Prompts a step; 2.")] = None,
) -> None:
    """What reading each prompt once saves, against stock TRL; with --rollouts, how fast each engine is."""
    folder = output or Path("runs") / f"{'rollouts' if rollouts else 'speed'}{'-quick' if quick else ''}"
    try:
        from .measure import RESULT

        if not report_only:
            if (folder / RESULT).exists() and not resume:
                raise BenchmarkError(
                    f"{folder} holds a result already; go on with --resume, or choose another --output"
                )
            sweep = _usual(quick, rollouts, device)
            changes: dict[str, Any] = {
                "model": model,
                "prompts": _numbers("--prompt-tokens", prompt_tokens),
                "group_sizes": _numbers("--group-sizes", group_sizes),
                "answer": answer_tokens,
                "groups": groups,
                "sizes": tuple(split(sizes)) if sizes is not None else None,
                "kinds": tuple(split(kinds)) if kinds is not None else None,
                "headline_kinds": () if kinds is not None else None,
            }
            chosen = replace(sweep, **{name: value for name, value in changes.items() if value is not None})
            usual = Settings(QUICK_ROUNDS, QUICK_WARMUP) if quick else Settings()
            settings = Settings(rounds or usual.rounds, warmup or usual.warmup, seed, device, threads)
            _execute(plan(chosen), settings, folder)
        from . import report

        path = report.write(folder)
    except BenchmarkError as error:
        fail(str(error), 2)
    except (KeyboardInterrupt, Interruption):
        fail("stopped; --resume goes on from the finished cells", INTERRUPTED)
    Console(soft_wrap=True).print(f"report: {path}", highlight=False)


def _usual(quick: bool, rollouts: bool, device: str) -> Sweep:
    if rollouts:
        return QUICK_ROLLOUTS if quick else ROLLOUTS
    return QUICK if quick else ON_GPU if device == "cuda" else Sweep()


def _execute(cells: list[Cell], settings: Settings, folder: Path) -> None:
    from transformers.utils.logging import disable_progress_bar

    from recrl.launch.run.progress import Display

    from . import measure

    disable_progress_bar()  # one display is enough

    total = sum(measure.steps_of(cell, settings) for cell in cells)
    with Display().stage("steps", total) as advance:

        def show(cell: Cell, kind: str, done: int) -> None:
            advance(done, f"{cell}: {kind}")

        measure.execute(cells, settings, folder, show)


def _numbers(option: str, values: list[str] | None) -> tuple[int, ...] | None:
    if values is None:
        return None
    try:
        return tuple(int(part) for part in split(values))
    except ValueError:
        raise BenchmarkError(f"{option}: {', '.join(values)}; give whole numbers") from None


if __name__ == "__main__":
    app()
