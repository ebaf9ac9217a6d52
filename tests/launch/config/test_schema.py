"""A configuration is validated whole, and its first fault is one readable sentence."""

from pathlib import Path

import pytest
import yaml
from places import ROOT

from recrl.launch import config as configuration
from recrl.launch.config.reading import load
from recrl.launch.config.schema import ConfigError

SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_configurations_are_valid_and_survive_a_round_trip(path, tmp_path):
    config = load(str(path))
    again = tmp_path / "again.yaml"
    again.write_text(configuration.dump(config))
    assert load(str(again)) == config


def test_every_way_to_name_a_reward_survives_a_round_trip(tmp_path):
    rewards = [
        "recall",
        {"name": "new", "use": "novelty", "timeout": 5, "direction": "higher"},
        {"name": "worth", "sum": {"recall": 0.7, "new": 0.3}, "range": [0, 1], "weight": 2},
    ]
    judge = {"url": "http://127.0.0.1:8000/v1", "model": "owl", "options": {"seed": 1}}
    config = load(
        "demo", [f"rewards={rewards}", f"judge={judge}", "optimizer.constraints=[worth >= 0.2 (mean)]"]
    )
    again = tmp_path / "again.yaml"
    again.write_text(configuration.dump(config))
    assert load(str(again)) == config


def test_a_saved_configuration_finds_files_of_rewards_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def r(completions):\n    return [0.5 for _ in completions]\n")
    monkeypatch.chdir(tmp_path)
    mine = {"name": "mine", "use": "mine.py:r", "range": [0, 1]}
    saved = tmp_path / "saved.yaml"
    saved.write_text(
        configuration.dump(load("demo", [f"rewards={['recall', 'novelty', 'duplicates', mine]}"]))
    )
    monkeypatch.chdir(saved.parents[1])
    assert load(str(saved)).rewards[-1].use == f"{tmp_path / 'mine.py'}:r"


def test_a_saved_configuration_finds_files_of_rewards_in_the_home_folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def r(completions):\n    return [0.5 for _ in completions]\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    mine = {"name": "mine", "use": "~/mine.py:r", "range": [0, 1]}
    config = load("demo", [f"rewards={['recall', 'novelty', 'duplicates', mine]}"])
    saved = tmp_path / "saved.yaml"
    saved.write_text(configuration.dump(config))
    assert load(str(saved)).rewards[-1].use == f"{tmp_path / 'mine.py'}:r"


LOGIN = "http://me:hunter2@host"


@pytest.mark.parametrize(
    ("override", "place"),
    [
        (f"rollout.servers=[{LOGIN}]", "rollout.servers.0"),
        (f"rollout.servers=['http://host', '{LOGIN}:8000/']", "rollout.servers.1"),
        ("rollout.servers=[me:hunter2@host]", "rollout.servers"),
        (f"rollout.servers={LOGIN}", "rollout.servers"),
        (f"judge={{url: '{LOGIN}/v1', model: owl}}", "judge.url"),
        (f"rewards=[recall, {{name: q, use: http, params: {{url: '{LOGIN}'}}}}]", "rewards.1.params.url"),
        (
            f"rewards=[recall, {{name: q, use: other, params: {{a: [{{b: '{LOGIN}'}}]}}}}]",
            "rewards.1.params.a.0.b",
        ),
        ("data.cache=s3://me:hunter2@bucket/x", "data.cache"),
        (f"unknown={LOGIN}", "unknown"),
        (f"train.steps={LOGIN}", "train.steps"),
        (f"rollout.servers=[{LOGIN}", "rollout.servers"),
        ("judge={url: 'http:me:hunter2@host', model: owl}", "judge.url"),
    ],
)
def test_a_password_in_an_address_is_refused_wherever_it_stands_and_not_repeated(override, place):
    with pytest.raises(ConfigError, match=place.replace(".", r"\.")) as raised:
        load("demo", [override])
    assert "hunter2" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_aliases_of_yaml_are_looked_at_once(tmp_path):
    layers = "\n".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(30))
    for text in (f"a0: &a0 ['{LOGIN}']\n{layers}\n", "a: &a [*a]\n"):
        path = tmp_path / "bomb.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError) as raised:
            load(str(path))
        assert "hunter2" not in str(raised.value)


