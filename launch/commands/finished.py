"""``recrl recommend``, ``recrl explain`` and ``recrl export``: what a user does with a finished run."""

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from .options import Overrides

Run = Annotated[Path, typer.Argument(help="Folder of a finished run.")]
Users = Annotated[
    Path | None,
    typer.Option(help="File with a column user; for prompts, the rows themselves. All users by default."),
]
At = Annotated[
    str | None, typer.Option(metavar="DATE", help="Day, such as 2026-11-30; by default the data's end.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Largest number of users, evenly spread over all.")]
Which = Annotated[str, typer.Option(help="trained, or warm: the policy before reinforcement learning.")]


def recommend(
    context: typer.Context,
    run: Run,
    overrides: Overrides = None,
    users: Users = None,
    at: At = None,
    limit: Limit = None,
    output: Annotated[Path, typer.Option(help="File of the lists or texts.")] = Path("recs.parquet"),
    which: Which = "trained",
    gpus: Annotated[
        int, typer.Option(min=1, help="Processes that answer, one for each GPU; they work without GPUs too.")
    ] = 1,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace the output, and what was begun.")] = False,
) -> None:
    """Answer users as they are now, under prices by which the constraints hold; started again, it goes on."""
    from ..config.reading import load
    from ..run.finished import Request, finished_policy

    when = day(at)
    finished_policy(run, which)
    settings = load(str(run / "config.yaml"), [*(overrides or []), f"output={run}"])
    request = Request(output, which=which, users=users, at=when, limit=limit, fresh=fresh)
    request.check()
    if gpus > 1:
        from ..cluster.launcher import several
        from ..run.progress import Display

        given = {"--users": users, "--at": at, "--limit": limit, "--output": output, "--which": which}
        flags = [str(part) for flag, value in given.items() if value is not None for part in (flag, value)]
        command = ["recommend", str(run), *(overrides or []), *flags, *(["--fresh"] if fresh else [])]
        raise SystemExit(several(command, gpus, run, Display()))
    from ...rl.distributed.processes import leave
    from ..run.recommending import recommend as answer_all

    answer_all(settings, request, context.find_root().obj)
    leave()


def explain(
    run: Run,
    user: Annotated[str, typer.Option(help="A user of the data.")],
    item: Annotated[str, typer.Option(help="What is recommended, by its name in the catalogue.")],
    at: At = None,
    which: Which = "trained",
) -> None:
    """Say why an item is recommended to a user, and which of the text's claims are true in the data."""
    from ..config.reading import load
    from ..run.finished import finished_policy

    when = day(at)
    finished_policy(run, which)
    settings = load(str(run / "config.yaml"), [f"output={run}"])
    from ..run.explaining import explain as explained

    explained(settings, user, item, when, which)


def day(at: str | None) -> dt.date | None:
    """The day that ``--at`` names.

    Raises:
        ConfigError: it names none.
    """
    from ..config.schema import ConfigError

    try:
        return None if at is None else dt.date.fromisoformat(at)
    except ValueError as error:
        raise ConfigError(f"--at {at}: no day; write it as 2026-11-30") from error


def export(
    run: Run,
    output: Annotated[Path | None, typer.Option(help="Folder; by default RUN-export.")] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="NAME", help="Upload it to this repository of the Hugging Face hub.")
    ] = None,
    which: Which = "trained",
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace an earlier export.")] = False,
) -> None:
    """Write a policy for others: merged weights, tokenizer, and a model card."""
    from ..config.reading import load
    from ..run.finished import finished_policy

    finished_policy(run, which)
    settings = load(str(run / "config.yaml"), [f"output={run}"], resolve=False)
    folder = output if output is not None else run.with_name(f"{run.resolve().name}-export")
    from ..run import exporting

    exporting.check_output(folder, fresh)
    if push_to_hub is not None:
        exporting.check_hub(push_to_hub)
    exporting.export(settings, which, folder)
    if push_to_hub is not None:
        exporting.push(folder, push_to_hub)
