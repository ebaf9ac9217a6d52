"""What a pipe gets to read while a run works."""

import math

import pytest
from rich.console import Console

from recrl.launch.run import progress
from recrl.launch.run.progress import Display
from recrl.rl.optimizer.duals import ConstraintReport


def said(capsys):
    return [line.partition(" loss")[0] for line in capsys.readouterr().out.splitlines()]


def test_the_first_step_and_every_tenth_of_them_have_a_line(capsys):
    with Display().stage("warm start", 100) as advance:
        for step in range(1, 101):
            advance(step, f"loss {step}")
    assert said(capsys) == [f"warm start {step}/100" for step in (1, *range(10, 101, 10))]


def test_slow_steps_have_a_line_every_minute(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Display().stage("warm start", 1000) as advance:
        for step in range(1, 11):
            clock[0] += 25
            advance(step)
    assert said(capsys) == [f"warm start {step}/1000 " for step in (1, 4, 7, 10)]


@pytest.mark.parametrize("terminal", [True, False])
def test_names_that_look_like_markup_are_shown_as_they_are(terminal):
    name = "[/red] x[0] [bold]"
    row = ConstraintReport(name, "mean", 0.3, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0, "met", math.nan, ())
    display = Display()
    display.console = Console(force_terminal=terminal, width=200, soft_wrap=True)
    with display.console.capture() as shown:
        display.say(f"reward {name}")
        display.note(f"column {name}")
        with display.stage("reinforcement learning", 1) as advance:
            advance(1, f"{name} 0.5", (row,))
    assert shown.get().count(name) == 4
