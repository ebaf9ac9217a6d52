"""Shared fixtures: the real panel, built once a session, and a small catalogue."""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from recrl.envs.catalog import Catalog
from recrl.envs.task import DataConfig, TagTask, prepare


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def panel_task(cache: Path) -> TagTask:
    """The Complete Journey panel, category track."""
    return prepare(DataConfig(cache=cache))


@pytest.fixture
def groceries() -> Catalog:
    return Catalog(
        ("milk", "bread", "cheese", "cheeses", "soft drinks", "7 grain bread"),
        aliases={"SFT DRINKS": "soft drinks"},
        equivalents=[("cheese", "cheeses")],
    )
