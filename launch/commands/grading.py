"""``recrl judge grade`` and ``recrl judge distill``: from a judge's grades to a reward."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .finished import Run, Which
from .options import Config, Overrides


def grade(
    run: Run,
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option(help="JSONL file of graded contexts.")] = Path("graded.jsonl"),
    rubric: Annotated[str, typer.Option(help="explanations, tags, or a file.")] = "explanations",
    rows: Annotated[int, typer.Option(min=1, help="Contexts.")] = 400,
    sampled: Annotated[int, typer.Option(min=0, help="Samples of the policy for each.")] = 4,
    taught: Annotated[int, typer.Option(min=0, help="Demonstrations of the task for each.")] = 2,
    borrowed: Annotated[int, typer.Option(min=0, help="Demonstrations for other contexts.")] = 2,
    votes: Annotated[int, typer.Option(min=1, help="Questions of each kind to a model.")] = 1,
    which: Which = "trained",
) -> None:
    """Judge candidates of a run's policy and of its task."""
    from ..config.reading import load
    from ..run.finished import finished_policy

    finished_policy(run, which)
    settings = load(str(run / "config.yaml"), [*(overrides or []), f"output={run}"])
    from ..judging.grading import Candidates
    from ..judging.grading import grade as graded

    kinds = Candidates(sampled, taught, borrowed)
    graded(settings, output, which=which, rubric=rubric, rows=rows, candidates=kinds, votes=votes)


def distill(
    run: Run,
    grades: Annotated[Path, typer.Option(help="File of recrl judge grade.")] = Path("graded.jsonl"),
    output: Annotated[Path, typer.Option(help="Folder of the model.")] = Path("judge"),
    loss: Annotated[str, typer.Option(help="list_wise, pair_logistic or point_wise.")] = "list_wise",
    strictness: Annotated[
        bool, typer.Option("--strictness", help="Give each context an offset of its own.")
    ] = False,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 300,
    contexts: Annotated[int, typer.Option(min=1, help="Contexts in a step.")] = 8,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 3e-4,
    seed: Annotated[int, typer.Option(min=0, help="Seed of split, head and order.")] = 0,
    which: Which = "warm",
) -> None:
    """Distil grades into a model that scores: the rewards judge_score and explanation_acceptance."""
    from ..config.reading import load
    from ..run.finished import finished_policy

    given = {"strictness": strictness, "contexts_per_step": contexts, "learning_rate": rate, "seed": seed}
    config = _distilling(loss=loss, steps=steps, **given)
    finished_policy(run, which)
    settings = load(str(run / "config.yaml"), [f"output={run}"])
    from ..judging.grading import distill as distilled

    distilled(settings, grades, output, config, which=which)


def flywheel(
    context: typer.Context,
    config: Config,
    overrides: Overrides = None,
    rounds: Annotated[int, typer.Option(min=1, help="Largest number of rounds.")] = 3,
    rows: Annotated[int, typer.Option(min=1, help="Contexts that are graded in each.")] = 400,
    probed: Annotated[int, typer.Option(min=2, help="Unseen rows of each probe.")] = 300,
    rubric: Annotated[str, typer.Option(help="explanations, tags, or a file.")] = "explanations",
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of a distillation.")] = 300,
    loss: Annotated[str, typer.Option(help="list_wise, pair_logistic or point_wise.")] = "list_wise",
) -> None:
    """Grade, distil, train, again: a reward that follows the policy, and a probe of where the two part."""
    from ..config.reading import load

    distilled = _distilling(loss=loss, steps=steps)
    settings = load(config, overrides or [])
    from ..judging.flywheel import Plan, spin

    plan = Plan(rounds, rows, probed, rubric, distilled=distilled)
    path = spin(settings, plan, context.find_root().obj)
    typer.echo(f"report: {path}")


def _distilling(**given: Any) -> Any:
    """Settings of a distillation.

    Raises:
        ConfigError: one of them is refused.
    """
    from pydantic import ValidationError

    from ...rl.reward_model.settings import DistillConfig
    from ..config.schema import ConfigError

    try:
        return DistillConfig.model_validate(given)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise ConfigError(f"{fault['loc'][0]}={fault['input']!r}: {fault['msg']}") from error
