"""``recrl rewards``: which rewards there are, what one declares, and what it does on real episodes."""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from ...rewards import Reward

app = typer.Typer(no_args_is_help=True, help="Rewards: list them, show one, check one on real episodes.")

_COLOURS = {"pass": "green", "warn": "yellow", "fail": "red"}
_BETTER = {"higher": "high", "lower": "low"}
_FAILED = 1
_CONFIG = "demo"


@app.command(name="list")
def list_() -> None:
    """The rewards that a configuration may name: shipped ones, and those of installed packages."""
    from ...rewards import RewardSpecError, known, resolve

    table = Table("name", "what it is", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    console = Console()
    for name, origin in known().items():
        try:
            found = resolve(name)
        except RewardSpecError as error:  # a package's fault, not the others'
            table.add_row(escape(name), f"[red]cannot be used[/]: {escape(str(error))}")
            continue
        what = (inspect.getdoc(found.function) or "").partition("\n")[0].replace("``", "")
        if "entry point" in origin:
            what = f"{what} [{origin}]"
        declared = f"{found.low:g} to {found.high:g}, better {_BETTER[found.direction]}, per {found.per}"
        if reads := ", ".join(_reads(found)):
            declared += f"; reads {reads}"
        table.add_row(escape(name), f"{escape(what)}\n[dim]{escape(declared)}[/]")
    console.print(table)


@app.command()
def show(
    use: Annotated[str, typer.Argument(help="A name, package.module:function, or file.py:function.")],
) -> None:
    """What a reward declares, reads and says of itself, and its entry in a configuration."""
    from ...rewards import known, resolve

    console = Console(soft_wrap=True)
    found = resolve(use)
    table = Table(box=None, show_header=False, pad_edge=False)
    for heading, value in (
        ("name", found.name),
        ("range", f"{found.low:g} to {found.high:g}"),
        ("unit", "half of the range" if found.unit is None else f"{found.unit:g}"),
        ("better", found.direction),
        ("per", found.per),
        ("reads", ", ".join(_reads(found))),
        ("serving", {None: "by what it reads", True: "yes", False: "no"}[found.serving]),
        ("params", _params(found.function)),
        ("from", known().get(use, inspect.getsourcefile(inspect.unwrap(found.function)) or use)),
    ):
        table.add_row(heading, escape(value))
    console.print(table)
    console.print()
    console.print(inspect.getdoc(found.function) or "no docstring", markup=False, highlight=False)
    entry = found.name if use == found.name else f'{{name: {found.name}, use: "{use}"}}'
    sense = ">=" if found.direction == "higher" else "<="
    text = f'\nrewards:\n  - {entry}\noptimizer:\n  constraints: ["{found.name} {sense} ... (mean)"]'
    console.print(text, markup=False, highlight=False)


def _reads(found: "Reward") -> list[str]:
    """Columns and resources that a reward reads; not what ``params`` set."""
    from ...rewards import parameters

    function = found.function
    called = function.__call__ if isinstance(function, type) else function
    defaults = {p.name for p in inspect.signature(called).parameters.values() if p.default is not p.empty}
    return [name for name in parameters(found) if name not in {"self", "kwargs", "columns", *defaults}]


def _params(function: Any) -> str:
    """Parameters that ``params`` may set, with defaults."""
    parameters = list(inspect.signature(function).parameters.values())
    if not isinstance(function, type):
        parameters = [p for p in parameters if p.default is not p.empty]
    shown = [str(p) for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD]
    return ", ".join(shown) or "none"


@app.command()
def check(
    use: Annotated[
        str, typer.Argument(help="A reward of the configuration, or any other: file.py:function.")
    ],
    config: Annotated[
        str | None,
        typer.Option(
            help="YAML file or shipped name; by default the file beside the reward that lists it, or demo."
        ),
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value of the configuration.")] = None,
    prompts: Annotated[int, typer.Option(min=2, help="Episodes.")] = 64,
    group: Annotated[int, typer.Option(min=2, help="Answers to each.")] = 8,
    policy: Annotated[
        Path | None, typer.Option(help="Folder of a policy that answers; drafts around baselines without.")
    ] = None,
    range_: Annotated[
        str | None, typer.Option("--range", help="LOW,HIGH of a function that declares none.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for check.json and a plot.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
) -> None:
    """Run a reward over real episodes; exit code 1 if it fails, so that CI can ask."""
    from ..config.reading import load

    console = Console(soft_wrap=True)
    if config is None:
        config = beside(use) or _CONFIG
        console.print(f"configuration: {config}", highlight=False, markup=False)
    settings, name = with_reward(load(config, overrides or []), use, _interval(range_))
    from ..run.drafts import drafted
    from ..run.progress import Display
    from ..run.setup import prepare_setup
    from . import reward_check

    display = Display()
    setup = prepare_setup(settings, display)
    answers = _sampled(setup, policy, prompts, group) if policy else drafted(setup, prompts, group)
    found = reward_check.check(setup, name, answers)
    episodes = len(answers.completions) // group
    console.print(f"[bold]{escape(name)}[/] on {episodes} episodes: {escape(answers.origin)}")
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in found.findings:
        verdict = f"[{_COLOURS[finding.verdict]}]{finding.verdict}[/]"
        table.add_row(verdict, escape(finding.what), escape(finding.found))
    console.print(table)
    if found.correlations:
        shown = ", ".join(f"{other} {value:+.2f}" for other, value in found.correlations.items())
        display.say(f"correlation within groups: {shown}")
    if output is not None:
        found.save(output)
        display.say(f"written: {output}")
    worst = {finding.verdict for finding in found.findings}
    if "fail" in worst or (strict and "warn" in worst):
        raise SystemExit(_FAILED)


def with_reward(settings: Any, use: str, interval: tuple[float, float] | None = None) -> tuple[Any, str]:
    """The configuration with a reward among its own, and the reward's name there.

    Args:
        use: A name of the configuration's rewards, or what an entry may use; an entry that does is that one.
        interval: Range in place of what the function or its entry declares.
    """
    from ...envs.lookup import anchored
    from ...rewards import RewardSpec, resolve

    entries = {spec.name: spec for spec in settings.rewards}
    named = [spec for spec in entries.values() if ":" in use and anchored(spec.use) == anchored(use)]
    if (found := entries.get(use) or next(iter(named), None)) is not None:
        changed = found if interval is None else found.model_copy(update={"range": interval})
        rewards = tuple(changed if spec is found else spec for spec in settings.rewards)
        return settings.model_copy(update={"rewards": rewards}), found.name
    name = resolve(RewardSpec(name=use.rpartition(":")[2], use=use, range=interval) if interval else use).name
    name = next(n for n in (name, f"{name} (checked)") if n not in entries)
    entry = RewardSpec(name=name, use=use, range=interval)
    return settings.model_copy(update={"rewards": (*settings.rewards, entry)}), name


def beside(use: str) -> str | None:
    """Configuration of a run that lists a reward, in the folder of its file or else in the working folder.

    Of several the first by name is taken.
    """
    import yaml

    from ..config import plain_yaml

    module, _, function = use.rpartition(":")
    folder = Path(module).expanduser().parent if module.endswith(".py") else Path()

    def lists(file: Path) -> bool:
        try:
            rewards = plain_yaml.read(file.read_bytes())["rewards"]
            entries = [entry if isinstance(entry, dict) else {"name": entry} for entry in rewards]
        except (OSError, TypeError, KeyError, ValueError, yaml.YAMLError):  # another file of YAML
            return False
        if not module:
            return any(entry.get("name") == function for entry in entries)
        own = f"{Path(module).name}:{function}"
        return any(Path(str(entry.get("use", ""))).name == own for entry in entries)

    return next((str(file) for file in sorted(folder.glob("*.y*ml")) if lists(file)), None)


def _interval(given: str | None) -> tuple[float, float] | None:
    from ..config.schema import ConfigError

    if given is None:
        return None
    try:
        low, high = map(float, given.strip("[]()").split(","))
    except ValueError as error:
        raise ConfigError(f"--range {given}: give two numbers, such as --range 0,1") from error
    return low, high


def _sampled(setup: Any, folder: Path, prompts: int, group: int) -> Any:
    """Answers of a policy to training episodes."""
    import numpy as np

    from ...rl import policy
    from ...rl.decoding.deploy import answer_texts
    from ..run.drafts import asked

    model, tokenizer = policy.load(setup.config.policy.model_copy(update={"model": str(folder)}))
    rows = setup.training_rows
    chosen = np.linspace(0, len(rows) - 1, min(prompts, len(rows))).round().astype(int)
    rows = [rows[i] for i in chosen]
    sampling = setup.config.train.sampling(tokenizer, setup.answer_tokens(tokenizer))
    with setup.display.stage("answers", len(rows)) as advance:
        texts = answer_texts(
            model,
            tokenizer,
            [row["prompt"] for row in rows],
            sampling,
            copies=group,
            batch_size=setup.config.evaluation.batch_size,
            on_batch=advance,
        )
    repeated = [row for row in rows for _ in range(group)]
    return asked(repeated, texts, group, f"{len(texts)} answers sampled from {folder}")
