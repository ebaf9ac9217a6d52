"""The benchmark of rules: its plan and its figures on made-up results, and a small bench that is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import product

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from recrl.benchmarks import BenchmarkError
from recrl.benchmarks.rules import report, summary
from recrl.benchmarks.rules.cells import ARMS, FREE, HELD, MODES, SAMPLED, Cell, Chosen, Plan
from recrl.benchmarks.rules.cli import app
from recrl.benchmarks.rules.execute import EPISODES, PLAN, RESULTS, SETTINGS, Bench, read
from recrl.benchmarks.scale import resume
from recrl.launch.config.reading import load

PLANNED = Plan(
    arms=["sft", "weighted_sum", "gate", "lagrangian"],
    seeds=[0, 1],
    tuning_seed=100,
    rates=[1e-4, 2e-4],
    weights=[0.3, 1.0],
    sweep=[0.1, 1.0],
    sweep_seeds=[0],
)
CHOSEN = {
    "sft": Chosen(None, None),
    "weighted_sum": Chosen(1e-4, 1.0),
    "gate": Chosen(2e-4, None),
    "lagrangian": Chosen(2e-4, None),
}
FLOOR = [{"name": "novelty >= 0.3", "reward": "novelty", "sign": 1, "bound": 0.3}]


def record(cell, objective=0.2, novelty=0.3, seconds=100.0):
    means = {mode: [objective, novelty] for mode in MODES}
    spent = {"training": seconds, "judging": 10.0, "whole": seconds + 20}
    told = {"means": means, "seconds": spent, "objective": "recall@10", "machine": {"jobs": 1, "threads": 2}}
    return {"cell": vars(cell), **told, "hold": None}


# --- what is run ---


def test_all_rules_are_tuned_over_the_same_rates_and_sums_over_weights_too():
    tuning = PLANNED.tuning()
    assert {cell.seed for cell in tuning} == {100}
    assert {cell.split for cell in tuning} == {"validation"}
    tried = {arm: [(c.rate, c.weight) for c in tuning if c.arm == arm] for arm in ARMS}
    assert tried["gate"] == tried["lagrangian"] == [(1e-4, None), (2e-4, None)]
    assert tried["weighted_sum"] == list(product([1e-4, 2e-4], [0.3, 1.0]))
    assert tried["sft"] == tried["trl"] == tried["gdpo"] == []


def test_tuning_takes_the_best_deployed_lists_under_prices_and_the_first_of_equals():
    found = {cell: record(cell, 0.2) for cell in PLANNED.tuning()}
    best = Cell("weighted_sum", 2e-4, 0.3, 100, "validation")
    found[best] = record(best, 0.21)
    # What a policy does without prices does not count.
    other = Cell("gate", 2e-4, None, 100, "validation")
    found[other]["means"][FREE] = [0.9, 0.3]
    assert PLANNED.choose(found) == {
        "sft": (None, None),
        "weighted_sum": (2e-4, 0.3),
        "gate": (1e-4, None),
        "lagrangian": (1e-4, None),
    }


def test_reported_runs_and_the_sweep_use_what_tuning_chose():
    assert PLANNED.reported(CHOSEN)[:3] == [
        Cell("sft", None, None, 0),
        Cell("weighted_sum", 1e-4, 1.0, 0),
        Cell("gate", 2e-4, None, 0),
    ]
    assert len(PLANNED.reported(CHOSEN)) == 8
    assert PLANNED.swept(CHOSEN) == [
        Cell("lagrangian", 2e-4, None, 0),
        *(Cell(arm, 1e-4, weight, 0) for arm in ("weighted_sum", "trl") for weight in (0.1, 1.0)),
    ]


def test_a_cell_is_the_shared_configuration_but_for_its_own_values():
    base = load("demo")
    found = Cell("trl", 1e-4, 0.3, 5).config(base)
    assert (found.seed, found.train.learning_rate) == (5, 1e-4)
    assert (found.optimizer.rule, found.optimizer.credit) == ("weighted_sum", "sequence")
    weights = {spec.name: spec.weight for spec in found.rewards}
    assert {name: w for name, w in weights.items() if w} == {
        "recall": 1.0,
        "novelty": 0.3,
        "duplicates": -0.3,
    }
    assert found.problem().sum_weights["duplicates"] == -0.3
    own = Cell("lagrangian", 2e-4, None, 0).config(base)
    assert own.optimizer == base.optimizer
    assert own.rewards == base.rewards
    assert own.train == base.train


# --- what is found ---


@pytest.fixture
def finished(tmp_path):
    """A made-up folder of a bench whose runs have all ended."""
    random, users = np.random.default_rng(0), np.repeat(np.arange(30), 2)
    true = {"weighted_sum": 0.18, "sft": 0.2, "gate": 0.2, "lagrangian": 0.23, "trl": 0.18}
    (tmp_path / EPISODES).mkdir()
    cells = dict.fromkeys([*PLANNED.tuning(), *PLANNED.reported(CHOSEN), *PLANNED.swept(CHOSEN)])
    lines = []
    for cell in cells:
        novelty = {HELD: 0.301, FREE: 0.1, SAMPLED: 0.32}
        objective = true[cell.arm] + random.normal(0, 0.002, 60)
        values = {mode: np.column_stack([objective, np.full(60, novelty[mode])]) for mode in MODES}
        if cell.split == "test":
            np.savez(tmp_path / EPISODES / f"{cell.name}.npz", users=users, **values)
        means = {mode: values[mode].mean(axis=0).tolist() for mode in MODES}
        lines.append(json.dumps({**record(cell), "means": means}))
    (tmp_path / RESULTS).write_text("\n".join(lines) + "\n")
    base = load("demo")
    machine = {"cpu": "a CPU", "cores": 2, "torch": "2", "transformers": "5", "trl": "1", "recrl": "0"}
    config = base.model_dump(mode="json")
    (tmp_path / SETTINGS).write_text(json.dumps({"config": config, "constraints": FLOOR, "machine": machine}))
    (tmp_path / PLAN).write_text(json.dumps({"plan": vars(PLANNED), "chosen": CHOSEN}))
    return tmp_path


def test_the_order_of_the_paper_is_checked_as_found(finished):
    episodes = summary.Episodes(finished / EPISODES)
    arms = summary.of_arms(PLANNED.reported(CHOSEN))
    first, second, both = summary.order(episodes, arms, HELD)
    assert (first.verdict, second.verdict, both.verdict) == ("holds", "not decided", "holds")
    assert first.difference.mean == pytest.approx(0.02, abs=0.002)
    swapped = {**arms, "sft": arms["gate"], "gate": arms["weighted_sum"]}
    assert [step.verdict for step in summary.order(episodes, swapped, HELD)] == [
        "holds",
        "reversed",
        "not decided",
    ]
    assert summary.order(episodes, {"sft": arms["sft"]}, HELD) == []


def test_a_search_ends_with_the_first_run_that_meets_the_bounds_and_the_best_objective():
    swept = PLANNED.swept(CHOSEN)
    one, *_ = swept
    runs = {cell: record(cell, 0.2, 0.2, seconds=300) for cell in swept}
    runs[one] = record(one, 0.218, 0.296)  # within .005 of the bound
    best = Cell("weighted_sum", 1e-4, 1.0, 0)
    runs[best] = record(best, 0.222, 0.31, seconds=200)
    # A better one that misses its bound is none, nor is one of another seed or split.
    runs[Cell("gate", 2e-4, None, 0)] = record(Cell("gate", 2e-4, None, 0), 0.3, 0.29)
    for other in (Cell("gate", 2e-4, None, 1), Cell("gate", 2e-4, None, 0, "validation")):
        runs[other] = record(other, 0.3, 0.3)
    tops, (lagrangian, sums, stock) = summary.searches(swept, runs, FLOOR, SAMPLED)
    assert tops == {0: 0.222}
    assert (lagrangian.until, lagrangian.seconds, lagrangian.expected) == (1, 110.0, 1.0)
    assert (sums.until, sums.found, sums.seconds, sums.expected) == (2, 1, 520.0, 1.5)
    assert (stock.until, stock.seconds, stock.whole, stock.expected) == (None, 620.0, 620.0, None)


def test_the_report_says_what_the_files_say(finished):
    text = report.write(finished).read_text()
    for part in (
        *(f"## {title}" for title in MODES.values()),
        "seeds 0, 1.",
        "| 2 of 2 | 100 |",
        "| Deployed, bounds held by prices: SUM < SFT | +0.020",
        "| lagrangian | 0 | 1 of 1 | 1 | 1.0 | 110 | 110 | - |",
        "| TRL's GRPOTrainer | 0 | 0 of 2 | not reached | - | not in 220 | 220 | over 2.0 |",
        "Best objective of a run that meets the bounds: none (seed 0).",
    ):
        assert part in text
    assert "runs are missing" not in text
    assert (finished / "plots" / "deployed.png").stat().st_size > 1000
    lines = (finished / RESULTS).read_text().splitlines()
    lost = Cell("gate", 2e-4, None, 1)
    kept = [line for line in lines if Cell.from_record(json.loads(line)) != lost]
    (finished / RESULTS).write_text("\n".join(kept) + "\n")
    assert "**1 of 8 runs are missing.**" in report.write(finished).read_text()


# --- how it goes on, and what it refuses ---


def test_half_a_line_of_a_killed_bench_is_dropped_and_another_damage_is_named(tmp_path):
    whole = json.dumps(record(Cell("gate", 1e-4, None, 0)))
    (tmp_path / RESULTS).write_text(f"{whole}\n{whole[:20]}")
    assert read(tmp_path) == [json.loads(whole)]
    Bench(tmp_path, load("demo"), 1, 1, print).open()
    assert (tmp_path / RESULTS).read_text() == f"{whole}\n"
    (tmp_path / RESULTS).write_text(f"{whole[:20]}\n{whole}\n")
    with pytest.raises(BenchmarkError, match="a line is damaged"):
        read(tmp_path)


def test_results_of_another_configuration_are_not_mixed_in(tmp_path):
    base = load("demo")
    Bench(tmp_path, base, 1, 1, print).open()
    Bench(tmp_path, base, 2, 1, print)
    with pytest.raises(BenchmarkError, match=r"other settings \(config\)"):
        Bench(tmp_path, load("demo", ["train.steps=7"]), 1, 1, print)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rules", "magic"), "--rules magic: unknown; known: sft, single"),
        (("--tuning-seed", "1"), "--tuning-seed 1 is one of the seeds"),
        (("--grid", "fast"), "--grid fast: give numbers"),
        (("--weights", "0"), "--weights 0: give numbers above 0"),
        (("--set", "optimizer.constraints=[]"), "it has no constraints"),
        (("--set", "train.stepz=1"), "unknown setting 'train.stepz'"),
        (("--config", "prompts", "--sweep", "none"), "task.use=prompts has no validation split to tune on"),
        (("--report-only",), "the tuning has not ended"),
    ],
)
def test_mistakes_are_named(tmp_path, arguments, message):
    found = CliRunner().invoke(app, ["--output", str(tmp_path / "none"), *arguments])
    assert found.exit_code == 2
    assert message in found.output + found.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_killed_bench_goes_on_and_ends_with_every_run(tmp_path):
    """On a real, small task: warm start, recrl's trainer and TRL's, prices, and the report of all."""
    config, out = resume.prepare(tmp_path / "task"), tmp_path / "bench"
    tree = yaml.safe_load(config.read_text())
    tree["warm_start"]["steps"], tree["evaluation"]["every"] = 5, 0
    config.write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "recrl.benchmarks.rules.cli", "--config", str(config)]
    command += ["--output", str(out), "--rules", "sft,lagrangian", "--seeds", "1", "--grid", "1e-3"]
    command += ["--weights", "1", "--sweep", "1", "--steps", "3", "--episodes", "8"]
    command += ["--jobs", "2"]  # a thread each: two would wait for a core of another test
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while first.poll() is None and not ((out / RESULTS).exists() and (out / RESULTS).read_text()):
        assert time.monotonic() < until
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = (out / RESULTS).read_text()
    assert len(before.splitlines()) == 1
    warm = next((out / "runs").glob("warm_seed-0/warm/*.safetensors"))
    made = warm.stat().st_mtime_ns

    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "none left" in said.stdout
    assert warm.stat().st_mtime_ns == made
    assert (out / RESULTS).read_text().startswith(before)
    records = {r["cell"]["arm"]: r for r in read(out)}
    assert records.keys() == {"sft", "lagrangian", "weighted_sum", "trl"}
    for r in records.values():
        with np.load(out / EPISODES / f"{Cell.from_record(r).name}.npz") as found:
            assert len(found["users"]) == 8
            for mode in MODES:
                assert np.nanmean(found[mode], axis=0).tolist() == pytest.approx(r["means"][mode])
    # All began alike and were trained, each by its rule.
    arms = ("lagrangian", "weighted_sum", "trl")
    policies = [next((out / "runs").glob(f"{arm}_*/policy/model.safetensors")) for arm in arms]
    assert len({path.read_bytes() for path in (warm, *policies)}) == 4
    assert records["sft"]["seconds"]["training"] == 0 < records["trl"]["seconds"]["training"]
    assert records["lagrangian"]["hold"]["prices"]
    assert not list((out / "runs").glob("*_rate-*/checkpoints"))
    text = (out / "report.md").read_text()
    assert "| TRL's GRPOTrainer | 0 |" in text
    assert "None: one value each" in text
