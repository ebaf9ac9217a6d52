"""``recrl hybrid``: one vector an entity in place of its text."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Config, Overrides

hybrid_app = typer.Typer(
    no_args_is_help=True, help="Long histories by one vector an entity: store, base model, adaptor, tables."
)


@hybrid_app.command()
def store(
    config: Config,
    overrides: Overrides = None,
    engine: Annotated[
        str, typer.Option(help="polars: range by range, here; ray: on a Ray cluster.")
    ] = "polars",
) -> None:
    """Encode the titles of the task's entities; a job that was killed goes on."""
    from ..config.reading import load
    from ..config.schema import ConfigError

    settings = load(config, overrides or [], resolve=False)
    from ...envs.data import shards
    from ..hybrid.stages import make_store
    from ..run.progress import Display

    if engine not in shards.ENGINES:
        raise ConfigError(f"--engine {engine}: unknown; use {' or '.join(shards.ENGINES)}")
    make_store(settings, engine, Display())


@hybrid_app.command()
def base(context: typer.Context, config: Config, overrides: Overrides = None) -> None:
    """Train a small base model that reads histories spelled out; started again, it goes on."""
    from ..config.reading import load

    settings = load(config, overrides or [], resolve=False)
    from ..hybrid.stages import train_base
    from ..run.folder import RunFolder
    from ..run.progress import Display

    with RunFolder(settings.hybrid.folder).locked():
        train_base(settings, context.find_root().obj, Display())


@hybrid_app.command()
def train(context: typer.Context, config: Config, overrides: Overrides = None) -> None:
    """Train the adaptor in front of a frozen model; started again, it goes on."""
    from ..config.reading import load

    settings = load(config, overrides or [], resolve=False)
    from ..hybrid.stages import train_adaptor
    from ..run.folder import RunFolder
    from ..run.progress import Display

    with RunFolder(settings.hybrid.folder).locked():
        train_adaptor(settings, context.find_root().obj, Display())


@hybrid_app.command(name="eval")
def evaluate(
    context: typer.Context,
    config: Config,
    overrides: Overrides = None,
    least: Annotated[int, typer.Option(min=0, help="Products that a history has at least.")] = 0,
    long: Annotated[int, typer.Option(min=1, help="Products of the histories whose costs are told.")] = 200,
    episodes: Annotated[
        int | None, typer.Option(min=1, help="Largest number of episodes, evenly spread; all by default.")
    ] = None,
    questions: Annotated[
        int, typer.Option(min=1, help="Questions for each attribute and kind of held-out entities.")
    ] = 200,
    timed: Annotated[int, typer.Option(min=1, help="Prompts that are timed.")] = 12,
) -> None:
    """Full text, hybrid, truncated histories and controls on unseen users: quality and cost.

    Started again after a kill, it goes on.
    """
    from ..config.reading import load

    settings = load(config, overrides or [], resolve=False)
    from ..hybrid.measuring import measure
    from ..run.folder import RunFolder
    from ..run.progress import Display

    with RunFolder(settings.hybrid.folder).locked():
        path = measure(
            settings,
            context.find_root().obj,
            Display(),
            least=least,
            long=long,
            limit=episodes,
            asked=questions,
            timed=timed,
        )
    typer.echo(f"report: {path}")


@hybrid_app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folder of each seed: its hybrid.folder.")],
    output: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("runs/hybrid-report"),
) -> None:
    """One report of the evaluations of several seeds, or anew of one."""
    from ..hybrid.report import write
    from ..hybrid.seeds import read

    found = [read(folder) for folder in folders]
    output.mkdir(parents=True, exist_ok=True)
    typer.echo(f"report: {write(found, output)}")


@hybrid_app.command()
def export(
    config: Config,
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write; by default exported in hybrid.folder.")
    ] = None,
) -> None:
    """Write the model without its slots, which vLLM loads and asks by prompt embeddings."""
    from ..config.reading import load

    settings = load(config, overrides or [], resolve=False)
    from ..run.exporting import check_slotless

    folder = output or settings.hybrid.folder / "exported"
    check_slotless(folder)
    from ...rl.hybrid.serving import export as write
    from ..hybrid.stages import trained

    write(*trained(settings), folder)
    typer.echo(f"model without slots: {folder}")
