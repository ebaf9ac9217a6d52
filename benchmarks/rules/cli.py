"""Command line of ``recrl bench rules``, also ``python -m recrl.benchmarks.rules.cli``."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recrl.envs.task import find
from recrl.launch.config.reading import load
from recrl.launch.config.schema import ConfigError, RunConfig
from recrl.launch.faults import fail
from recrl.launch.signals import INTERRUPTED, Interruption

from .. import BenchmarkError
from ..options import MANY, List, split
from .cells import ARMS, RULES, Plan

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

NONE = "none"
_RATES = (0.5, 1.0, 2.0)  # times the configuration's learning rate


@app.command()
def rules(
    output: Annotated[Path, typer.Option(help="Folder of runs, results and report.")] = Path("runs/rules"),
    config: Annotated[str, typer.Option(help="Configuration that all runs share.")] = "demo",
    override: Annotated[
        list[str] | None, typer.Option("--set", help="Setting of it, key=value; may be repeated.")
    ] = None,
    rules: Annotated[List, typer.Option(help=f"Of {', '.join(RULES)}; all by default ({MANY}).")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds that are reported, from 0.")] = 5,
    tuning_seed: Annotated[int, typer.Option(help="Seed of the tuning, none of those.")] = 100,
    grid: Annotated[
        List,
        typer.Option(
            help=f"Learning rates; half, once and twice the configuration's; one: no tuning ({MANY})."
        ),
    ] = None,
    weights: Annotated[
        List, typer.Option(help=f"Weights of rules that add rewards up; 0.1,0.3,1 ({MANY}).")
    ] = None,
    sweep: Annotated[
        List, typer.Option(help=f"Weights of TRL's sweep; 0.1,0.3,1,3, or none for no sweep ({MANY}).")
    ] = None,
    sweep_seeds: Annotated[int, typer.Option(min=1, help="Seeds of the sweep, from 0.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of every run.")] = None,
    episodes: Annotated[int | None, typer.Option(min=1, help="Judged episodes; all by default.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once; they share the cores.")] = 1,
    report_only: Annotated[bool, typer.Option("--report-only", help="Render what is there.")] = False,
) -> None:
    """Which rule holds bounds on a real task, and what a feasible policy costs by each way to look for it.

    Every rule is tuned alike and trained with the same steps from the same warm starts. A bench that was
    stopped goes on with the runs that are missing.
    """
    from . import report

    console = Console(soft_wrap=True)

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    try:
        if not report_only:
            from .execute import Bench, execute

            base = _base(config, override or [], steps, episodes)
            numbers = {"grid": split(grid), "weights": split(weights), "sweep": split(sweep)}
            plan = _plan(base, split(rules), numbers, (seeds, tuning_seed, sweep_seeds))
            # A variable that limits threads says that other work has the other cores.
            cores = int(os.environ.get("OMP_NUM_THREADS", "0").split(",")[0]) or len(os.sched_getaffinity(0))
            threads = max(1, cores // jobs)
            execute(Bench(output, base, jobs, threads, tell), plan)
        path = report.write(output)
    except (BenchmarkError, ConfigError) as error:
        fail(str(error), 2)
    except (KeyboardInterrupt, Interruption):
        fail("stopped; the same command goes on with the runs that are missing", INTERRUPTED)
    tell(f"report: {path}")


def _base(config: str, overrides: list[str], steps: int | None, episodes: int | None) -> RunConfig:
    """The configuration that all runs share; its bounds are held where policies are deployed."""
    given = [*overrides, "evaluation.hold=auto"]
    if steps is not None:
        given.append(f"train.steps={steps}")
    if episodes is not None:
        given.append(f"evaluation.max_episodes={episodes}")
    base = load(config, given)
    if not base.optimizer.constraints:
        raise BenchmarkError(f"--config {config}: it has no constraints, so there is no conflict to resolve")
    return base


def _plan(
    base: RunConfig, rules: list[str], given: Mapping[str, list[str]], numbers: tuple[int, int, int]
) -> Plan:
    """The plan of the options.

    Args:
        given: Values of ``--grid``, ``--weights`` and ``--sweep``.
        numbers: Number of seeds, seed of the tuning, number of seeds of the sweep.
    """
    seeds, tuning_seed, sweep_seeds = numbers
    for rule in rules:
        if rule not in RULES:
            raise BenchmarkError(f"--rules {rule}: unknown; known: {', '.join(RULES)}")
    if tuning_seed in range(max(seeds, sweep_seeds)):
        raise BenchmarkError(
            f"--tuning-seed {tuning_seed} is one of the seeds that are reported, 0 to "
            f"{max(seeds, sweep_seeds) - 1}; choose another"
        )
    if given["sweep"] != [NONE] and base.rollout.engine != "transformers":
        raise BenchmarkError(
            f"rollout.engine={base.rollout.engine}: the sweep compares trainers that sample by themselves; "
            "use --sweep none, or rollout.engine=transformers"
        )
    # Where the configuration credits whole answers, that is the lagrangian itself.
    same = {"lagrangian_answers"} if base.optimizer.credit == ARMS["lagrangian_answers"].credit else set()
    plan = Plan(
        arms=[name for name in RULES if name in rules or not (rules or name in same)],
        seeds=list(range(seeds)),
        tuning_seed=tuning_seed,
        rates=_numbers("--grid", given["grid"]) or [base.train.learning_rate * times for times in _RATES],
        weights=_numbers("--weights", given["weights"]) or [0.1, 0.3, 1.0],
        sweep=[] if given["sweep"] == [NONE] else _numbers("--sweep", given["sweep"]) or [0.1, 0.3, 1.0, 3.0],
        sweep_seeds=list(range(sweep_seeds)),
    )
    if plan.tuning() and "validation" not in find(base.task.use).splits:
        raise BenchmarkError(
            f"task.use={base.task.use} has no validation split to tune on; give one value each with "
            "--grid and --weights"
        )
    return plan


def _numbers(option: str, given: list[str]) -> list[float]:
    try:
        found = [float(text) for text in given]
    except ValueError:
        raise BenchmarkError(f"{option} {','.join(given)}: give numbers, such as 0.1,0.3") from None
    if any(not 0 < value < float("inf") for value in found):
        raise BenchmarkError(f"{option} {','.join(given)}: give numbers above 0")
    return list(dict.fromkeys(found))


if __name__ == "__main__":
    app()
