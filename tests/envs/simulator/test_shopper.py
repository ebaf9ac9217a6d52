"""Fitted shoppers: calibrated, honest about what they read, and lucky alike under any list."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from recrl.envs.data.settings import Protocol
from recrl.envs.simulator import fidelity, fitting, neighbours
from recrl.envs.simulator.histories import Histories
from recrl.envs.simulator.scenario import SimulatorError
from recrl.envs.simulator.shopper import sigmoid
from recrl.envs.simulator.world import simulate

NO_LIFTS = (np.empty(0, int), np.empty(0, int), 0.0)


@pytest.fixture(scope="module", params=["hazards", "neighbours"])
def behaviour(request, small):
    return small.hazards if request.param == "hazards" else neighbours.fit(small.task.data)


@pytest.fixture(scope="module")
def state(small):
    return Histories.of(small.task.data.panel, np.arange(160), 37)


def test_simulated_weeks_are_as_full_as_real_ones(small, behaviour):
    found = fidelity.compare(small.task.data, behaviour)
    off = {one.name: one.off for one in found.marginals}
    assert abs(off["visits a household-week"]) < 0.12
    assert abs(off["tags a visit"]) < 0.12
    assert abs(off["deviation of tags a visit"]) < 0.25
    assert found.popularity > 0.9
    assert found.visits > 0.6
    assert found.purchases > 0.6


def test_forecasts_of_the_hazards_are_calibrated(small):
    found = fidelity.compare(small.task.data, small.hazards)
    forecast, bought = found.calibration.T
    assert (np.diff(forecast) > 0).all()
    assert np.allclose(forecast, bought, atol=0.06)


def test_a_shock_of_the_week_lets_goods_go_together(small, state):
    weeks = list(simulate(small.hazards, state.copied(), 12, 0))
    baskets = np.concatenate([week[week.any(axis=1)] for week in weeks]).astype(float)
    alone = replace(small.hazards, loadings=np.zeros_like(small.hazards.loadings))
    plain = np.concatenate([week[week.any(axis=1)] for week in simulate(alone, state.copied(), 12, 0)])
    together, apart = (np.corrcoef(some[:, 0], some[:, 1])[0, 1] for some in (baskets, plain.astype(float)))
    assert together > apart + 0.1
    assert baskets.sum(axis=1).var() > plain.sum(axis=1).var()


def test_the_same_luck_differs_by_what_is_lifted_alone(behaviour, state):
    wish = behaviour.wish(state)
    none = np.zeros(160, np.float32)
    plain, lifted = (
        behaviour.live(wish, none, lifts, np.random.default_rng(3))
        for lifts in (NO_LIFTS, (np.arange(160), np.full(160, 5), 3.0))
    )
    others = np.arange(plain.shape[1]) != 5
    changed = (plain[:, others] != lifted[:, others]).any(axis=1)
    # Who comes buys something: what would have been forced is not where the lift already buys.
    assert changed.mean() < 0.05
    assert lifted[:, 5].sum() > 1.5 * plain[:, 5].sum()
    assert not (plain[:, 5] & ~lifted[:, 5]).any()
    pulled = behaviour.live(wish, none + 1, NO_LIFTS, np.random.default_rng(3)).any(axis=1)
    came = plain.any(axis=1)
    assert pulled.sum() > came.sum()
    assert (came & ~pulled).mean() < 0.02


def test_who_comes_buys_something(small, state):
    wish = small.hazards.wish(state)
    bought = small.hazards.live(wish, np.full(160, 50, np.float32), NO_LIFTS, np.random.default_rng(0))
    assert bought.any(axis=1).all()


def test_neither_unseen_users_nor_later_weeks_are_read(small):
    data, panel = small.task.data, small.task.data.panel
    hidden = panel.unseen[panel.user] | (panel.week >= 37)
    tag = np.where(hidden, (panel.tag + 5) % panel.n_tags, panel.tag).astype(np.int32)
    other = replace(data, panel=replace(panel, tag=tag))
    for fit in (fitting.fit, neighbours.fit):
        ours, theirs = vars(fit(data)), vars(fit(other))
        for name, values in ours.items():
            assert np.array_equal(values, theirs[name]), name


def test_data_that_count_no_weeks_are_refused(small):
    data = replace(small.task.data, protocol=Protocol(step="day"))
    with pytest.raises(SimulatorError, match=r"data\.protocol\.split=time, step=day: .* use split=time"):
        fitting.fit(data)
    short = replace(
        small.task.data, protocol=small.task.data.protocol.model_copy(update={"statistics_end": 9})
    )
    with pytest.raises(SimulatorError, match="statistics_end=9"):
        fitting.fit(short)


def test_a_classifier_cannot_tell_two_simulations_apart_but_shuffled_tags(small, state):
    told = [
        fidelity._Told.of(state, list(simulate(small.hazards, state.copied(), 8, seed))) for seed in (1, 2)
    ]
    alike = fidelity._told_apart(*told, 0)
    assert alike.mean == pytest.approx(0.5, abs=0.06)
    shuffled = replace(told[1], bought=told[1].bought[:, ::-1])
    assert fidelity._told_apart(told[0], shuffled, 0).mean > 0.7


def test_the_sigmoid_is_scipys():
    odds = np.linspace(-30, 30, 50, dtype=np.float32)
    assert np.allclose(sigmoid(odds), expit(odds), atol=1e-6)
