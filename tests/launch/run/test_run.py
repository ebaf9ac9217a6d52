"""Whole runs through the command line, small but real."""

import datetime as dt
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import movielens
import polars as pl
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from whole_runs import SMALL, finished, here, lines, recrl

from recrl.launch.config.reading import load
from recrl.launch.report.write import write
from recrl.launch.run.folder import LOCK
from recrl.launch.run.progress import Display
from recrl.launch.run.setup import prepare_setup


@pytest.fixture
def config(tmp_path, cache) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "output": str(tmp_path / "run"), "data": {"cache": str(cache)}}))
    return path


@pytest.mark.slow
def test_a_run_leaves_everything_it_promises(config, tmp_path, panel_task):
    output = finished("train", str(config), "evaluation.hold=auto", anew=True)
    run = tmp_path / "run"
    assert "report:" in output
    for name in (
        "config.yaml",
        "catalog.json",
        "report.md",
        "evaluation.json",
        "examples.json",
        "facts.json",
        "warm/config.json",
    ):
        assert (run / name).exists(), name
    for name in ("policy/model.safetensors", "plots/training.png", "plots/conflict.png"):
        assert (run / name).stat().st_size > 1000, name
    boards = {path.parent.name for path in (run / "checkpoints").rglob("events.out.tfevents*")}
    assert {"warm_start", "evaluation"} < boards
    evaluated = EventAccumulator(str(run / "checkpoints" / "runs" / "evaluation")).Reload().Tags()
    assert "unseen_users/sampled/recall/trained" in evaluated["scalars"]
    assert len([tag for tag in evaluated["tensors"] if tag.startswith("answers/")]) == 10
    (training,) = boards - {"warm_start", "evaluation"}
    logged = EventAccumulator(str(run / "checkpoints" / "runs" / training)).Reload().Tags()["scalars"]
    assert {"train/constraint/novelty/slack", "train/constraint/novelty/bound"} <= set(logged)
    log = lines(run)
    assert [row["step"] for row in log] == [1, 2, 3, 4]
    for key in (
        "objective",
        "rewards/diversity/mean",
        "constraint/novelty >= 0.3/slack",
        "constraint/novelty >= 0.3/price",
        "constraint/duplicates <= 0.03/status",
        "conflict/corr/recall~novelty",
    ):
        assert key in log[-1], key
    report = (run / "report.md").read_text()
    for word in (
        "quota",
        "own frequency",
        "EASE",
        "Ten answers",
        "warm start",
        "labels it simulated",
        "## Conflict",
        "| recall~novelty |",
        "effective weight",
        "groups without variation",
        "slack",
    ):
        assert word in report, word
    result = json.loads((run / "evaluation.json").read_text())
    assert result["populations"]["unseen users"]["episodes"] == 24

    # What is shown holds every bound, of both policies and of the ranking without a language model.
    assert list(result["hold"]) == ["warm start", "trained", "priced"]
    assert all(one["met"] for held in result["hold"].values() for one in held["prices"])
    for constraint in result["populations"]["unseen users"]["deployed"]["constraints"]:
        for policy in result["hold"]:
            assert constraint[policy]["slack"]["mean"] >= -1e-6, (constraint["name"], policy)
    assert "## Prices of what is shown" in report

    # A second run does not overwrite the first one, and an evaluation can be repeated with other settings.
    assert "holds a run already" in here("train", str(config), code=2)
    here("eval", str(run), "evaluation.max_episodes=10", "evaluation.hold=off")
    (earlier,) = (run / "earlier").iterdir()
    assert (earlier / "report.md").read_text() == report
    assert (earlier / "plots" / "training.png").exists()
    again = json.loads((run / "evaluation.json").read_text())
    assert again["populations"]["unseen users"]["episodes"] == 10

    # A reward that failed is told of, and intervals of equal values are drawn though they miss the mean.
    rows = lines(run)
    for row, share in zip(rows, (0.0, 0.5, 0.0, 0.25), strict=True):
        row["rewards/diversity/failed"] = share
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = again["populations"]["unseen users"]["deployed"]["metrics"]["quota"]["novelty"]
    table["low"] = table["high"] = table["mean"] - 1e-16
    again["populations"]["unseen users"]["sampled"]["gain"] = None
    (run / "evaluation.json").write_text(json.dumps(again))
    text = write(run).read_text()
    assert "`diversity` 18.8% (of a step up to 50.0%)" in text
    assert "Nothing can be said of the objective" in text
    assert "Not scored" not in report


