"""Validation while a run trains: which policy it chooses, that training does not notice, when it stops it."""

import json
import os
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from whole_runs import SMALL, finished, here, lines

from recrl.benchmarks.scale import logs
from recrl.envs.prompts import arithmetic
from recrl.launch.run.callbacks import read_steps
from recrl.launch.run.validation import LOG, best_policy, over_patience
from recrl.rl.evaluation.settings import EvaluationConfig
from recrl.rl.evaluation.validation import merit


@pytest.fixture
def config(tmp_path) -> Path:
    """Of a small shop, where prices and the ranking under them take no time."""
    logs.write(tmp_path / "log.parquet", 100 * logs.EVENTS_OF_A_USER, tags=40)
    source = {"source": str(tmp_path / "log.parquet"), "protocol": {"min_tag_users": 2}}
    changes = {
        "output": str(tmp_path / "run"),
        "data": {**source, "cache": str(tmp_path / "cache")},
        "evaluation": {"max_episodes": 8, "validation_episodes": 12, "hold": "auto"},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}))
    return path


def validations(run):
    """What was found, without the time that it took."""
    return [{**one, "seconds": None} for one in read_steps(run / LOG)]


def weights(folder):
    return {name: value.tolist() for name, value in load_file(folder / "model.safetensors").items()}


def untimed(run):
    timed = ("time", "second", "memory")
    return [{k: v for k, v in row.items() if not any(word in k for word in timed)} for row in lines(run)]


def found(step, headline, *highs):
    slacks = {f"bound {i}": {"mean": high - 0.1, "high": high} for i, high in enumerate(highs)}
    return {
        "step": step,
        "headline": "recall",
        "metrics": {"recall": {"mean": headline}},
        "constraints": slacks,
    }


def test_a_bound_that_is_surely_missed_outweighs_the_headline_and_one_within_its_interval_does_not():
    assert merit(found(1, 0.2, 0.01, 0.0)) > merit(found(2, 0.9, -0.01, 0.0))
    assert merit(found(1, 0.2, -0.01)) > merit(found(2, 0.9, -0.02))
    assert merit(found(1, 0.2, 0.3)) < merit(found(2, 0.3, 0.0))
    assert merit(found(1, 0.2)) < merit(found(2, 0.3))


@pytest.mark.parametrize(("patience", "over"), [(0, False), (1, True), (2, True), (3, False)])
def test_patience_counts_the_validations_since_the_best(tmp_path, patience, over):
    (tmp_path / "best" / "step-4").mkdir(parents=True)
    (tmp_path / LOG).write_text("".join(json.dumps({"step": step}) + "\n" for step in (2, 4, 6, 8)))
    assert over_patience(tmp_path, EvaluationConfig(patience=patience)) is over


@pytest.mark.slow
def test_the_best_policy_is_the_runs_and_training_does_not_notice(config, tmp_path):
    run, plain = tmp_path / "run", tmp_path / "plain"
    said = here("train", str(config), "evaluation.every=2")
    here("train", str(config), f"output={plain}")
    assert untimed(run) == untimed(plain)

    told = validations(run)
    assert [one["step"] for one in told] == [2, 4]
    chosen = max(told, key=merit)
    assert best_policy(run) == run / "best" / f"step-{chosen['step']}"
    assert weights(run / "policy") == weights(best_policy(run))
    assert [path.name for path in (run / "best").iterdir()] == [f"step-{chosen['step']}"]
    for one in told:
        assert one["headline"] == "recall@10"
        assert one["episodes"] == 12
        # Prices hold the bounds on these rows.
        assert all(slack["mean"] >= -1e-6 for slack in one["constraints"].values())
        assert [price["name"] for price in one["prices"]] == ["novelty >= 0.3", "duplicates <= 0.03"]
    assert (
        f"validation after step 4: recall@10 {told[1]['metrics']['recall@10']['mean']:.4f}, bounds met"
        in said
    )
    report = (run / "report.md").read_text()
    assert f"The policy is that of step {chosen['step']}, the best of 2 validations on 12 episodes" in report
    assert (run / "plots" / "validation.png").stat().st_size > 1000

    shown = {}
    for folder in {path.parent for path in (run / "checkpoints").rglob("events.out.tfevents*")}:
        board = EventAccumulator(str(folder))
        board.Reload()
        shown |= {tag: board.Scalars(tag) for tag in board.Tags()["scalars"]}
    (tag,) = (tag for tag in shown if tag.endswith("validation/recall@10"))
    assert [point.step for point in shown[tag]] == [2, 4]


@pytest.mark.slow
def test_a_run_that_goes_on_validates_as_if_it_had_not_stopped(config, tmp_path):
    run, parts = tmp_path / "run", tmp_path / "parts"
    settings = ("evaluation.every=1", "train.average=0.5")
    here("train", str(config), *settings)
    arguments = ("train", str(config), f"output={parts}", *settings)
    here(*arguments)
    # As after a kill behind the validation of step 3, which came after the last checkpoint, of step 2.
    for name in ("checkpoints/checkpoint-4", "policy"):
        os.rename(parts / name, tmp_path / name.replace("/", " "))
    (parts / LOG).write_text("".join(line for line in (parts / LOG).open() if json.loads(line)["step"] < 4))
    (parts / "best" / "step-3").mkdir(parents=True, exist_ok=True)
    here(*arguments, "--resume", "auto")
    assert validations(parts) == validations(run)
    assert best_policy(parts).name == best_policy(run).name
    assert weights(parts / "policy") == weights(run / "policy")

    # One that was stopped behind its last step has the same policy, too.
    for name in ("policy", "report.md"):
        os.rename(parts / name, tmp_path / f"last {name}")
    here(*arguments, "--resume", "auto")
    assert weights(parts / "policy") == weights(run / "policy")


@pytest.mark.slow
def test_a_training_without_progress_ends_early_and_is_over(config, tmp_path):
    run = tmp_path / "run"
    settings = ("train.learning_rate=0", "evaluation.every=1", "evaluation.patience=2")
    here("train", str(config), *settings, "train.steps=8")
    assert [one["step"] for one in validations(run)] == [1, 2, 3]
    assert [row["step"] for row in lines(run)] == [1, 2, 3]
    assert best_policy(run).name == "step-1"
    here("train", str(config), *settings, "train.steps=8", "--resume", "auto")
    assert [row["step"] for row in lines(run)] == [1, 2, 3]


@pytest.mark.slow
def test_sharded_processes_validate_one_policy(config, tmp_path):
    """Under ZeRO-3, with an average of weights."""
    settings = ("evaluation.every=2", "train.average=0.5")
    finished("launch", str(config), "--strategy", "zero3", "--gpus", "2", *settings)
    run = tmp_path / "run"
    assert [one["step"] for one in validations(run)] == [2, 4]
    assert weights(run / "policy") == weights(best_policy(run))


def test_a_task_without_a_validation_split_is_refused(tmp_path):
    sums = tmp_path / "sums.jsonl"
    arithmetic.main(str(sums))
    said = here("train", "configs/prompts.yaml", f"task.path={sums}", "evaluation.every=5", code=2)
    assert "evaluation.every=5: task.use=prompts has no episode to validate on" in " ".join(said.split())
