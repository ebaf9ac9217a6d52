"""One user's way through a team, of a finished run: what each step saw, said, read and took.

``trace``  prints the way and draws it
"""

import datetime as dt
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from ...envs import task as tasks
from ...envs.agents.expert_task import Expert
from ...envs.agents.experts import household
from ...envs.agents.team import Budget, Passage, Team
from ...envs.task import Lines, Message, Row
from ...rl import policy
from ...rl.decoding.together import answer_together
from ..config.schema import ConfigError, RunConfig
from .finished import finished_policy
from .progress import Display

_SHOWN = 8  # tags of a line


def trace(config: RunConfig, user: str, at: dt.date | None, which: str) -> None:
    """Print one user's way through the team of a run, and draw it as ``trace-USER.png`` in the run's folder.

    The run's planner makes the personas, its policy is the expert, and an arbiter fitted on training
    households chooses.

    Args:
        config: The run, its ``output`` the run's folder.
        user: Name of a user.
        at: Day in place of the end of the data.
        which: ``trained`` or ``warm``.

    Raises:
        ConfigError: the run is of another task, or has no such policy.
        TaskError, AudienceError: the user cannot be answered.
    """
    folder, display = finished_policy(config.folder, which), Display()
    task = tasks.make(config.task, config.data)
    if not isinstance(task, Expert):
        raise ConfigError(
            f"{config.folder} is a run of task.use={config.task.use}; name one of task.use=expert, such as "
            "recrl train agents makes"
        )
    task = task.as_trained(config.folder)
    row = task.household(user, at)
    model, tokenizer = policy.load(config.policy.at(folder))
    form = task.form
    assert isinstance(form, Lines)

    def expert(rows: Sequence[Row]) -> list[str]:
        groups: dict[Any, list[list[Message]]] = {}
        for one in rows:
            groups.setdefault(household(one), []).append(one["prompt"])
        barred = [task.barred(one) for one in rows]
        texts = answer_together(model, tokenizer, list(groups.values()), form, barred)
        return [text for of in texts for text in of]

    def tokens(messages: Sequence[Message]) -> int:
        encoded: Any = tokenizer.apply_chat_template(list(messages), return_dict=True)
        return len(encoded["input_ids"])

    settings = task.settings
    budget = Budget(settings.personas, settings.personas * settings.slots, settings.final)
    task.arbiter.choose([])  # fitted before the clock runs
    team = Team(task.planner, expert, task.arbiter, task.questions, budget, tokens=tokens)
    begun = time.perf_counter()
    (passage,) = team.passages([row])
    took = time.perf_counter() - begun
    _say(display, task, user, passage, took)
    path = config.folder / f"trace-{_safe(user)}.png"
    _draw(task, user, passage, path)
    display.say(f"drawn: {path}")


def _say(display: Display, task: Expert, user: str, passage: Passage, took: float) -> None:
    names, row = task.catalog.tags, passage.row
    table = Table("step", "what it says", "tokens read", "seconds", title=f"user {escape(user)}")
    context = f"{len(row['history'])} kinds of goods; {row['calendar']}"
    table.add_row("context", escape(context), "", "")
    seconds = passage.seconds
    table.add_row("planner", f"{len(passage.personas)} personas", "0", f"{seconds.get('planner', 0):.3f}")
    whole, shared = passage.read
    for number, (persona, asked, tags) in enumerate(
        zip(passage.personas, passage.asked, passage.lists, strict=True)
    ):
        lines = asked["prompt"][-1]["content"].split("<persona>\n")[-1].split("\n")
        told = f"{lines[0]}\n  seen in: {_listed(names, persona.tags)}\n  names: {_listed(names, tags)}"
        table.add_row(f"expert {number + 1}", escape(told), "", "")
    read = f"{shared:,} (each by itself {whole:,})"
    table.add_row("experts together", "", read, f"{seconds.get('expert', 0):.3f}")
    table.add_row(
        "arbiter", escape(_listed(names, passage.answer, 99)), "0", f"{seconds.get('arbiter', 0):.3f}"
    )
    table.add_row("in all", "", f"{shared:,}", f"{took:.3f}")
    display.console.print(table, highlight=False)
    for role, reason in passage.missing.items():
        display.say(f"{role} was left out: {reason}")


def _draw(task: Expert, user: str, passage: Passage, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names, count = task.catalog.tags, len(passage.personas)
    figure, axis = plt.subplots(figsize=(13, 1.2 + 1.9 * count))
    axis.set(xlim=(0, 13), ylim=(0, count))
    axis.axis("off")
    whole, shared = passage.read
    answer = set(passage.answer)
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "grey"}
    style: dict[str, Any] = {"va": "center", "fontsize": 8, "bbox": box, "parse_math": False}
    middle = count / 2
    context = [
        "context",
        f"{len(passage.row['history'])} kinds of goods",
        *passage.row["calendar"].split("; "),
    ]
    axis.text(0.1, middle, "\n".join(context), **style)
    for number, (persona, tags) in enumerate(zip(passage.personas, passage.lists, strict=True)):
        y = count - number - 0.5
        seen = [names[tag] for tag in persona.tags[:_SHOWN]]
        axis.text(3.0, y, "\n".join([f"persona {number + 1}: {persona.weight:.0%}", *seen]), **style)
        named = [f"* {names[tag]}" if tag in answer else names[tag] for tag in tags[: _SHOWN + 1]]
        axis.text(6.4, y, "\n".join(named or ["left out"]), **style)
        for start, end in (((2.2, middle), (2.9, y)), ((5.6, y), (6.3, y)), ((9.2, y), (9.9, middle))):
            axis.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "grey"})
    axis.text(10.0, middle, "\n".join(["answer", *(names[tag] for tag in passage.answer)]), **style)
    seconds = passage.seconds
    axis.set_title(
        f"user {user}: planner {seconds.get('planner', 0):.2f} s; experts {seconds.get('expert', 0):.2f} s, "
        f"{shared:,} tokens (each by itself {whole:,}); arbiter {seconds.get('arbiter', 0):.2f} s",
        fontsize=10,
        parse_math=False,  # a name may hold $
    )
    figure.savefig(path, dpi=90, bbox_inches="tight")
    plt.close(figure)


def _listed(names: Sequence[str], tags: Sequence[int], most: int = _SHOWN) -> str:
    more = f" and {len(tags) - most} more" if len(tags) > most else ""
    return ", ".join(names[tag] for tag in tags[:most]) + more


def _safe(name: str) -> str:
    """A name as a part of a file's name."""
    return "".join(letter if letter.isalnum() else "_" for letter in name)[:60]
