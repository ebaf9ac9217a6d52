"""Paths of a configuration: the home folder and variables are what they are in a shell."""

import copy
import os
import subprocess
from typing import Any

import pytest
from bounds import fields, put
from small_run import TREE

from recrl.envs.settings import Place, in_full
from recrl.launch.config.reading import dump, load, validate
from recrl.launch.config.schema import ConfigError

PLACES = [field.place for field in fields() if any(isinstance(m, Place) for m in field.metadata)]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    return tmp_path


def configured(place: str, value: str) -> Any:
    tree = {**copy.deepcopy(TREE), "judge": {"url": "http://127.0.0.1:1/v1", "model": "owl"}}
    put(tree, place, value)
    node: Any = validate(tree, "test", resolve=False)
    for part in place.split("."):
        node = getattr(node, part)
    return node


@pytest.mark.parametrize("place", [*PLACES, "data.source", "policy.model"])
@pytest.mark.parametrize("path", ["~/x", "~", "$RUNS/x", "${RUNS}/x", "~/a/$USER_NAME-1"])
def test_a_path_is_the_one_that_a_shell_would_name(place, path, monkeypatch):
    monkeypatch.setenv("USER_NAME", "ann")
    said = subprocess.run(
        ["bash", "-c", f"printf %s {path}"], capture_output=True, text=True, check=True
    ).stdout
    assert str(configured(place, path)) == said.replace("many", "many")
    assert "~" not in said
    assert "$" not in said


def test_a_saved_configuration_holds_whole_paths(home):
    config = validate({**TREE, "output": "~/runs/x"}, "test", resolve=False)
    (home / "saved.yaml").write_text(dump(config))
    assert load(str(home / "saved.yaml"), resolve=False).output == home / "runs" / "x"
    assert not (home / "~").exists()


@pytest.mark.parametrize("place", [*PLACES, "data.source", "policy.model"])
def test_what_a_shell_would_not_know_is_refused_by_name(place):
    with pytest.raises(
        ConfigError, match=rf"{place}='\$NOWHERE/x': names the variable \$NOWHERE, which is not set"
    ):
        configured(place, "$NOWHERE/x")
    with pytest.raises(ConfigError, match=rf"{place}='~nobody-at-all/x': .*'nobody-at-all', who is no user"):
        configured(place, "~nobody-at-all/x")


def test_a_file_whose_name_holds_a_dollar_is_taken_as_it_stands(home):
    (home / "a$b").touch()
    assert in_full("~/a$b") == os.path.join(home, "a$b")


def test_files_of_rewards_and_tasks_are_found_alike(home):
    (home / "own.py").write_text("def score(texts):\n    return [0.0 for _ in texts]\n")
    entry = {"name": "mine", "range": [0, 1]}
    for use in ("~/own.py:score", "$HOME/own.py:score"):
        config = validate({**TREE, "rewards": [*TREE["rewards"], {**entry, "use": use}]}, "test")
        assert f"use: {home}/own.py:score" in dump(config)
    with pytest.raises(ConfigError, match=r"reward file '\$NOWHERE/own\.py' names the variable \$NOWHERE"):
        validate({**TREE, "rewards": [*TREE["rewards"], {**entry, "use": "$NOWHERE/own.py:score"}]}, "test")
