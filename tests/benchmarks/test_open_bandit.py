"""Our estimators on the Open Bandit logs, where ``obp`` is installed."""

import numpy as np
import pytest

from recrl.benchmarks.simulator import open_bandit
from recrl.envs.simulator.scenario import SimulatorError


def test_thompson_sampling_shows_the_better_item_more_often():
    # Of two Beta(1, 1) and Beta(2, 1) the second is higher with probability 2/3, and the third item never is.
    shown = open_bandit.chosen(np.array([1, 2, 1]), np.array([1, 1, 10_000]), draws=20_000)
    assert shown.sum(axis=0) == pytest.approx([1, 1, 1])
    assert shown[:, 0] == pytest.approx([1 / 3, 2 / 3, 0], abs=0.02)


@pytest.mark.slow
def test_what_a_policy_earns_is_found_from_the_log_of_the_other_or_refused():
    try:
        open_bandit.folder()
    except SimulatorError as error:
        pytest.skip(str(error))
    found = open_bandit.open_bandit(campaigns=("women",))["women"]
    # In this campaign Thompson sampling shows some items once in a million impressions.
    assert "effective sample size 2 of 10,000 lists" in found["random"]["refused"]
    sampling = found["bts"]
    assert sampling["effective"] > 1000
    for name in ("IPS", "SNIPS", "DR"):
        assert sampling[name]["low"] < sampling["truth"]["high"]
        assert sampling[name]["high"] > sampling["truth"]["low"]
