"""A batch that nothing scored holds what was learned, and is told of as such."""

import json
import math
from pathlib import Path

import pytest
from small_run import settings

from recrl.launch.run import pipeline as run
from recrl.launch.run import progress
from recrl.rl.optimizer.duals import ConstraintReport

REWARDS = """
from itertools import count

_calls = {}


def _silent(name, completions, odd_only):
    step = next(_calls.setdefault(name, count(-1)))  # asked twice before the training: drafts, odd answers
    nothing = (step > 0 and step % 2 == 1) or not odd_only
    return [None if nothing else (i % 4) / 4 for i in range(len(completions))]


def sometimes(completions):
    return _silent("sometimes", completions, True)


def held(completions):
    return _silent("held", completions, True)


def never(completions):
    return _silent("never", completions, False)
"""


def trained(
    tmp_path: Path, cache: Path, objective: str, constraints: list[str], *overrides: str
) -> tuple[list[dict], str]:
    """The log of a run whose rewards are silent in the odd steps, or always, and its report."""
    (tmp_path / "silent.py").write_text(REWARDS)
    rewards = [
        "novelty",
        *(
            {"name": n, "use": f"{tmp_path / 'silent.py'}:{n}", "range": [0, 1]}
            for n in ("sometimes", "held", "never")
        ),
    ]
    config = settings(
        tmp_path / "run",
        cache,
        f"rewards={json.dumps(rewards)}",
        f"optimizer.objective={objective}",
        f"optimizer.constraints={json.dumps(constraints)}",
        *overrides,
    )
    folder = run.train(config)
    # Strictly JSON: a NaN would not be.
    log = [
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} in the log"))
        for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    return log, (folder / "report.md").read_text()


def test_an_objective_that_is_silent_in_some_steps_says_so_there(tmp_path, cache, panel_task, capsys):
    log, report = trained(tmp_path, cache, "sometimes", ["held >= 0.9 (mean)"], "evaluation.hold=off")
    assert [row["objective"] for row in log] == [None, pytest.approx(0.375), None, pytest.approx(0.375)]
    assert [row["reward"] for row in log] == [row["objective"] for row in log]
    multipliers = [row["constraint/held >= 0.9/multiplier"] for row in log]
    assert 0 == multipliers[0] < multipliers[1] == multipliers[2] < multipliers[3]
    assert [row["constraint/held >= 0.9/status"] for row in log][::2] == ["unobserved"] * 2
    assert all(math.isfinite(row["grad_norm"]) for row in log)
    assert log[0]["grad_norm"] == log[2]["grad_norm"] == 0
    said = capsys.readouterr().out
    assert said.count("sometimes no score; held >= 0.9: unobserved") == 2
    assert "sometimes 0.375" in said
    assert "Infeasible" not in report


def test_an_objective_that_never_has_a_score_trains_on_for_the_constraints(
    tmp_path, cache, panel_task, capsys
):
    log, report = trained(tmp_path, cache, "never", ["novelty >= 0.99 (mean)", "never <= 0.5 (mean)"])
    assert [(row["objective"], row["reward"]) for row in log] == [(None, None)] * 4
    assert all(row["constraint/novelty >= 0.99/multiplier"] > 0 for row in log)
    assert [row["constraint/never <= 0.5/multiplier"] for row in log] == [0] * 4
    assert any(row["grad_norm"] > 0 for row in log)
    assert "Nothing can be said of the objective" in report
    assert "No episode here says anything about never <= 0.5" in report
    assert capsys.readouterr().out.count("never no score") == 4


def test_the_display_shows_no_number_for_what_was_not_seen():
    display = progress.Display()
    display.console.width = 120
    row = ConstraintReport(
        "novelty >= 0.3 [x]", "mean", math.nan, 0.3, math.nan, 0.0, 0.0, 0.0, 0.0, "unobserved", math.nan, ()
    )
    with display.console.capture() as shown:
        display.console.print(progress._constraints((row,)))
    assert "nan" not in shown.get()
    assert "novelty >= 0.3 [x]" in shown.get()
