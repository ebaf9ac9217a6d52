"""The command line: ``recrl train``, ``recrl launch``, ``recrl eval``, ``recrl recommend``,
``recrl explain``, ``recrl export``, ``recrl ab``, ``recrl serve``, ``recrl doctor``, ``recrl data``,
``recrl rewards``, ``recrl agents``, ``recrl judge``, ``recrl hybrid``, ``recrl bench``.
"""

import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .. import __version__
from . import faults
from .alarms import keep_back
from .commands import finished, rewards
from .commands.ab import ab
from .commands.agents import agents_app
from .commands.data import data_app
from .commands.hybrid import hybrid_app
from .commands.judge import judge_app
from .commands.options import Config, Fresh, Overrides, Resume
from .faults import fail
from .signals import EXIT_CODES, Interruption, Stop, say_code, stopping

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(data_app, name="data")
app.add_typer(rewards.app, name="rewards")
app.add_typer(judge_app, name="judge")
app.add_typer(hybrid_app, name="hybrid")
app.add_typer(agents_app, name="agents")

# Seconds until a cluster must know its first machine's name.
_PATIENCE = 300.0


def _pipeline() -> Any:
    """Module that trains and evaluates; imported once a configuration can be used, as that takes seconds."""
    from ..rl.trainer.without_vllm import import_trl, importing

    with importing():
        import_trl()
        from .run import pipeline

    return pipeline


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"recrl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of ``recrl`` itself."""


@app.command()
def train(
    context: typer.Context,
    config: Config,
    overrides: Overrides = None,
    resume: Resume = None,
    fresh: Fresh = False,
) -> None:
    """Train a policy under constraints and write its report."""
    from .config.reading import load

    settings = load(config, overrides or [])
    _pipeline().train(settings, resume=resume, fresh=fresh, stop=context.find_root().obj)
    from ..rl.distributed.processes import leave

    leave()


@app.command()
def launch(
    config: Config,
    overrides: Overrides = None,
    strategy: Annotated[
        str,
        typer.Option(help="cpu, ddp, zero1, zero2, zero3, zero3-offload, fsdp2, or a file of accelerate."),
    ] = "ddp",
    nodes: Annotated[int, typer.Option(help="Machines that train; start this on each.")] = 1,
    gpus: Annotated[
        int | None, typer.Option(help="Processes of each, one for each GPU; all GPUs by default.")
    ] = None,
    node_rank: Annotated[
        int,
        typer.Option(envvar=["SLURM_PROCID", "JOB_COMPLETION_INDEX"], help="Which machine this is, from 0."),
    ] = 0,
    address: Annotated[str | None, typer.Option(help="Name or number of machine 0.")] = None,
    port: Annotated[int, typer.Option(help="Port that machine 0 listens on.")] = 29500,
    interface: Annotated[
        str | None, typer.Option(help="Network interface; by default the one that leads to --address.")
    ] = None,
    grace: Annotated[
        int, typer.Option(help="Seconds between SIGTERM and SIGKILL: for a step and a checkpoint.")
    ] = 120,
    resume: Resume = None,
    fresh: Fresh = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands and start nothing.")] = False,
    slurm: Annotated[bool, typer.Option("--slurm", help="Print a batch script for Slurm.")] = False,
    kubernetes: Annotated[bool, typer.Option("--kubernetes", help="Print a JobSet for Kubernetes.")] = False,
    rollout_nodes: Annotated[
        int, typer.Option(help="Further machines of a scheduler's job, for vLLM servers.")
    ] = 0,
    image: Annotated[str, typer.Option(help="Image of Kubernetes that holds recrl.")] = "recrl:latest",
    claim: Annotated[str, typer.Option(help="Volume claim of Kubernetes, for the run folder.")] = "recrl",
) -> None:
    """Train on several processes or machines, with the rollout servers that the configuration names."""
    from .cluster import jobs as clusters
    from .cluster import launcher
    from .config.reading import load
    from .config.schema import ConfigError
    from .run.progress import Display

    # What only prints needs no reward, whose package may be missing where jobs are submitted.
    printed = dry_run or slurm or kubernetes
    settings = load(config, overrides or [], resolve=not printed)
    if slurm or kubernetes:
        if gpus is None:
            raise ConfigError("--slurm and --kubernetes need --gpus, the GPUs of each machine")
        job = clusters.Job(config, overrides or [], settings, strategy, nodes, gpus, rollout_nodes, grace)
        typer.echo(clusters.slurm(job) if slurm else clusters.kubernetes(job, image, claim), nl=False)
        return
    processes = gpus if gpus is not None else max(1, launcher.gpus())
    cluster = launcher.Cluster(nodes, processes, node_rank, address, port, interface)
    flags = [*(["--resume", resume] if resume else []), *(["--fresh"] if fresh else [])]
    chosen = launcher.plan(
        settings,
        strategy,
        cluster,
        [config, *(overrides or []), *flags],
        overrides or [],
        grace=grace,
        patience=_PATIENCE,
        here=not dry_run,
    )
    Console(soft_wrap=True).print(str(chosen), markup=False, highlight=False)
    if not dry_run:
        raise SystemExit(launcher.start(chosen, settings.folder, Display(), fresh=fresh))


