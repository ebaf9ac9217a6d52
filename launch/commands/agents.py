"""``recrl agents``: a look into a team."""

from typing import Annotated

import typer

from .finished import Run, Which, day

agents_app = typer.Typer(no_args_is_help=True, help="Look into a team of planner, experts and arbiter.")


@agents_app.callback()
def _options() -> None:
    """Look into a team of planner, experts and arbiter."""


@agents_app.command()
def trace(
    run: Run,
    user: Annotated[str, typer.Option(help="A user of the data.")],
    at: Annotated[
        str | None, typer.Option(metavar="DATE", help="Day, such as 2026-11-30; by default the data's end.")
    ] = None,
    which: Which = "trained",
) -> None:
    """Print and draw one user's way through the team of a finished run of task.use=expert."""
    from ..config.reading import load
    from ..run.finished import finished_policy

    when = day(at)
    finished_policy(run, which)
    settings = load(str(run / "config.yaml"), [f"output={run}"])
    from ..run.tracing import trace as traced

    traced(settings, user, when, which)
