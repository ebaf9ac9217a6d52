"""What of TRL and transformers a run may set itself: trackers, and fields of ``GRPOConfig``."""

import ast
import dataclasses
import inspect
import sys

import pytest
from transformers.integrations import integration_utils
from trl import GRPOConfig

from recrl.rl.trainer import make, trackers
from recrl.rl.trainer.settings import TrainConfig
from recrl.rl.trainer.trl_settings import OWNED, check_fields, check_values

FIELDS = {field.name for field in dataclasses.fields(GRPOConfig)}


def test_trackers_are_those_of_transformers():
    assert trackers.TRACKERS.keys() == integration_utils.INTEGRATION_TO_CALLBACK.keys()


def test_a_tracker_whose_package_is_missing_is_named_with_the_command(monkeypatch):
    trackers.check_installed(("tensorboard",))
    trackers.check_installed(("none",))
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(ModuleNotFoundError, match=r"train\.report_to=wandb .*: pip install wandb"):
        trackers.check_installed(("tensorboard", "wandb"))
    monkeypatch.delenv("KUBEFLOW_TRAINER_SERVER_URL", raising=False)
    with pytest.raises(ValueError, match="KUBEFLOW_TRAINER_SERVER_URL does not name its server"):
        trackers.check_installed(("kubeflow",))


def test_whatever_recrl_passes_to_trl_is_its_own():
    """A run that set such a field as well would be torn between the two."""
    tree = ast.parse(inspect.getsource(make.make_trainer))
    (call,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "GRPOConfig"
    )
    assert {keyword.arg for keyword in call.keywords if keyword.arg} <= OWNED.keys()


def test_owned_fields_are_fields_and_their_settings_exist():
    assert OWNED.keys() <= FIELDS
    named = {
        word
        for text in OWNED.values()
        for word in text.replace(";", " ").split()
        if word.startswith("train.")
    }
    assert {word.removeprefix("train.") for word in named} <= TrainConfig.model_fields.keys()


@pytest.mark.parametrize("name", sorted(OWNED))
def test_an_owned_field_is_refused_with_what_to_use_instead(name):
    with pytest.raises(ValueError, match=f"train.trl.{name}=1 cannot be set there: {OWNED[name][:20]}"):
        check_fields({name: 1})


def test_other_fields_are_passed_on(tmp_path):
    given = {"epsilon": 0.1, "mask_truncated_completions": True, "optim": "adamw_torch", "weight_decay": 0}
    check_fields(given)
    check_values(given, on_cpu=True)
    for wrong in ({"weight_decay": "0"}, {"optim": 1}, {"mask_truncated_completions": 1}):
        with pytest.raises(ValueError, match=rf"train\.trl\.{next(iter(wrong))}=.*: input should be"):
            check_fields(wrong)


def test_a_value_that_trl_refuses_is_named(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(
        ValueError, match=r"train\.trl=.'optim': 'sgdd'.: sgdd is not a valid OptimizerNames"
    ) as error:
        check_values({"optim": "sgdd"}, on_cpu=True)
    assert "\n" not in str(error.value)
