"""What a person sees while a run works.

A bar for each stage, and the objective with every constraint's slack and price.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from ...rl.optimizer.duals import ConstraintReport

_COLOURS = {
    "slack": "green",
    "active": "green",
    "violated": "yellow",
    "saturated": "red",
    "infeasible_suspected": "red",
}

# Seconds after which a pipe gets a line in any case.
_PATIENCE = 60.0


class Display:
    """Progress on a terminal; on a pipe a line for the first step, for every tenth of them and every minute.

    Args:
        enabled: False on all ranks but the first.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.console = Console(quiet=not enabled, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line that stays, as it is: names in it may hold brackets, which rich takes for markup."""
        self.console.print(text, markup=False, highlight=False)

    def note(self, text: str) -> None:
        """Print a remark."""
        self.console.print(f"[bold yellow]note[/]: {escape(text)}", highlight=False)

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[..., None]]:
        """A bar over ``total`` steps; yields ``advance(done, note="", rows=())``.

        ``rows`` are the constraints' reports, shown as a table below the bar.
        """
        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
        )
        task = progress.add_task(name, total=total, note="")
        if not self.console.is_terminal:
            every = max(1, total // 10)
            reported, said = 0, -math.inf

            def say(done: int, note: str = "", rows: tuple[ConstraintReport, ...] = ()) -> None:
                nonlocal reported, said
                late = time.monotonic() - said > _PATIENCE
                if done // every > reported or done == total or late:
                    reported, said = done // every, time.monotonic()
                    shown = "; ".join(f"{r.name}: {_slack(r)}, price {r.price:.3f}" for r in rows)
                    self.say(f"{name} {done}/{total} {note}{'; ' + shown if shown else ''}")

            yield say
            return
        with Live(progress, console=self.console, refresh_per_second=4) as live:

            def advance(done: int, note: str = "", rows: tuple[ConstraintReport, ...] = ()) -> None:
                progress.update(task, completed=done, note=note)
                live.update(Group(progress, _constraints(rows)) if rows else progress)

            yield advance


def _slack(row: ConstraintReport) -> str:
    # What was seen before stays in the row, but says nothing of this step.
    return row.status if row.status == "unobserved" else f"slack {row.slack:+.3f}"


def _constraints(rows: tuple[ConstraintReport, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("constraint", "mean", "slack", "price", "status"):
        table.add_column(heading, justify="left" if heading in ("constraint", "status") else "right")
    for row in rows:
        colour = _COLOURS.get(row.status, "white")
        seen = row.status != "unobserved"
        mean, slack = (f"{row.mean:.3f}", f"{row.slack:+.3f}") if seen else ("-", "-")
        table.add_row(
            escape(row.name),
            mean,
            f"[{colour}]{slack}[/]",
            f"{row.price:.3f}",
            f"[{colour}]{row.status.replace('_', ' ')}[/]",
        )
    return table