@pytest.mark.slow
def test_segments_schedules_credit_per_tag_and_a_reference_start(config, tmp_path, panel_task):
    constraints = ["novelty >= 0.3 where segment=cold (mean)", "duplicates <= 0.5 -> 0.1 over 4 (mean)"]
    (tmp_path / "quiet.py").write_text("def silent(completions):\n    return [None for _ in completions]\n")
    silent = {"name": "silent", "use": str(tmp_path / "quiet.py:silent"), "range": [0, 1]}
    output = here(
        "train",
        str(config),
        f"rewards={json.dumps([*SMALL['rewards'], silent])}",
        f"optimizer.constraints={json.dumps(constraints)}",
        "optimizer.credit=tag",
        "optimizer.gradient_conflict_every=2",
        "optimizer.reference.prompts=8",
        "optimizer.reference.answers=16",
        "optimizer.reference.kl=0.5",
        "train.prompts_per_step=8",
        "evaluation.max_episodes=120",
    )
    assert "effective samples a prompt" in output
    run = tmp_path / "run"
    log = lines(run)
    slacks = [
        row["constraint/duplicates <= 0.1/slack"] + row["constraint/duplicates <= 0.1/mean"] for row in log
    ]
    assert slacks == pytest.approx([0.5, 0.4, 0.3, 0.2])  # the bound of each generation batch
    # A cosine is left out where the two halves of the groups show no common gradient.
    compared = [any(key.startswith("conflict/gradient_cosine/") for key in row) for row in log]
    assert compared[0] or compared[2]
    assert not any(compared[1::2])
    assert "conflict/effective_weight/novelty" in log[-1]
    report = (run / "report.md").read_text()
    assert "novelty >= 0.3 where segment=cold" in report
    assert "| silent | no score | no score |" in report
    (row,) = json.loads((run / "evaluation.json").read_text())["populations"]["unseen users"]["sampled"][
        "constraints"
    ][:1]
    cold = row["trained"]["slack"]
    assert 0 < cold["episodes"] < 60
    assert cold["episodes"] + cold["dropped"] == 120


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_from_which_resume_goes_on(config, tmp_path, panel_task):
    run = tmp_path / "run"
    process = recrl("train", str(config), "train.steps=60", "train.save_every=100")
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not ((run / "metrics.jsonl").exists() and len(lines(run)) >= 2):
        assert process.poll() is None, process.stdout.read()[-3000:]
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output[-3000:]
    stopped = len(lines(run))
    assert stopped < 60
    assert f"stopped after step {stopped}" in output.replace("\n", " ")
    state = json.loads((run / "checkpoints" / f"checkpoint-{stopped}" / "constraints.json").read_text())
    assert state["step"] == stopped

    end = stopped + 2
    finished("train", str(config), f"train.steps={end}", "--resume", "auto")
    assert [row["step"] for row in lines(run)] == list(range(1, end + 1))
    assert (run / "report.md").exists()


def test_a_start_that_was_refused_leaves_the_folder_free(config, tmp_path):
    wrong = "rewards=[recall, novelty, duplicates, {name: scored, use: http, params: {url: ftp://host}}]"
    assert "'ftp://host' must be an address" in here("train", str(config), wrong, code=2)
    wrong = wrong.replace("ftp", "http").replace("}}", ", columns: [histroy]}}")
    assert "needs 'histroy', which nothing provides" in here("train", str(config), wrong, code=2)
    # A run that was to be replaced is back.
    run = tmp_path / "run"
    (run / "warm").mkdir()
    (run / "warm" / "weights").write_text("of hours")
    (run / "notes.md").write_text("mine")
    before = contents(run)
    output = here("train", str(config), "seed=3", wrong, "--fresh", code=2)
    assert f"the run that was in {run} is back" in output.replace("\n", " ")
    assert contents(run) == before


def contents(run):
    """All files but the lock, which names the process that had it last."""
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != LOCK}


