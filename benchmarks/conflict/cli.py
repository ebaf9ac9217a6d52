"""The command line: ``recrl bench conflict``, also ``python -m recrl.benchmarks.conflict.cli``."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from recrl.launch.faults import fail
from recrl.launch.signals import INTERRUPTED, Interruption

from ..options import MANY, List, split

if TYPE_CHECKING:
    from recrl.launch.run.progress import Display

    from .answers import Answers
    from .problems import KnownProblem
    from .suite import Record, Run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

QUICK_SHARE, QUICK_SEEDS = 0.2, 3
_OWN = "Your own rewards"


@app.command()
def conflict(
    output: Annotated[
        Path | None, typer.Option(help="Folder of results and report; runs/conflict by default.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds of each rule on each problem; 10.")] = None,
    rules: Annotated[List, typer.Option(help=f"Only these rules ({MANY}).")] = None,
    problems: Annotated[List, typer.Option(help=f"Only these problems or families, as T1 ({MANY}).")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one a CPU core by default.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A fifth of the steps, 3 seeds, no T6.")] = False,
    report_only: Annotated[bool, typer.Option("--report-only", help="Render what is there.")] = False,
    rewards: Annotated[
        str | None,
        typer.Option(rich_help_panel=_OWN, help="Module or path/to/file.py with @reward functions."),
    ] = None,
    reward: Annotated[
        List, typer.Option(rich_help_panel=_OWN, help=f"Registered reward, as recall ({MANY}).")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(rich_help_panel=_OWN, help=".jsonl or .parquet: prompt, and columns that rewards read."),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(rich_help_panel=_OWN, help="Answers the prompts: smollm2, a path, a hub name."),
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(rich_help_panel=_OWN, help="Ready-made answers instead: prompt, completions, columns."),
    ] = None,
    objective: Annotated[
        str | None, typer.Option(rich_help_panel=_OWN, help="Name of the reward to maximise.")
    ] = None,
    constraint: Annotated[
        list[str] | None, typer.Option(rich_help_panel=_OWN, help='As "novelty >= .3 (mean)" (repeat).')
    ] = None,
    samples: Annotated[int, typer.Option(rich_help_panel=_OWN, help="Answers sampled for each prompt.")] = 8,
    max_tokens: Annotated[int, typer.Option(rich_help_panel=_OWN, help="Longest sampled answer.")] = 128,
    temperature: Annotated[
        float, typer.Option(rich_help_panel=_OWN, help="Temperature of the sampling.")
    ] = 1.0,
    batch_size: Annotated[int, typer.Option(rich_help_panel=_OWN, help="Answers sampled at once.")] = 64,
    limit: Annotated[
        int | None, typer.Option(rich_help_panel=_OWN, min=1, help="At most this many prompts.")
    ] = None,
    catalog: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=_OWN, help="Tags, for rewards that read `answers`: .json, or one a line."
        ),
    ] = None,
    slots: Annotated[int, typer.Option(rich_help_panel=_OWN, help="Length of the lists asked for.")] = 10,
) -> None:
    """How rewards conflict, and which advantage rule resolves it.

    Without further options: problems with a known optimum, every rule. With --rewards: your own.
    """
    from recrl.rewards import RewardError, RewardSpecError

    from .suite import BenchmarkError

    own = bool(rewards or reward)
    folder = output or Path("runs") / ("conflict-own" if own else "conflict-quick" if quick else "conflict")
    chosen = Runs(
        split(rules), seeds or (QUICK_SEEDS if quick else 10), workers or os.cpu_count() or 1, quick
    )
    try:
        if report_only:
            path = _render(folder)
        elif own:
            source = Source(prompts, answers, policy, samples, max_tokens, temperature, batch_size, limit)
            asked = (objective, tuple(constraint or ()))
            path = _own(folder, rewards, split(reward), source, asked, (catalog, slots), chosen)
        else:
            path = _known(folder, split(problems), chosen)
    except (BenchmarkError, RewardError, RewardSpecError) as error:
        fail(str(error), 2)
    except (KeyboardInterrupt, Interruption):
        fail("stopped; the same command goes on from what is finished", INTERRUPTED)
    Console(soft_wrap=True).print(f"report: {path}", highlight=False)


@dataclass(frozen=True)
class Runs:
    """Choice of runs, and how they are done."""

    rules: list[str]
    seeds: int
    workers: int
    quick: bool


@dataclass(frozen=True)
class Source:
    """Source of the answers, from the options of the same names."""

    prompts: Path | None
    answers: Path | None
    policy: str | None
    samples: int
    max_tokens: int
    temperature: float
    batch_size: int
    limit: int | None


def _known(folder: Path, names: list[str], runs: Runs) -> Path:
    """Benchmark on the problems with a known optimum."""
    from . import cost, problems, report, suite

    tables = problems.suite()
    families = {known.family for known in tables.values()} | {suite.TRANSFORMER}
    for name in names:
        if name not in families | set(tables):
            known = ", ".join([*sorted(families), *tables])
            raise suite.BenchmarkError(f"--problems: no problem or family {name!r}; known: {known}")
    if names:
        tables = {name: p for name, p in tables.items() if {name, p.family} & set(names)}
    if runs.quick:
        tables = suite.shortened(tables, QUICK_SHARE)
    extra = []
    if suite.TRANSFORMER in names or not (names or runs.rules or runs.quick):
        extra = suite.plan_transformer(runs.seeds)
    _execute(folder, tables, runs, extra)
    if extra and not (folder / cost.RESULT).exists():
        cost.write(folder)
    return report.write(folder)


def _own(
    folder: Path,
    module: str | None,
    registered: list[str],
    source: Source,
    asked: tuple[str | None, tuple[str, ...]],
    lists: tuple[Path | None, int],
    runs: Runs,
) -> Path:
    """Benchmark on one's own rewards; `lists` is the catalogue and the length of a list."""
    from recrl.launch.run.progress import Display

    from . import own, own_report
    from .empirical import RESAMPLES
    from .suite import BenchmarkError, shortened

    uses = [*(own.declared(module) if module else []), *registered]
    display, resources = Display(), _resources(*lists, uses)
    answers, origin = _answers(folder, source, resources, display)
    scores, rewards = own.score(answers, uses, resources)
    with display.stage("prices", RESAMPLES) as advance:
        summary, found = own.measure(scores, rewards, own.Question(*asked), origin, advance)
    path = folder / own_report.SUMMARY
    if path.exists() and json.loads(path.read_text())["fingerprint"] != summary["fingerprint"]:
        raise BenchmarkError(
            f"{folder} holds the benchmark of other answers, rewards or constraints; choose another "
            "--output, or remove the folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary, indent=1))
    if found:
        tables = {found.known.name: found.known}
        _execute(folder, shortened(tables, QUICK_SHARE) if runs.quick else tables, runs, [])
    return own_report.write(folder)


def _answers(
    folder: Path, source: Source, resources: dict[str, Any], display: "Display"
) -> tuple["Answers", str]:
    """The answers and where they come from, in words."""
    from .answers import Sampling, read_answers, read_rows, sample, save
    from .suite import BenchmarkError

    if source.answers:
        return read_answers(source.answers, source.limit), f"ready-made, {source.answers.name}"
    if not (source.prompts and source.policy):
        raise BenchmarkError("your own rewards need answers: give --answers, or --prompts and --policy")
    sampling = Sampling(
        source.policy, source.samples, source.max_tokens, source.temperature, source.batch_size
    )
    rows = read_rows(source.prompts, source.limit)
    tags = resources["catalog"].tags if "catalog" in resources else ()
    with display.stage("answers", len(rows)) as advance:
        found = sample(rows, sampling, tags, advance)
    folder.mkdir(parents=True, exist_ok=True)
    save(found, folder / "answers.jsonl")
    return found, f"sampled from `{source.policy}` at temperature {source.temperature:g}"


def _execute(folder: Path, tables: "dict[str, KnownProblem]", runs: Runs, extra: "list[Run]") -> None:
    """Do the runs, and the lines that no policy is above."""
    from recrl.launch.run.progress import Display
    from recrl.rl.optimizer.rules import RULES

    from . import suite

    planned = [*suite.plan(tables, runs.rules or list(RULES), runs.seeds), *extra]
    with Display().stage("runs", len(planned)) as advance:

        def show(done: int, total: int, record: "Record") -> None:
            score = "no optimum" if record["score"] is None else f"score {record['score']:.3f}"
            advance(done, f"{record['problem']}, {record['rule']}: {score}")

        path = folder / suite.RESULTS
        records = suite.execute(tables, planned, path, workers=runs.workers, on_run=show)
    path = folder / suite.FRONTIERS
    lines = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(lines | suite.frontiers(tables, records)))


def _render(folder: Path) -> Path:
    from . import own_report, report

    return (own_report if (folder / own_report.SUMMARY).exists() else report).write(folder)


def _resources(catalog: Path | None, slots: int, uses: list[str]) -> dict[str, Any]:
    """Resources that the shipped rewards read besides columns."""
    if catalog is None:
        return {}
    from recrl.envs.catalog import Catalog
    from recrl.rewards import encode_tags, parameters, resolve

    from .suite import BenchmarkError

    if not catalog.is_file():
        raise BenchmarkError(f"--catalog: no file {catalog}")
    lines = [line for line in catalog.read_text().splitlines() if line.strip()]
    tags = Catalog.load(catalog) if catalog.suffix == ".json" else Catalog(lines)
    found: dict[str, Any] = {"catalog": tags, "slots": slots}
    if any("encoder" in parameters(resolve(use)) for use in uses):  # seconds, and a package of its own
        found["encoder"] = encode_tags(tags.tags)
    return found


if __name__ == "__main__":
    app()
