"""A week of a shop: what a list does under each assumption, and nothing else."""

import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from recrl.envs.data.panel import top
from recrl.envs.simulator.histories import Histories, baskets
from recrl.envs.simulator.replay import Replay
from recrl.envs.simulator.scenario import SCENARIOS, Scenario, SimulatorError, named
from recrl.envs.simulator.world import BLOCK, World, first_time

BASE = SCENARIOS[0]


@pytest.fixture(scope="module")
def state(small):
    some = np.resize(np.arange(160), 1600).astype(np.int32)
    return Histories.of(small.task.data.panel, some, 37)


@pytest.fixture(scope="module")
def favourites(state):
    return top(state.weeks, 4)


def weeks(small, state, slates, scenario=BASE, number=3, **settings):
    world = World(small.hazards, state.copied(), scenario, 7, **settings)
    return [world.step(slates) for _ in range(number)]


def test_lists_that_change_nothing_change_nothing(small, state, favourites):
    none = replace(BASE, effect=0.0, pull=0.0, loyalty=0.0)
    ours, theirs = weeks(small, state, favourites, none), weeks(small, state, favourites[:, ::-1], none)
    assert all(np.array_equal(a.bought, b.bought) for a, b in zip(ours, theirs, strict=True))
    assert any(not np.array_equal(a.clicked, b.clicked) for a, b in zip(ours, theirs, strict=True))


def test_a_click_makes_a_purchase_likelier(small, state, favourites):
    rows = np.arange(len(favourites))[:, None]
    rates = {}
    for effect in (0.0, 2.0):
        (week,) = weeks(small, state, favourites, replace(BASE, effect=effect, pull=0.0), 1)
        rates[effect] = week.bought[rows, favourites][week.clicked].mean()
    assert rates[2.0] > rates[0.0] + 0.1


def test_slots_are_looked_at_as_the_position_says(small, state, favourites):
    (week,) = weeks(small, state, favourites, replace(BASE, position=0.6), 1)
    share = week.looked[week.opened].mean(axis=0)
    assert share == pytest.approx(0.6 ** np.arange(4), abs=0.05)
    assert week.opened.mean() == pytest.approx(BASE.opens, abs=0.04)
    assert not week.looked[~week.opened].any()
    assert not (week.clicked & ~week.looked).any()


@pytest.mark.parametrize(
    ("change", "more"), [({"boredom": 2.0}, False), ({"click": -0.5}, True), ({"opens": 0.9}, True)]
)
def test_each_assumption_moves_clicks_its_way(small, state, favourites, change, more):
    def clicks(scenario):
        return sum(week.clicked.sum() for week in weeks(small, state, favourites, scenario))

    assert (clicks(replace(BASE, **change)) > 1.05 * clicks(BASE)) == more
    assert (clicks(replace(BASE, **change)) < 0.95 * clicks(BASE)) != more


def test_curiosity_favours_what_is_new(small, state):
    new = top(np.where(state.novel(20), -state.weeks, -99.0), 4)
    curious, cautious = (
        weeks(small, state, new, replace(BASE, curiosity=value), 1)[0].clicked.sum() for value in (1.0, -1.0)
    )
    assert curious > 1.5 * cautious


def test_a_planted_lift_is_a_factor_on_clicks(small, state, favourites):
    plain, lifted = (
        sum(week.clicked.sum() for week in weeks(small, state, favourites, lift=lift, number=6))
        for lift in (1.0, 1.3)
    )
    assert lifted / plain == pytest.approx(1.3, abs=0.08)


def test_repeats_and_empty_slots_are_not_shown(small, state):
    slates = np.tile(np.array([2, -1, 2, -2], np.int32), (len(state.users), 1))
    assert first_time(slates)[0].tolist() == [True, False, False, False]
    (week,) = weeks(small, state, slates, number=1)
    assert not week.looked[:, 1:].any()


def test_a_replay_is_the_real_future(small):
    panel = small.task.data.panel
    state = Histories.of(panel, np.arange(30), 40)
    real = [bought for _, bought in baskets(panel, state.users, 40, 43)]
    world = Replay(panel, state)
    slates = np.tile(np.array([0, 3, 3, 1], np.int32), (30, 1))
    for bought in real:
        week = world.step(slates)
        assert np.array_equal(week.bought, bought)
        assert np.array_equal(week.clicked[:, [0, 1, 3]], bought[:, [0, 3, 1]])
        assert not week.clicked[:, 2].any()
    assert state.week == 43


def test_scenarios_have_names_of_their_own():
    assert len({one.name for one in SCENARIOS}) == len(SCENARIOS)
    assert named("curious").curiosity > 0
    assert Scenario("mine").assumptions == BASE.assumptions
    with pytest.raises(SimulatorError, match="scenario 'curios' is unknown; did you mean 'curious'"):
        named("curios")


def test_a_week_grows_with_its_shoppers_and_no_faster(small):
    """Of one block of shoppers, and of four: time within twice of linear, and memory within a fifth."""
    start = Histories.of(small.task.data.panel, np.arange(100), 44)
    seconds, bytes_more = [], []
    for count in (BLOCK, 4 * BLOCK):
        drawn = np.random.default_rng(0).choice(len(start.users), count)
        slates = np.tile(np.arange(4, dtype=np.int32), (count, 1))
        took = []
        for _ in range(3):
            world = World(small.hazards, start.taken(drawn), BASE, 0)
            begun = time.process_time()
            world.step(slates)
            took.append(time.process_time() - begun)
        seconds.append(min(took))
        world = World(small.hazards, start.taken(drawn), BASE, 0)
        tracemalloc.start()
        world.step(slates)
        bytes_more.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert seconds[1] < 8 * seconds[0]
    assert bytes_more[1] < 4.8 * bytes_more[0]