@app.command(name="eval")
def evaluate(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    overrides: Overrides = None,
) -> None:
    """Evaluate a run's policies again, with other evaluation settings if wanted, and rewrite its report."""
    from ..rl.policy.folders import holds_policy
    from .config.reading import load
    from .config.schema import ConfigError

    if not holds_policy(folder / "policy"):
        raise ConfigError(f"{folder} holds no trained policy; recrl train writes it to {folder / 'policy'}")
    settings = load(str(folder / "config.yaml"), [*(overrides or []), f"output={folder}"])
    _pipeline().evaluate_again(settings, context.find_root().obj)


app.command()(finished.recommend)
app.command()(finished.explain)
app.command()(finished.export)
app.command()(ab)


@app.command()
def serve(
    config: Annotated[str, typer.Argument(help="Folder of a run, or its configuration.")],
    overrides: Overrides = None,
    host: Annotated[
        str, typer.Option(help="Where the server listens; loopback unless --expose.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; one server for each.")] = 8000,
    expose: Annotated[bool, typer.Option(help="Let other machines reach it, with its key.")] = False,
    which: Annotated[
        str | None,
        typer.Option(help="Policy of a finished run: trained, or warm. For a folder with one: trained."),
    ] = None,
    users: finished.Users = None,
    at: finished.At = None,
    limit: finished.Limit = None,
) -> None:
    """Serve a policy on vLLM: that of a finished run, or the rollouts of a training (``rollout.servers``).

    Of a finished run, the prompts of users as they are now are answered by the lists of ``recrl recommend``
    with the same --users, --at and --limit; other prompts by lists without prices.
    """
    from ..rl.policy.folders import holds_policy
    from .config.reading import load
    from .config.schema import ConfigError

    path = Path(config) / "config.yaml"
    chosen = [*(overrides or []), f"output={config}"] if path.is_file() else overrides or []
    source = str(path) if path.is_file() else config
    if which is not None or (path.is_file() and holds_policy(Path(config) / "policy")):
        from .run.finished import Whom, finished_policy

        whom = Whom(users=users, at=finished.day(at), limit=limit)
        settings = load(source, chosen)
        folder = finished_policy(settings.folder, which or "trained")
        from .cluster import serve

        raise SystemExit(serve.serve_finished(settings, folder, whom, host=host, port=port, exposed=expose))
    if users is not None or at is not None or limit is not None:
        raise ConfigError(
            "--users, --at and --limit are for a finished run, by its folder; rollouts know no users"
        )
    settings = load(source, chosen, resolve=False)
    from .cluster import serve

    raise SystemExit(serve.serve(settings, host=host, port=port, exposed=expose))


@app.command()
def doctor(
    quick: Annotated[bool, typer.Option(help="Only look at what is installed.")] = False,
) -> None:
    """What is installed, what is missing, and which rollout engines work here, proven by a round trip."""
    from .commands.doctor import examine

    raise SystemExit(examine(Console(), round_trips=not quick))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False
)
def bench(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Which benchmark; all are listed without it.")] = None,
) -> None:
    """Run a benchmark; ``recrl bench NAME --help`` lists its options."""
    from .config.schema import ConfigError

    # By entry point, so that nothing here depends on a benchmark, and other packages can add theirs.
    found = {entry.name: entry for entry in entry_points(group="recrl.benchmarks")}
    if name in (None, "--help"):
        Console().print(f"benchmarks: {', '.join(sorted(found))}; recrl bench NAME --help", highlight=False)
        return
    if name not in found:
        raise ConfigError(f"no benchmark {name!r}; known: {', '.join(sorted(found))}")
    found[name].load()(context.args, prog_name=f"recrl bench {name}", standalone_mode=False)


def main(arguments: list[str] | None = None) -> None:
    """Entry point; a fault that the user can mend is one line and exit code 2."""
    keep_back()
    # The tokenizers' threads would only warn about, and be stopped by, the data loader's processes.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    stop = Stop()
    try:
        with stopping(stop, last=arguments is None):
            app(arguments if arguments is not None else sys.argv[1:], obj=stop)
    except Interruption as error:
        if os.environ.get("RANK", "0") != "0":
            say_code(error.code)
            raise SystemExit(error.code) from None
        fail(str(error), error.code)
    except Exception as error:
        if isinstance(error, faults.MENDABLE):
            fault = faults.cause(error)
            if fault is not None and (trace := faults.blamed(fault)):
                Console(stderr=True).print(trace, markup=False, highlight=False, soft_wrap=True)
            fail(" ".join(str(error).split()), 2)
        if (text := faults.disk_fault(error)) is not None:
            fail(text, 2)
        if stop.received is not None:  # torn by another process that has stopped
            print(stop.interruption("stopped with the other processes"), file=sys.stderr)
            raise SystemExit(EXIT_CODES[stop.received]) from None
        say_code(1)
        raise


if __name__ == "__main__":
    main()
