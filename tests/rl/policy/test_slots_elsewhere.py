"""Policies with slots, where they cannot go."""

import json

import pytest

from recrl.launch.config.schema import ConfigError
from recrl.launch.run.exporting import check_slotless
from recrl.rl.policy import slots
from recrl.rl.policy.errors import PolicyError


def test_a_policy_with_slots_is_refused_by_name_of_what_writes_it_without(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    slots.refuse(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({slots.SETTING: {}}))
    with pytest.raises(PolicyError, match="recrl hybrid export"):
        slots.refuse(tmp_path)
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    (adapters / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path)}))
    with pytest.raises(PolicyError, match="recrl hybrid export"):
        slots.refuse(adapters)


def test_an_export_replaces_only_an_export(tmp_path):
    check_slotless(tmp_path / "new")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="choose another folder"):
        check_slotless(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    check_slotless(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({slots.SETTING: {}}))
    with pytest.raises(ConfigError, match="choose another folder"):
        check_slotless(tmp_path)