HOLDER = """
import sys
from pathlib import Path
from recrl.launch.run.folder import RunFolder

with RunFolder(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_second_start_says_who_works_in_the_folder(config, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-c", HOLDER, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"locked\n"
        for flags in ((), ("--fresh",), ("--resume", "auto")):
            output = here("train", str(config), *flags, code=2)
            assert f"{run} is in use by process {holder.pid} on " in output.replace("\n", " ")
        holder.communicate()
    assert {path.name for path in run.iterdir()} == {".lock"}


@pytest.mark.slow
def test_a_users_own_log_and_a_resume_under_other_settings(config, tmp_path):
    start = dt.datetime(2024, 1, 1, 12)
    rows = [
        {"user": f"u{u}", "time": start + dt.timedelta(weeks=w), "tag": f"genre {t}"}
        for u in range(40)
        for w in range(45)
        for t in sorted({u % 5, w % 7, (u * w) % 11, 6})
    ]
    path = tmp_path / "logs.parquet"
    pl.DataFrame(rows).write_parquet(path)
    small = [f"data={path}", "data.protocol.min_tag_users=3", "task.slots=4"]
    described = here("data", "describe", str(config), *small)
    assert "own frequency" in described
    assert "genre 6" in described
    here("train", str(config), *small, "train.steps=2")
    run = tmp_path / "run"
    report = (run / "report.md").read_text()
    assert "logs.parquet" in report
    assert "genre" in report

    # It goes on under no settings, and with no log, that change what its checkpoint means.
    before = contents(run)
    for override, told in (
        ("seed=1", "seed 0 -> 1"),
        ("policy.tiny.hidden=16", "policy.tiny.hidden 32 -> 16"),
        ("task.slots=5", "task.slots 4 -> 5"),
        ("warm_start.steps=4", "warm_start.steps 3 -> 4"),
        ("optimizer.rule=log_lambda", "optimizer.rule lagrangian -> log_lambda"),
        ("train.steps=1", "was trained for 2 steps already"),
    ):
        said = here("train", str(config), *small, "train.steps=2", override, "--resume", "auto", code=2)
        assert told in " ".join(said.split())
        assert contents(run) == before
    pl.DataFrame([*rows, {**rows[0], "user": "u1"}]).write_parquet(path)
    said = here("train", str(config), *small, "train.steps=2", "--resume", "auto", code=2)
    assert f"data.source={path} has changed since {run} began" in " ".join(said.split())
    assert contents(run) == before
    pl.DataFrame(rows).write_parquet(path)
    said = here("train", str(config), *small, "train.steps=3", "--resume", "auto")
    assert "with changed settings: train.steps 2 -> 3" in said
    assert [row["step"] for row in lines(run)] == [1, 2, 3]
    assert "steps: 3" in (run / "config.yaml").read_text()


def test_films_as_recbole_writes_them_are_trained_on(config, tmp_path):
    """Users who rate many films within an hour, split by their last days, and never asked for a repeat."""
    log = [*movielens.rows(ratings=8000, users=150)]
    films = [
        f"data={movielens.write(tmp_path / 'ml.inter', log)}",
        "data.columns.tag=genres",
        "data.columns.profile=[age, gender]",
        "data.protocol.step=day",
        "data.protocol.split=last",
        "data.protocol.min_active_weeks=1",
        "data.protocol.active_within=300",
        "data.protocol.repeats=false",
        "data.protocol.min_tag_users=5",
        "task.slots=4",
        "task.cutoffs=[1]",
        "task.prompt.holidays=false",
    ]
    described = here("data", "describe", str(config), *films)
    assert "time: column 'timestamp': seconds since 1970, 1997-09-" in described
    assert "profile: column 'age': text; column 'gender': text" in described
    assert "note: only " in described
    assert "test split, all users" in described
    said = here("train", str(config), *films, "train.steps=3")
    assert "note: only " in said
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert {"recall@4", "hit@1", "ndcg@1"} <= set(str(evaluation).replace("'", " ").split())
    report = (tmp_path / "run" / "report.md").read_text()
    assert "ml.inter" in report
    assert ", day " in report
    recs = tmp_path / "recs.parquet"
    here("recommend", str(tmp_path / "run"), "--limit", "40", "--output", str(recs))
    rated = {user: set() for user in range(1, 151)}
    for user, _, _, _, genres, *_ in log:
        rated[user] |= {*genres}
    table = pl.read_parquet(recs)
    assert table.height == 40
    for user, items in table.select("user", "items").iter_rows():
        assert not {*items} & rated[int(user)]
        assert len(items) == min(4, len(movielens.GENRES) - len(rated[int(user)]))


def test_training_episodes_are_limited_to_an_even_share(cache, panel_task):
    overrides = ["task.max_train_episodes=50", f"data.cache={cache}", "rewards=[recall]"]
    config = load("demo", [*overrides, "optimizer.constraints=[]"])
    rows = prepare_setup(config, Display(False)).training_rows
    assert len(rows) == 50
    assert len({row["prompt"][-1]["content"] for row in rows}) == 50
    episodes = panel_task.split("train")
    assert rows[0]["target"] == episodes["target"][0].to_list()
    assert rows[-1]["target"] == episodes["target"][-1].to_list()


@pytest.mark.slow
def test_the_real_small_model_takes_a_step(config, tmp_path, panel_task):
    """SmolLM2-135M from its package: loads, answers, is scored, and its weights move."""
    here(
        "train",
        str(config),
        "policy=smollm2",
        "task.max_history=6",
        "task.slots=3",
        "warm_start.steps=1",
        "warm_start.prompts_per_step=1",
        "warm_start.lists_per_prompt=1",
        "warm_start.learning_rate=1e-5",
        "train.learning_rate=1e-6",
        "train.steps=1",
        "train.prompts_per_step=2",
        "train.group_size=2",
        "train.max_answer_tokens=12",
        "evaluation.max_episodes=2",
        "evaluation.answers_per_prompt=1",
        "evaluation.hold=off",  # prices are found by answering again and again
    )
    assert len(lines(tmp_path / "run")) == 1
    saved = json.loads((tmp_path / "run" / "policy" / "config.json").read_text())
    assert "quantization_config" not in saved


BROKEN = """
def broken(answers):
    return [1 / len(a.slots) + undefined for a in answers]
