"""``recrl data``: build and look at the data of a configuration."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .options import Config, Overrides

if TYPE_CHECKING:
    from ...envs.data.prepared import Data
    from ...envs.statistics import Values

data_app = typer.Typer(no_args_is_help=True, help="Look at the data of a configuration.")


@data_app.command()
def build(
    config: Config,
    overrides: Overrides = None,
    engine: Annotated[
        str, typer.Option(help="polars: range of users by range of users, here; ray: on a Ray cluster.")
    ] = "polars",
    check: Annotated[
        bool, typer.Option("--check", help="Read all of tables that are there, and build damaged ones again.")
    ] = False,
) -> None:
    """Build the tables that training and evaluation read, where they are not built yet."""
    from ..config.reading import load
    from ..config.schema import ConfigError

    settings = load(config, overrides or [], resolve=False)
    # What reads data is imported behind the configuration, whose mistakes need not wait for it.
    from ...envs.data import shards
    from ...envs.data.prepared import prepare

    if engine not in shards.ENGINES:
        raise ConfigError(f"--engine {engine}: unknown; use {' or '.join(shards.ENGINES)}")
    data = prepare(settings.data, engine=engine, wholly=check)
    console = Console()
    _say(console, data.reading)
    console.print(_counts(data.fingerprint, data.report))
    _remark(console, data)


@data_app.command()
def describe(config: Config, overrides: Overrides = None) -> None:
    """What was read and as what, what was dropped and split, the baselines on the test split, one prompt."""
    from ..config.reading import load

    settings = load(config, overrides or [], resolve=False)
    import numpy as np

    from ...envs import task as tasks

    task = tasks.make(settings.task, settings.data)
    console = Console()
    if task.data is not None:
        _say(console, task.data.reading)
    console.print(_counts(task.fingerprint, task.counts()))
    if task.data is not None:
        _remark(console, task.data)
    rows = task.rows("test")
    unseen = np.array([row["unseen"] for row in rows], dtype=bool)
    baselines = task.baselines(settings.floors)
    if baselines and task.headline:
        summary = Table(
            "baseline", f"{task.headline}, all users", "unseen users", *task.summary, title="test split"
        )
        details = Table("baseline", *task.details, title="test split, all users")
        for name, answerer in baselines.items():
            values = task.metrics(rows, answerer(rows), dict)
            ranking = values[task.headline]
            columns = (ranking, ranking[unseen], *(values[metric] for metric in task.summary))
            summary.add_row(name, *map(_mean, columns))
            details.add_row(name, *(_mean(values[metric]) for metric in task.details))
        console.print(summary)
        if task.details:
            console.print(details)
    first = task.rows("train", 1)[0]
    console.print("[bold]one prompt[/]")
    for message in first["prompt"]:
        # A file of prompts may hold control characters, which a terminal obeys.
        content = "".join(c for c in message["content"] if c == "\n" or c.isprintable())
        console.print(f"{message['role']}: {content}", markup=False, highlight=False)
    if target := task.target(first):
        console.print(f"[bold]its target[/]: {escape(target)}")


def _mean(values: "Values") -> str:
    """Mean of the episodes at which a metric is defined."""
    import numpy as np

    known = values[~np.isnan(values)]
    return f"{known.mean():.3f}" if len(known) else "-"


def _say(console: Console, facts: Mapping[str, str]) -> None:
    """A line for each fact, however long it is."""
    for name, words in facts.items():
        console.print(f"[bold]{name}[/]: {escape(words)}", soft_wrap=True, highlight=False)


def _remark(console: Console, data: "Data") -> None:
    """What became of the users at the origins, and what to know of the episodes."""
    if data.losses:
        console.print(_lost(data.losses))
    for remark in data.remarks:
        console.print(f"[bold yellow]note[/]: {escape(remark)}", soft_wrap=True, highlight=False)


def _lost(losses: Mapping[str, Mapping[str, int]]) -> Table:
    """Table of the users at the origins of each split: how many each setting lost."""
    table = Table("users at an origin", *losses, title="episodes")
    reasons = dict.fromkeys(reason for lost in losses.values() for reason in lost)
    # The first and the last are what there was and what is left.
    ends = ("candidates", "episodes", "episodes of unseen users")
    for reason in ("candidates", *(r for r in reasons if r not in ends), *ends[1:]):
        numbers = (lost.get(reason, 0) for lost in losses.values())
        table.add_row(escape(reason if reason in ends else f"lost {reason}"), *map("{:,}".format, numbers))
    return table


def _counts(title: str, counts: Mapping[str, int]) -> Table:
    """Table of what was read, dropped and split."""
    table = Table("what", "count", title=title)
    for name, count in counts.items():
        table.add_row(name, f"{count:,}")
    return table
