"""A task of one's own: a package that pip installed, or a class in a file, trains under a constraint."""

import json

import plugins
import pytest
import yaml
from places import ROOT
from whole_runs import finished

from recrl.envs import task as tasks
from recrl.envs.data.prepared import DataConfig
from recrl.envs.task import TaskError
from recrl.launch import config as configuration
from recrl.launch.config.schema import ConfigError

PLUGIN = ROOT / "examples" / "task-plugin"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return plugins.installed(PLUGIN, tmp_path_factory.mktemp("plugin"))


def test_the_package_is_short():
    assert len((PLUGIN / "ticket_routing" / "__init__.py").read_text().splitlines()) <= 60


@pytest.mark.slow
def test_a_package_of_a_task_trains_under_a_constraint(environment, tmp_path):
    config, run = str(PLUGIN / "config.yaml"), tmp_path / "run"
    assert "Which two desks should see it?" in finished(
        "data", "describe", config, environment=environment, anew=True
    )
    finished("train", config, f"output={run}", "train.steps=4", "train.save_every=2", environment=environment)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all("constraint/hours <= 5/slack" in row for row in rows)
    result = json.loads((run / "evaluation.json").read_text())
    deployed = result["populations"]["unseen users"]["deployed"]["metrics"]
    assert deployed["trained"]["hours"]["episodes"] > 0
    assert deployed["trained"]["routed"]["mean"] > 0.25, "the tiny policy names no desks"
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["task"] == {"use": "tickets", "max_train_episodes": None, "tickets": 400}
    assert "hours <= 5" in (run / "report.md").read_text()
    # It goes on, with the settings of a task that the reader of the saved ones has not imported.
    finished("train", str(run / "config.yaml"), "train.steps=5", "--resume", "auto", environment=environment)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 5


def test_a_class_in_a_file_is_a_task_and_its_settings_are_checked(tmp_path):
    tree = yaml.safe_load((PLUGIN / "config.yaml").read_text())
    use = f"{PLUGIN / 'ticket_routing' / '__init__.py'}:Tickets"
    tree["rewards"] = [{"name": name, "use": use.replace("Tickets", name)} for name in ("routed", "hours")]
    tree["task"] = {"use": use, "tickets": 50}
    config = configuration.validate(tree, "test")
    task = tasks.make(config.task, DataConfig(cache=tmp_path))
    assert (task.count("train"), task.count("test")) == (40, 10)
    assert configuration.validate(yaml.safe_load(configuration.dump(config)), "again").task == config.task
    for change, message in (
        ({"tickets": 5}, r"task.tickets=5: "),
        ({"tickts": 50}, r"unknown setting 'task.tickts'; did you mean 'tickets'"),
    ):
        with pytest.raises(ConfigError, match=message):
            configuration.validate({**tree, "task": {"use": use, **change}}, "test")


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("tag", "task.use='tag' is unknown; known: arbiter, expert, explanations, guidelines, prompts, tags"),
        ("no_such_module:Task", "no module 'no_such_module'"),
        ("no/such/file.py:Task", "no task file .*no/such/file.py"),
        ("recrl.envs.task:Lines", "must name a class that extends recrl.envs.task.Task"),
        ("recrl.envs.task:Tsak", "recrl.envs.task has no 'Tsak'; did you mean 'Task'"),
    ],
)
def test_what_is_no_task_is_refused(use, message):
    with pytest.raises(TaskError, match=message):
        tasks.find(use)
    with pytest.raises(ConfigError, match=message):
        configuration.load("demo", [f"task.use={use}"])
