"""``recrl judge bench``, ``label`` and ``losses``: how good judges are, what people say, what teaches one."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Overrides

_Config = Annotated[str, typer.Option(help="Configuration of the task, and of the model that is asked.")]
_Pairs = Annotated[int, typer.Option(min=40, help="Pairs of texts of which one has a defect.")]
_Seed = Annotated[int, typer.Option(min=0, help="Seed of the suite.")]


def bench(
    overrides: Overrides = None,
    config: _Config = "explanations",
    pairs: _Pairs = 2000,
    seed: _Seed = 0,
    output: Annotated[Path, typer.Option(help="Folder of report, figures and judgements.")] = Path(
        "runs/judge"
    ),
    rubric: Annotated[
        str | None, typer.Option(help="explanations, tags, or a file; by default that of the task.")
    ] = None,
    votes: Annotated[int, typer.Option(min=1, help="Questions of each kind to a model.")] = 1,
    asked: Annotated[
        int | None, typer.Option(min=2, help="Items that the single prompt is asked about; all by default.")
    ] = None,
    steps: Annotated[
        int, typer.Option(min=0, help="Steps of the one-pass model's training; 0 leaves it out.")
    ] = 600,
    policy: Annotated[
        Path | None, typer.Option(help="Finished run whose warm policy the one-pass model starts from.")
    ] = None,
    ratings: Annotated[
        list[Path] | None, typer.Option(help="File of recrl judge label; may be given again.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(help="judgements.parquet of an earlier run: nobody is asked again.")
    ] = None,
) -> None:
    """Judges on pairs of texts of which one has a known defect: the agent judge, and those it has to beat."""
    from ..config.reading import load
    from ..run.finished import finished_policy
    from ..run.progress import Display

    settings = load(config, overrides or [])
    start = None if policy is None else finished_policy(policy, "warm")
    from ..judging.bench import Plan, run

    plan = Plan(pairs, seed, rubric, votes, asked, steps, start, tuple(ratings or ()))
    run(settings, plan, output, replay, Display())


def label(
    overrides: Overrides = None,
    config: _Config = "explanations",
    pairs: _Pairs = 2000,
    seed: _Seed = 0,
    output: Annotated[Path, typer.Option(help="JSONL file that answers are added to.")] = Path(
        "ratings.jsonl"
    ),
    rater: Annotated[str, typer.Option(help="Your name, or a pseudonym.")] = "me",
    items: Annotated[int, typer.Option(min=1, help="Texts to grade.")] = 200,
) -> None:
    """Grade texts of the suite yourself, blind and one at a time; started again, it goes on."""
    from ..config.reading import load

    settings = load(config, overrides or [])
    from ...rewards.judge.suite.pairs import items as shown
    from ..judging import labels
    from ..judging.suites import suite

    found = suite(settings, pairs, seed)
    count = labels.ask(shown(found.pairs), output, rater, items, seed, input, typer.echo)
    typer.echo(f"{count} of {items} texts graded in {output}")


def losses(
    overrides: Overrides = None,
    config: _Config = "explanations",
    output: Annotated[Path, typer.Option(help="Folder of report, figures and scores.")] = Path("runs/losses"),
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of contexts, head and order.")] = 5,
    contexts: Annotated[
        int, typer.Option(min=40, help="Contexts to learn from, of up to eight texts.")
    ] = 400,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of each arm.")] = 150,
    rate: Annotated[float, typer.Option(min=0, max=1, help="Learning rate.")] = 1e-3,
    policy: Annotated[
        Path | None, typer.Option(help="Finished run whose warm policy all arms start from.")
    ] = None,
) -> None:
    """Losses that teach a judge, on the same texts of known grades and from the same start."""
    from ..config.reading import load
    from ..run.finished import finished_policy
    from ..run.progress import Display

    settings = load(config, overrides or [])
    start = None if policy is None else finished_policy(policy, "warm")
    from ..judging.losses import Plan, run

    run(settings, Plan(seeds, contexts, steps, rate=rate, start=start), output, Display())
