"""``recrl data``: build and look at the data of a configuration."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .options import Config, Overrides

if TYPE_CHECKING:
    from ...envs.data.prepared import TagTask

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
    from ...envs.data import shards
    from ...envs.data.prepared import prepare

    if engine not in shards.ENGINES:
        raise ConfigError(f"--engine {engine}: unknown; use {' or '.join(shards.ENGINES)}")
    task = prepare(settings.data, engine=engine, wholly=check)
    Console().print(counts(task))


@data_app.command()
def describe(config: Config, overrides: Overrides = None) -> None:
    """What was read, dropped and split, the baselines on the test split, and one prompt."""
    from ..config.reading import load

    settings = load(config, overrides or [], resolve=False)
    import numpy as np

    from ...envs.data.prepared import prepare
    from ...envs.tags import baselines, metrics
    from ...envs.tags.prompts import tag_messages

    task = prepare(settings.data)
    console = Console()
    console.print(counts(task))
    slots, episodes = settings.task.slots, task.split("test")
    unseen = episodes["unseen"].to_numpy()
    table = Table(
        "baseline",
        f"recall@{slots}, all users",
        "unseen users",
        "novelty",
        f"recall@{slots} novel",
        title="test split",
    )
    for name, lists in baselines.lists(task, episodes, slots, settings.novelty_floor).items():
        values = metrics.per_episode(task, episodes, lists)
        recall = values[f"recall@{slots}"]
        columns = (recall, recall[unseen], values["novelty"], values[f"recall@{slots} novel"])
        table.add_row(name, *(f"{np.nanmean(column):.3f}" for column in columns))
    console.print(table)
    first = task.split("train").row(0, named=True)
    console.print("[bold]one prompt[/]")
    for message in tag_messages(first, task.catalog, slots, settings.task.max_history):
        console.print(f"{message['role']}: {message['content']}", markup=False, highlight=False)
    target = ", ".join(task.catalog.tags[tag] for tag in first["target"])
    console.print(f"[bold]its target[/]: {escape(target)}")


def counts(task: "TagTask") -> Table:
    """What was read, dropped and split."""
    table = Table("what", "count", title=task.fingerprint)
    for name, count in task.report.items():
        table.add_row(name, f"{count:,}")
    return table
