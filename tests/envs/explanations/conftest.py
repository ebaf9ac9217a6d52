"""The task on the panel, made once."""

import pytest

from recrl.envs.data.settings import DataConfig
from recrl.envs.explanations.settings import ExplanationsConfig
from recrl.envs.explanations.task import Explanations


@pytest.fixture(scope="session")
def explained(cache, panel_task):
    return Explanations(ExplanationsConfig(use="explanations", items_per_episode=2), DataConfig(cache=cache))
