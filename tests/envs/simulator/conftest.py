"""A small log of made-up households, and shoppers fitted on it."""

import datetime as dt
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest

from recrl.envs.data.settings import DataConfig
from recrl.envs.simulator import fitting
from recrl.envs.simulator.shopper import Hazard
from recrl.envs.tags.settings import TagsConfig
from recrl.envs.tags.task import Tags

USERS, TAGS, WEEKS = 160, 16, 52


def log(seed: int = 0) -> pl.DataFrame:
    """Households with tastes and rhythms of their own; tags 0 and 1 are bought together."""
    rng = np.random.default_rng(seed)
    comes = rng.beta(4, 2, USERS)
    likes = np.clip(rng.gamma(1.0, 0.2, (USERS, TAGS)) * np.linspace(1.6, 0.5, TAGS), 0.01, 0.9)
    first, rows = dt.date(2024, 1, 1), []
    for week in range(WEEKS):
        day = first + dt.timedelta(weeks=week)
        for user in np.flatnonzero(rng.random(USERS) < comes):
            size = rng.choice([0.4, 1.0, 1.6])
            bought = rng.random(TAGS) < np.minimum(likes[user] * size, 0.95)
            if bought[0] and rng.random() < 0.8:
                bought[1] = True
            rows += [(f"u{user:03d}", day, f"tag {tag:02d}") for tag in np.flatnonzero(bought)]
    return pl.DataFrame(rows, schema=["user", "time", "tag"], orient="row")


@dataclass(frozen=True)
class Small:
    """A task of the small log, and shoppers."""

    task: Tags
    hazards: Hazard


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Small:
    folder = tmp_path_factory.mktemp("shop")
    log().write_parquet(folder / "log.parquet")
    source = DataConfig(source=str(folder / "log.parquet"), cache=folder / "cache")
    task = Tags(TagsConfig(slots=4), source)
    return Small(task, fitting.fit(task.data))