"""


OWN = "name: broken, use: 'broken.py:broken', range: [0, 1]"
GONE = "name: gone, use: http, params: {url: 'http://127.0.0.1:9'}, range: [0, 1]"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (f"{{{OWN}}}", "reward 'broken' raised NameError"),
        (f"{{{OWN}, on_error: missing}}", "reward 'broken' raised NameError"),
        (f"{{{GONE}}}", "POST http://127.0.0.1:9"),
        (f"{{{GONE}, on_error: missing}}", "POST http://127.0.0.1:9"),
    ],
)
def test_a_broken_reward_is_met_before_anything_is_trained(
    cache, panel_task, tmp_path, monkeypatch, entry, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text(BROKEN)
    rewards = f"rewards=[recall, novelty, duplicates, {entry}]"
    output = here("train", "demo", rewards, f"data.cache={cache}", "output=run", code=2)
    assert message in output
    assert ("broken.py" in output) == ("broken" in entry), "the traceback begins in the reward's own code"
    assert not (tmp_path / "run" / "warm_start.jsonl").exists()
    assert not (tmp_path / "run" / "warm").exists()


def test_a_mistake_about_the_model_is_met_before_the_data_are_prepared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for place, message in (("/nowhere/model", "no such folder"), ("empty", "model_type")):
        output = here("train", "llm", f"policy={place}", "data.cache=cache", "output=run", code=2)
        assert f"policy.model={place}" in output.replace("'", "")
        assert message in output
        assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "demo", "train.stpes=1"), "did you mean 'steps'"),
        (("train", "nowhere.yaml"), "no configuration 'nowhere.yaml'"),
        (("train", "demo", "data=nowhere.parquet", "output=never"), "no such file"),
        (("eval", "nowhere"), "holds no trained policy"),
        (("train", "demo", "output=never", "--resume", "never/checkpoint-3"), "no such folder"),
        (("train", "demo", "output=never", "--resume", "auto", "--fresh"), "give one of them"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = here(*arguments, code=2)
    assert message in output
    assert "Traceback" not in output
