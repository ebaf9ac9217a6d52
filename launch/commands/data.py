"""``recrl data``: build and look at the data of a configuration."""

from collections.abc import Mapping
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .options import Config, Overrides

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
    if data.reading:
        console.print(_told(data.reading))
    console.print(_counts(data.fingerprint, data.report))


@data_app.command()
def describe(config: Config, overrides: Overrides = None) -> None:
    """What was read and as what, what was dropped and split, the baselines on the test split, one prompt."""
    from ..config.reading import load

    settings = load(config, overrides or [], resolve=False)
    import numpy as np

    from ...envs import task as tasks

    task = tasks.make(settings.task, settings.data)
    console = Console()
    if reading := task.reading():
        console.print(_told(reading))
    console.print(_counts(task.fingerprint, task.counts()))
    rows = task.rows("test")
    unseen = np.array([row["unseen"] for row in rows], dtype=bool)
    baselines = task.baselines(settings.floors)
    if baselines and task.headline:
        head = ("baseline", f"{task.headline}, all users", "unseen users", *task.summary)
        table = Table(*head, title="test split")
        for name, answerer in baselines.items():
            values = task.metrics(rows, answerer(rows), dict)
            ranking = values[task.headline]
            columns = (ranking, ranking[unseen], *(values[metric] for metric in task.summary))
            table.add_row(name, *(f"{np.nanmean(column):.3f}" for column in columns))
        console.print(table)
    first = task.rows("train", 1)[0]
    console.print("[bold]one prompt[/]")
    for message in first["prompt"]:
        console.print(f"{message['role']}: {message['content']}", markup=False, highlight=False)
    if target := task.target(first):
        console.print(f"[bold]its target[/]: {escape(target)}")


def _told(reading: Mapping[str, str]) -> Table:
    """Table of how the source was read."""
    table = Table("what", "read from", title="log")
    for name, words in reading.items():
        table.add_row(name, escape(words))
    return table


def _counts(title: str, counts: Mapping[str, int]) -> Table:
    """Table of what was read, dropped and split."""
    table = Table("what", "count", title=title)
    for name, count in counts.items():
        table.add_row(name, f"{count:,}")
    return table