def test_a_file_that_is_no_yaml_is_named_without_its_lines(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text(f"name: x\nrollout: {{servers: ['{LOGIN}'\n")
    with pytest.raises(ConfigError, match=r"broken\.yaml. is no YAML .* in line 3, column 1") as raised:
        load(str(path))
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("address", ["host:8000", "ftp://host", "http://", "http://host:x", "http://a b"])
def test_an_address_of_a_rollout_server_is_one_of_http(address):
    with pytest.raises(ConfigError, match=r"rollout\.servers.*must be an address of the form http://host"):
        load("demo", [f"rollout.servers=['{address}']"])


def test_overrides_and_their_shorthands():
    config = load(
        "llm",
        [
            "train.steps=7",
            "policy=some/model",
            "data=logs.parquet",
            "output=/tmp/x",
            "optimizer.duals.kp=1",
        ],
    )
    assert config.train.steps == 7
    assert config.policy.model == "some/model"
    assert config.data.source == "logs.parquet"
    assert config.folder == Path("/tmp/x")
    assert config.optimizer.duals.kp == 1
    assert config.floors == {"novelty": 0.3, "validity": 0.95}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stpes=7", r"unknown setting 'train\.stpes'; did you mean 'steps'\?"),
        ("trian.steps=7", r"unknown setting 'trian'; did you mean 'train'\?"),
        ("data.protocol.windw=2", r"did you mean 'window'\?"),
        ("optimizer.duals.kq=2", r"unknown setting 'optimizer\.duals\.kq'; did you mean 'kp'\?"),
        ("train.steps=many", r"train\.steps='many'"),
        ("data.protocol.unseen_share=1.5", r"must be a number from 0\.001 to 0\.999"),
        ("optimizer.objective=recal", r"did you mean 'recall'\?"),
        ("optimizer.constraints=[noveltie >= 0.3 (mean)]", r"did you mean 'novelty'\?"),
        ("optimizer.constraints=[novelty >= 1.3 (mean)]", r"1\.3 is outside \[0, 1\], the range of novelty"),
        ("optimizer.constraints=[novelty >= 0.3]", r"has no kind; end it with its kind"),
        ("optimizer.rule=lagrangain", r"did you mean 'lagrangian'\?"),
        ("rewards=[recall, novelty, dupliactes]", r"did you mean 'duplicates'\?"),
        ("steps", r"is no override; write key=value"),
        ("name.x=1", r"'name' is a value in the configuration, not a section"),
        ("name=[", r"the value is no YAML"),
    ],
)
def test_a_fault_is_one_sentence_with_the_fix(override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load("demo", [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.rule=gate", "optimizer.objective=alignment"], r"rule gate: .*range from -1"),
        (["optimizer.credit=tag", "optimizer.rule=gdpo"], r"credit=tag does not work with rule 'gdpo'"),
        (
            ["optimizer.credit=tag", "optimizer.objective=diversity", "optimizer.constraints=[]"],
            r"none of \['diversity'\] is declared per='tag'",
        ),
        (["optimizer.credit=tags"], r"optimizer\.credit='tags'"),
    ],
)
def test_a_rule_that_cannot_work_is_refused_before_anything_starts(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load("demo", overrides)


def test_the_floor_of_a_segment_is_no_floor_for_all():
    constraints = ["novelty >= 0.4 where segment=cold (mean)", "novelty >= 0.2 (mean)"]
    assert load("demo", [f"optimizer.constraints={constraints}"]).floors == {"novelty": 0.2}


def test_an_unknown_file_lists_what_ships():
    with pytest.raises(ConfigError, match=r"no configuration 'demos'.*'demo'"):
        load("demos")


def test_a_reward_of_ones_own_by_file(tmp_path):
    (tmp_path / "mine.py").write_text("def short(completions):\n    return [0.5 for _ in completions]\n")
    tree = yaml.safe_load(SHIPPED[0].read_text())
    tree["rewards"].append({"name": "short", "use": f"{tmp_path / 'mine.py'}:short", "range": [0, 1]})
    tree["optimizer"]["constraints"].append("short >= 0.4 (mean)")
    config = configuration.validate(tree, "test")
    assert config.problem().constraints[-1].reward == "short"
    tree["rewards"][-1].pop("range")
    with pytest.raises(ConfigError, match="declares no range"):
        configuration.validate(tree, "test")
