"""The paper's tables: orders and verdicts, tables of committed and made-up results, and stages that go on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from importlib import import_module

import numpy as np
import psutil
import pytest
import typer
from places import ROOT

from recrl.benchmarks import BenchmarkError
from recrl.benchmarks.paper import quality, report
from recrl.benchmarks.paper.base import BASELINES
from recrl.benchmarks.paper.execute import Record, execute, record_of, take
from recrl.benchmarks.paper.plan import COMMITTED, Stage, read
from recrl.benchmarks.paper.rows import HOLDS, OPEN, REVERSED, Figure, Row
from recrl.benchmarks.paper.tables import TABLES, tags
from recrl.envs import statistics
from recrl.launch.cli import app
from recrl.launch.config.reading import load

RESULTS = ROOT / "docs" / "results"
TAKEN = {
    "tags": RESULTS / "rules",
    "losses": RESULTS / "judge" / "losses",
    "styled": RESULTS / "styled",
    "judge": RESULTS / "judge" / "single-prompt",
    "agents": RESULTS / "agents",
    "hybrid": RESULTS / "hybrid" / "seed-0",
    "ab": RESULTS / "simulator" / "ab",
}


# --- orders ---


@pytest.mark.parametrize(
    ("figure", "verdict"),
    [
        (Figure(0.1, 0.05, 0.2), HOLDS),
        (Figure(0.1, 0.0, 0.2), OPEN),
        (Figure(-0.1, -0.2, -0.05), REVERSED),
        (Figure(0.3), HOLDS),
        (-Figure(0.1, 0.05, 0.2), REVERSED),
    ],
)
def test_an_order_holds_where_the_interval_lies_above_zero(figure, verdict):
    assert Row("A < B", "recall", figure).verdict == verdict


def test_a_figure_turns_its_bounds_with_its_sign_and_scales_them():
    assert -Figure(1.0, 0.5, 3.0) == Figure(-1.0, -3.0, -0.5)
    assert Figure(1.0, 0.5, 3.0).over(2.0) == Figure(0.5, 0.25, 1.5)


# --- tables ---


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 50)


def test_the_committed_results_give_every_table_that_has_some():
    found = {name: TABLES[name](TAKEN) for name in TAKEN}
    assert all(any(row.verdict == HOLDS for row in table.rows) for table in found.values())
    losses = json.loads((TAKEN["losses"] / "losses.json").read_text())
    apart = losses["differences"]["all pairs"]["point-wise"]["households"]
    assert found["losses"].rows[0].apart == Figure(apart["mean"], apart["low"], apart["high"])
    reading = json.loads((TAKEN["agents"] / "reading-category.json").read_text())["ways"]
    spent = {way: sum(one["tokens"]) for way, one in reading.items()}
    saved = next(row for row in found["agents"].rows if row.measure.startswith("tokens"))
    assert saved.apart.mean == pytest.approx(1 - spent["hierarchy"] / spent["flat routes, unshared"])
    assert saved.apart.low < saved.apart.mean < saved.apart.high
    # Baselines against one another are not the paper's test.
    assert not any(row.paper for row in found["ab"].rows)


def test_the_base_is_paired_with_the_rules_by_seed(tmp_path):
    episodes = TAKEN["tags"] / "episodes"
    with np.load(episodes / "sft_seed-1_test.npz") as found:
        made = {name: values if name == "users" else values - 0.125 for name, values in found.items()}
    (tmp_path / "episodes").mkdir()
    np.savez(tmp_path / "episodes" / "base_seed-1_test.npz", **made)
    np.savez(tmp_path / "baselines.npz", **dict.fromkeys(BASELINES, made["deployed"][:, 0]))
    every = tags({**TAKEN, "base": tmp_path}).rows
    assert [row.measure for row in every if row.order == "quota < SFT"] == [every[0].measure]
    rows = [row for row in every if row.order == "Base < SFT"]
    assert [row.apart.mean for row in rows] == pytest.approx([0.125] * 3, abs=1e-6)
    assert rows[0].paper == "23.08 < 29.20 HR@30"


def test_grades_are_paired_by_row_and_seed(tmp_path):
    users = [1, 1, 2, 3]
    for seed in (0, 1):
        for loss, good in (("list_wise", [1.0, 1.0, 1.0, 0.0]), ("point_wise", [1.0, 0.0, 1.0, 0.0])):
            run = tmp_path / "runs" / f"{loss}-{seed}"
            for folder, values in (("start", [0.0, 0.0, 1.0, 0.0]), ("round-1/run", good)):
                (run / folder).mkdir(parents=True)
                probe = {"users": users, "superior": values, "accepted": values}
                (run / folder / "probe.json").write_text(json.dumps(probe))
    found = quality.collected(tmp_path)
    assert found["seeds"] == [0, 1]
    assert found["differences"]["list-wise - point-wise"]["superior"]["mean"] == 0.25
    assert found["differences"]["list-wise - warm start"]["superior"]["mean"] == 0.5
    (tmp_path / "quality.json").write_text(json.dumps(found))
    assert TABLES["quality"]({"quality": tmp_path}).rows[0].paper


def test_the_report_says_what_is_missing_and_what_was_taken(tmp_path):
    take(tmp_path, "losses", TAKEN["losses"])
    text = report.write(tmp_path, read(COMMITTED)).read_text()
    assert "**Missing: tags, hybrid, styled, quality, judge, agents, base, ab.**" in text
    assert f"taken from `{TAKEN['losses']}`" in text
    assert "6 processor minutes" in text
    assert (tmp_path / "plots" / "orders.png").stat().st_size > 10_000
    with pytest.raises(BenchmarkError, match="no stage that has ended"):
        report.write(tmp_path / "other", read(COMMITTED))


def test_the_committed_report_is_that_of_its_results(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 2000)
    monkeypatch.chdir(ROOT)
    output = tmp_path / "paper"
    shutil.copytree(RESULTS / "paper", output)
    assert report.write(output, read(COMMITTED)).read_text() == (RESULTS / "paper" / "report.md").read_text()


# --- the committed plan ---


def arguments(stage, number):
    return stage.arguments(number, {name: f"runs/{name}" for name in (*TABLES, "base")})


def test_stages_wait_for_those_whose_folders_they_read():
    stages = read(COMMITTED)
    assert set(stages) == {*TABLES, "base"}
    assert {name: stage.needs for name, stage in stages.items() if stage.needs} == {
        "base": {"tags"},
        "ab": {"tags"},
    }


def test_every_command_of_the_plan_parses():
    offered = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    for stage in read(COMMITTED).values():
        for number in range(len(stage.commands)):
            _, module, *rest = arguments(stage, number)
            if module != "recrl.launch.cli":
                assert import_module(module).__name__ == module
                continue
            command = typer.main.get_command(app)
            while hasattr(command, "commands"):
                name, *rest = rest
                command = command.commands[name]
            if stage.commands[number].startswith("recrl bench "):
                name, *rest = rest
                place, _, attribute = offered["recrl.benchmarks"][name].partition(":")
                command = typer.main.get_command(getattr(import_module(place), attribute))
            found = command.make_context(name, rest)
            config = found.params.get("config")
            if config in ("explanations", "flywheel", "hybrid", "demo"):
                load(config, found.params.get("overrides") or [], resolve=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("others: [recrl train]", "stages: ab, agents"),
        ("tags: [rm -r runs]", "begin it with recrl or python"),
        ("base: ['recrl bench rules {tags}']\ntags: [recrl]", "base needs tags"),
        ("{", "--plan"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(tmp_path, text, message):
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(BenchmarkError, match=message):
        read(tmp_path / "plan.yaml")


# --- stages ---

FIRST = "python -c \"open('{tags}/first', 'a').write('x')\""
# Fails where it is the first time, as after a kill.
SECOND = (
    "python -c \"import os, sys; found = os.path.exists('{tags}/second'); open('{tags}/second', 'a'); "
    'sys.exit(not found)"'
)


def test_a_stage_that_failed_goes_on_with_its_last_command_and_is_not_done_twice(tmp_path):
    stages = {
        "tags": Stage("tags", (FIRST, SECOND)),
        "base": Stage(
            "base", ("python -c \"open('{base}/second', 'w').write(open('{tags}/first').read())\"",)
        ),
    }
    told = []
    with pytest.raises(BenchmarkError, match="stage tags ended with code 1; the same command goes on"):
        execute(tmp_path, stages, ["tags", "base"], 2, told.append)
    assert (record_of(tmp_path, "tags").ended, record_of(tmp_path, "base")) == (1, None)
    execute(tmp_path, stages, ["tags", "base"], 2, told.append)
    assert (tmp_path / "base" / "second").read_text() == "x"
    found = record_of(tmp_path, "tags")
    assert (found.done, found.attempts) == (True, 2)
    assert found.seconds > 0
    told.clear()
    execute(tmp_path, stages, ["tags", "base"], 2, told.append)
    assert told == ["tags: there", "base: there"]
    other = {"tags": Stage("tags", (FIRST,))}
    (tmp_path / "tags.json").write_text(json.dumps({**vars(found), "ended": 1}))
    with pytest.raises(BenchmarkError, match="is of other commands than --plan has"):
        execute(tmp_path, other, ["tags"], 1, told.append)


def test_a_stage_needs_those_that_it_reads(tmp_path):
    stages = {"tags": Stage("tags", (FIRST,)), "base": Stage("base", ("python -c pass {tags}",))}
    with pytest.raises(BenchmarkError, match="stage base needs tags"):
        execute(tmp_path, stages, ["base"], 1, print)
    with pytest.raises(BenchmarkError, match="there is no such folder"):
        take(tmp_path, "tags", tmp_path / "nowhere")
    take(tmp_path, "tags", RESULTS / "rules")
    execute(tmp_path, stages, ["base"], 1, print)
    assert record_of(tmp_path, "base").done


@pytest.mark.slow
def test_a_killed_bench_leaves_no_process_and_goes_on(tmp_path):
    plan, output = tmp_path / "plan.yaml", tmp_path / "paper"
    plan.write_text(
        "losses:\n  - >-\n    python -c \"import os, shutil, time; found = os.path.exists('{losses}/begun'); "
        "open('{losses}/begun', 'a').close(); time.sleep(0 if found else 600); "
        f"shutil.copy('{TAKEN['losses'] / 'losses.json'}', '{{losses}}')\"\n"
    )
    command = [
        sys.executable,
        "-m",
        "recrl.benchmarks.paper.cli",
        "--plan",
        str(plan),
        "--output",
        str(output),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ)
    until = time.monotonic() + 120
    while not (output / "losses" / "begun").exists():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    record = Record.read(output / "losses.json")
    assert not record.done
    again = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert not psutil.pid_exists(record.process[0])
    assert "point-wise < list-wise" in (output / "report.md").read_text()
    assert Record.read(output / "losses.json").attempts == 2
