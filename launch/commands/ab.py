"""``recrl ab``: which of two answerers does better in a simulated shop, and under which assumptions."""

from pathlib import Path
from typing import Annotated

import typer

from .finished import Which
from .options import Overrides

_Party = Annotated[
    str, typer.Argument(help="Folder of a finished run, or a baseline: popularity, quota, ...")
]


def ab(
    a: _Party,
    b: _Party,
    overrides: Overrides = None,
    config: Annotated[str, typer.Option(help="Configuration of the task, where neither is a run.")] = "demo",
    output: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("runs/ab"),
    origin: Annotated[
        int | None, typer.Option(help="First week; by default the first one of the test split.")
    ] = None,
    shoppers: Annotated[int | None, typer.Option(min=20, help="Largest number, drawn at random.")] = None,
    weeks: Annotated[int, typer.Option(min=1, max=52, help="Length of the test.")] = 8,
    seeds: Annotated[int, typer.Option(min=2, help="Times that the base scenario is lived.")] = 20,
    sweep_seeds: Annotated[int, typer.Option(min=2, help="The same for each other scenario.")] = 4,
    refresh: Annotated[
        int | None,
        typer.Option(min=1, help="Weeks until lists are new; 4, or never where a policy has to be asked."),
    ] = None,
    scenario: Annotated[
        list[str] | None, typer.Option(help="Scenario that is swept; may be given again. All by default.")
    ] = None,
    which: Which = "trained",
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace an earlier report.")] = False,
) -> None:
    """A/B test of two answerers on simulated shoppers, with power, intervals and a sweep of assumptions."""
    from ..config.schema import ConfigError
    from ..run.progress import Display
    from ..simulating.named import configured

    if (output / "ab.json").exists() and not fresh:
        raise ConfigError(
            f"{output} holds a report already; replace it with --fresh, or choose another --output"
        )
    configured((a, b), config, overrides or [], which)
    from ..simulating.experiment import Request, run

    display = Display()
    run(
        Request(
            (a, b),
            output,
            config=config,
            overrides=overrides or [],
            which=which,
            origin=origin,
            shoppers=shoppers,
            weeks=weeks,
            seeds=seeds,
            sweep_seeds=sweep_seeds,
            refresh=refresh,
            scenarios=scenario,
        ),
        display,
    )
    display.say(f"report: {output / 'report.html'}")
