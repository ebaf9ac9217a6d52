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
_FAILED = 1


@app.command(name="list")
def list_() -> None:
    """The rewards that a configuration may name: shipped ones, and those of installed packages."""
    from ...rewards import RewardSpecError, known, resolve

    table = Table("name", "range", "better", "per", "reads", "what it is", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    console = Console()
    for name, origin in known().items():
        try:
            found = resolve(name)
        except RewardSpecError as error:  # a package's fault, not the others'
            table.add_row(name, "", "", "", "", f"[red]cannot be used[/]: {escape(str(error))}")
            continue
        what = (inspect.getdoc(found.function) or "").partition("\n")[0].replace("``", "")
        if "entry point" in origin:
            what = f"{what} [{origin}]"
        reads = ", ".join(_reads(found))
        interval = f"{found.low:g} to {found.high:g}"
        table.add_row(name, interval, found.direction, found.per, reads, escape(what))
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
    config: Annotated[str, typer.Option(help="YAML file, or the name of a shipped one.")] = "demo",
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value of the configuration.")] = None,
    prompts: Annotated[int, typer.Option(min=2, help="Episodes.")] = 64,
    group: Annotated[int, typer.Option(min=2, help="Answers to each.")] = 8,
    policy: Annotated[
        Path | None, typer.Option(help="Folder of a policy that answers; drafts around baselines without.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for check.json and a plot.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
) -> None:
    """Run a reward over real episodes; exit code 1 if it fails, so that CI can ask."""
    from ..config.reading import load

    settings, name = with_reward(load(config, overrides or []), use)
    from ..run.progress import Display
    from ..run.setup import prepare_setup
    from . import reward_check

    console, display = Console(soft_wrap=True), Display()
    setup = prepare_setup(settings, display)
    answers = (
        _sampled(setup, policy, prompts, group) if policy else reward_check.drafted(setup, prompts, group)
    )
    found = reward_check.check(setup, name, answers)
    console.print(
        f"[bold]{escape(name)}[/] on {len(answers.completions) // group} episodes: {answers.origin}"
    )
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in found.findings:
        table.add_row(
            f"[{_COLOURS[finding.verdict]}]{finding.verdict}[/]", finding.what, escape(finding.found)
        )
    console.print(table)
    if found.correlations:
        shown = ", ".join(f"{other} {value:+.2f}" for other, value in found.correlations.items())
        console.print(f"correlation within groups: {shown}", highlight=False)
    if output is not None:
        found.save(output)
        console.print(f"written: {output}")
    worst = {finding.verdict for finding in found.findings}
    if "fail" in worst or (strict and "warn" in worst):
        raise SystemExit(_FAILED)


def with_reward(settings: Any, use: str) -> tuple[Any, str]:
    """The configuration with a reward among its own, and the reward's name there."""
    from ...rewards import RewardSpec, resolve

    if use in {spec.name for spec in settings.rewards}:
        return settings, use
    name = resolve(use).name
    taken = {spec.name for spec in settings.rewards}
    name = next(n for n in (name, f"{name} (checked)") if n not in taken)
    entry = RewardSpec(name=name, use=use)
    return settings.model_copy(update={"rewards": (*settings.rewards, entry)}), name


def _sampled(setup: Any, folder: Path, prompts: int, group: int) -> Any:
    """Answers of a policy to training episodes."""
    import numpy as np

    from ...rl import policy
    from ...rl.decoding.deploy import answer_texts
    from . import reward_check

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
    return reward_check.asked(repeated, texts, group, f"{len(texts)} answers sampled from {folder}")
