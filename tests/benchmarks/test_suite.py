import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import trim_mean

from recrl.benchmarks.conflict import problems, report, suite, summary
from recrl.benchmarks.conflict.oracles import find_oracle
from recrl.benchmarks.conflict.suite import BenchmarkError, Run

RULES = ["lagrangian", "scalarized_advantage", "single_reward"]


@pytest.fixture(scope="module")
def tables():
    """Two problems, long enough for the rules to come apart."""
    everything = problems.suite()
    return {name: replace(everything[name], steps=100) for name in ("T0 b=0.3", "T5 infeasible")}


@pytest.fixture(scope="module")
def folder(tables, tmp_path_factory):
    """A finished benchmark of three rules and two seeds."""
    folder = tmp_path_factory.mktemp("benchmark")
    records = suite.execute(tables, suite.plan(tables, RULES, 2), folder / suite.RESULTS)
    (folder / suite.FRONTIERS).write_text(json.dumps(suite.frontiers(tables, records)))
    report.write(folder)
    return folder


def quick(tables):
    return suite.shortened(tables, 0.2)


def test_an_interrupted_benchmark_goes_on_where_it_stopped(tables, tmp_path):
    tables, path, seen = quick(tables), tmp_path / "results.jsonl", []
    runs = suite.plan(tables, RULES, 2)
    whole = suite.execute(tables, runs, tmp_path / "whole.jsonl")

    def stop(done, total, record):
        seen.append(suite.key(record))
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        suite.execute(tables, runs, path, on_run=stop)
    with path.open("a") as file:
        file.write('{"problem": "T0 b=0.3", "rule": "gd')  # what a killed process may leave
    records = suite.execute(tables, runs, path, on_run=lambda done, total, r: seen.append(suite.key(r)))
    assert seen == [run.key for run in runs], "every run once, in order"
    assert [suite.key(r) for r in suite.read(path)] == seen
    for one, other in zip(records, whole, strict=True):
        assert one["objective"] == other["objective"]
        assert one["slacks"] == other["slacks"]
    assert (
        suite.execute(tables, runs, path, on_run=lambda *_: pytest.fail("nothing is left to do")) == records
    )


@pytest.mark.slow
def test_worker_processes_find_what_one_process_finds(tables, tmp_path):
    tables = quick({"T0 b=0.3": tables["T0 b=0.3"]})
    runs = suite.plan(tables, ["lagrangian"], 2)
    here = suite.execute(tables, runs, tmp_path / "here.jsonl")
    there = suite.execute(tables, runs, tmp_path / "there.jsonl", workers=2)
    assert [r["objective"] for r in here] == [r["objective"] for r in there]
    assert [r["seed"] for r in there] == [0, 1]


def test_runs_of_another_length_do_not_mix(tables, tmp_path):
    path, short = tmp_path / "results.jsonl", quick(tables)
    runs = [Run("T0 b=0.3", "gdpo", 0)]
    suite.execute(short, runs, path)
    with pytest.raises(BenchmarkError, match=r"'T0 b=0.3' at 20 steps, but this benchmark takes 100"):
        suite.execute(tables, runs, path)


def test_a_line_that_is_no_record_is_named(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"problem": "T0"}\n')
    with pytest.raises(BenchmarkError, match="line 1 is not the record of a run"):
        suite.read(path)


def test_unknown_rule_is_refused_before_anything_runs(tables):
    with pytest.raises(
        BenchmarkError, match="--rules: unknown advantage rule 'lagrangan'; did you mean 'lagr"
    ):
        suite.plan(tables, ["gdpo", "lagrangan"], 1)


def test_a_transformer_plan_pairs_both_kinds_of_credit_and_each_point_of_the_grid_once():
    runs = suite.plan_transformer(3)
    assert len({run.key for run in runs}) == len(runs)
    assert sum(run.credit == "tag" for run in runs) == 3
    fixed = [run.multipliers for run in runs if run.multipliers is not None]
    assert (0.0, 0.0) in fixed
    assert len(fixed) == len(set(fixed)) == round(len(fixed) ** 0.5) ** 2


def test_no_policy_lies_above_the_frontier(tables, folder):
    lines = json.loads((folder / suite.FRONTIERS).read_text())
    for record in suite.read(folder / suite.RESULTS):
        line = lines[record["problem"]]
        slack = min(record["slacks"].values())
        assert record["objective"] <= np.interp(slack, line["slack"], line["objective"]) + 1e-3
    line = lines["T0 b=0.3"]
    at_bound = line["objective"][line["slack"].index(0.0)]
    assert at_bound == pytest.approx(
        find_oracle(tables["T0 b=0.3"].problem, tables["T0 b=0.3"].table).objective
    )
    # Knapsack: every context with v above the bound's quantile may take v, so J*(s) = (1 - (b + s)^2) / 2.
    assert at_bound == pytest.approx((1 - 0.3**2) / 2, abs=2e-3)
    assert max(lines["T5 infeasible"]["slack"]) < 0


