"""The scale benchmark, small: every part runs for real and its report says what was found."""

import json
import signal
from dataclasses import replace

import polars as pl
import pytest
from typer.testing import CliRunner
from whole_runs import recrl

from recrl.benchmarks.scale import logs, resume
from recrl.benchmarks.scale.cli import app


def test_made_up_logs_have_the_rows_that_were_asked_for_in_order_of_time(tmp_path):
    users = logs.write(tmp_path / "log.parquet", 20_000, tags=50)
    log = pl.read_parquet(tmp_path / "log.parquet")
    assert log.height == 20_000
    assert log["time"].is_sorted()
    assert log["user"].n_unique() <= users == 166
    assert log["tag"].n_unique() == 50
    # Users come back to their favourites.
    counts = log.group_by("user", "tag").len().sort("len", descending=True)
    favourite = counts.group_by("user", maintain_order=True).head(12)["len"].sum()
    assert 0.8 < favourite / log.height < 0.98
    logs.write(tmp_path / "again.parquet", 20_000, tags=50)
    assert log.equals(pl.read_parquet(tmp_path / "again.parquet"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    config = resume.prepare(tmp_path_factory.mktemp("resume"))
    return config, resume.uninterrupted(config)


@pytest.fixture
def forked(monkeypatch):
    """Each start of a trial, whose end is held against that of a run that began with Python."""

    def start(config, run):
        with run.with_suffix(".log").open("ab") as log:
            return recrl("train", str(config), f"output={run}", "--resume", "auto", log=log)

    monkeypatch.setattr(resume, "_start", start)


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    "trial",
    [
        # Across the end of an epoch, from a checkpoint behind which steps were lost.
        resume.Trial("training", resume.STEPS_OF_AN_EPOCH, 0.05, signal.SIGKILL),
        resume.Trial("warm start", 13, 0.0, signal.SIGTERM),
        resume.Trial("evaluation", 0, 0.3, signal.SIGTERM),
    ],
    ids=str,
)
def test_a_run_that_gets_a_signal_ends_as_one_that_nobody_touched(whole, trial):
    config, (expected, _) = whole
    epochs = [row["epoch"] for row in expected.logged]
    assert epochs[resume.STEPS_OF_AN_EPOCH - 1] == pytest.approx(1.0)
    assert (len(expected.losses), len(expected.logged)) == (resume.WARM_STEPS, resume.STEPS)
    number = resume.STAGES.index(trial.stage)
    found = resume.interrupted(config, number, trial)
    assert expected.differences(found) == []
    said = (config.parent / f"trial-{number}.log").read_text()
    stopped = {
        "warm start": "of the warm start; go on with: recrl train",
        "evaluation": "SIGTERM: stopped",  # while a policy is evaluated, or between two
    }
    assert stopped.get(trial.stage, "going on from") in said
    # It can tell: one step less, another weight, a file that is left.
    for change in ({"logged": found.logged[:-1]}, {"weights": {}}, {"files": found.files | {".seen-1"}}):
        assert expected.differences(replace(found, **change))


def test_a_checkpoint_of_the_step_at_which_a_run_was_stopped_stands_in_place_of_the_one_before(tmp_path):
    found = []
    for name, steps in (("whole", (12, 14)), ("stopped", (13, 14)), ("one too many", (12, 13, 14))):
        for step in steps:
            (tmp_path / name / "checkpoints" / f"checkpoint-{step}").mkdir(parents=True)
            (tmp_path / name / "checkpoints" / f"checkpoint-{step}" / "model.safetensors").touch()
        (tmp_path / name / "checkpoints" / "runs" / name).mkdir(parents=True)
        found.append(resume._files(tmp_path / name))
    assert found[0] == found[1]
    assert len(found[2] - found[0]) == 2


def test_moments_of_trials_follow_the_seed():
    one, same, other = (resume.trials(8, seed, dict.fromkeys(resume.STAGES, 0.1)) for seed in (0, 0, 1))
    assert one == same != other
    assert {(trial.stage, trial.number) for trial in one} == {
        (stage, number) for stage in resume.STAGES for number in (signal.SIGKILL, signal.SIGTERM)
    }


@pytest.mark.slow
def test_the_report_of_small_parts(tmp_path):
    folder = tmp_path / "scale"
    found = CliRunner().invoke(
        app,
        [
            *("--output", str(folder), "--parts", "data,training", "--events", "20000,40000"),
            *("--model", "quick", "--strategies", "zero2", "--steps", "1", "--rounds", "1"),
        ],
    )
    assert found.exit_code == 0, found.output
    result = json.loads((folder / "scale.json").read_text())
    small, large = result["data"]["found"]
    assert (small["events"], large["events"]) == (20_000, 40_000)
    assert large["episodes"] > small["episodes"] > 500
    alone, _, shared = result["training"]["found"]
    # Two processes share Adam's moments, and each holds the weights.
    weights = alone["parameters"] * 4
    assert alone["rounds"][0]["states"] == pytest.approx(3 * weights, rel=0.1)
    assert 1.5 * weights < shared["rounds"][0]["states"] < 2.8 * weights
    report = (folder / "report.md").read_text()
    for word in ("## Tables of a log", "## Several processes", "zero2 x 2", "20,000", "weak"):
        assert word in report
    for name in ("data", "training"):
        assert (folder / "plots" / f"{name}.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--parts", "everything"), "--parts everything: unknown"), (("--report-only",), "is missing")],
)
def test_mistakes_are_named(tmp_path, arguments, message):
    found = CliRunner().invoke(app, ["--output", str(tmp_path / "none"), *arguments])
    assert found.exit_code == 2
    assert message in found.output + found.stderr