def test_bounds_below_the_range_ask_for_nothing_and_above_it_for_too_much(tables):
    problem = tables["T0 b=0.3"].problem
    assert suite.rebound(problem, [-2.0]).constraints[0].bound == 0.0
    assert suite.rebound(problem, [1.2]) is None


def test_headline_is_what_the_records_say(folder):
    records = [r for r in suite.read(folder / suite.RESULTS) if r["family"] == "T0"]
    rows = {row.rule: row for row in summary.summarise(records)}
    text = (folder / "report.md").read_text()
    for rule in RULES:
        runs = sorted((r for r in records if r["rule"] == rule), key=lambda r: r["seed"])
        scores = [r["score"] for r in runs]
        assert rows[rule].score.value == pytest.approx(trim_mean(scores, 0.25))
        assert rows[rule].feasible.value == np.mean([r["violation"] < 0.01 for r in runs])
        cell = f"{rows[rule].score.value:.3f} ["
        assert any(
            line.startswith((f"| {rule} | {cell}", f"| **{rule}** | {cell}")) for line in text.splitlines()
        )
    own, other = (
        [r["score"] for r in records if r["rule"] == rule] for rule in ("lagrangian", "single_reward")
    )
    assert rows["single_reward"].difference.value == pytest.approx(np.mean(np.subtract(other, own)))
    assert next(iter(rows)) == max(rows, key=lambda rule: rows[rule].score.value) == "lagrangian"
    assert rows["single_reward"].difference.high < 0
    assert "Below it: " in text
    assert "`single_reward`" in text.split("Below it: ")[1].split(".")[0]


def test_an_infeasible_problem_has_no_score_and_a_section_of_its_own(folder):
    text = (folder / "report.md").read_text()
    records = [r for r in suite.read(folder / suite.RESULTS) if r["problem"] == "T5 infeasible"]
    assert all(r["score"] is None for r in records)
    own = [r for r in records if r["rule"] == "lagrangian"]
    flagged = sum("infeasible_suspected" in r["statuses"].values() for r in own)
    assert f"| T5 infeasible | lagrangian | {flagged} of 2 |" in text
    assert "| T5 infeasible | single_reward |" not in text, "a rule without prices cannot say so"
    assert "| T5 infeasible | 0" not in text.split("## Rule x problem")[1].split("##")[0]


def test_a_rule_that_violates_is_marked(folder):
    table = (folder / "report.md").read_text().split("## Rule x problem")[1].split("##")[0]
    head, row = (line for line in table.splitlines() if line.startswith(("| problem", "| T0")))
    cells = dict(zip(head.split("|"), row.split("|"), strict=True))
    assert "✗2" in cells[" single_reward "]
    assert "✗" not in cells[" lagrangian "]


def test_every_figure_that_the_report_shows_is_there(folder):
    text = (folder / "report.md").read_text()
    shown = [line.split("](")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert {"plots/pareto.png", "plots/profiles.png", "plots/trajectories-T0.png"} <= set(shown)
    for name in shown:
        assert (folder / name).stat().st_size > 5000


def lost(records):
    """The same runs with the names of two rules exchanged."""
    names = {"lagrangian": "scalarized_advantage", "scalarized_advantage": "lagrangian"}
    return [r | {"rule": names.get(r["rule"], r["rule"])} for r in records]


def test_what_lost_and_what_is_missing_is_said(folder, tmp_path):
    records = lost(suite.read(folder / suite.RESULTS))[:-1]
    text = "\n".join(report.sections(records, {}, tmp_path))
    gap = {row.rule: row for row in summary.summarise([r for r in records if r["family"] == "T0"])}[
        "scalarized_advantage"
    ]
    assert gap.difference.low > 0
    assert (
        f"**Above it by more than the interval: `scalarized_advantage` ({gap.difference.value:+.3f}" in text
    )
    assert "**1 of 12 runs are missing**" in text
    losses = text.split("## Where lagrangian loses")[1].split("##")[0]
    assert f"- T0 b=0.3: `scalarized_advantage` scores higher by {gap.difference.value:+.3f}" in losses
    assert "it is feasible in 2 of 2 runs" in losses


def test_price_error_counts_only_what_lies_outside_of_the_optimal_interval():
    record = {
        "prices": {"a": 0.5, "b": 0.9, "c": 3.0},
        "oracle": {
            "prices": {"a": 0.6, "b": 0.5, "c": 0.9},
            "intervals": {"a": [0.4, 0.7], "b": [0.5, 0.5], "c": [0.9, None]},
        },
    }
    assert summary.price_error(record) == pytest.approx(0.4 / 2.0)
    record["prices"]["a"] = 0.2
    assert summary.price_error(record) == pytest.approx((0.2 + 0.4) / 2.0)
    assert summary.price_error(record | {"prices": dict.fromkeys("abc")}) is None
