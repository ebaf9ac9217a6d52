"""Clocks and counts, against the panel counted by hand."""

import numpy as np

from recrl.envs.simulator.histories import NEVER, Histories


def test_clocks_and_counts_are_those_of_the_panel(small):
    panel = small.task.data.panel
    state = Histories.of(panel, [3, 77, 3], 30)
    for place, user in enumerate((3, 77, 3)):
        mine = (panel.user == user) & (panel.week < 30)
        visits = np.unique(panel.week[mine])
        assert state.visits[place] == len(visits)
        assert state.gap[place] == 30 - visits.max()
        assert state.tags[place] == mine.sum()
        assert np.isclose(state.visits_slow[place], (0.93 ** (29 - visits)).sum(), rtol=1e-4)
        for tag in range(panel.n_tags):
            weeks = panel.week[mine & (panel.tag == tag)]
            assert state.weeks[place, tag] == len(weeks)
            assert np.isclose(state.recent[place, tag], (0.93 ** (29 - weeks)).sum(), rtol=1e-4)
            assert state.age[place, tag] == (30 - weeks.max() if len(weeks) else NEVER)


def test_an_age_stands_still_before_never():
    state = Histories.new(np.zeros(1, np.int32), 2, 0)
    state.advance(np.array([[True, False]]))
    for _ in range(300):
        state.advance(np.zeros((1, 2), bool))
    assert state.age.tolist() == [[NEVER - 1, NEVER]]
    assert state.novel(20).all()


def test_copies_are_moved_on_apart(small):
    state = Histories.of(small.task.data.panel, range(5), 20)
    copied = state.copied()
    copied.advance(np.ones_like(state.age, bool))
    copied.notice((np.array([0]), np.array([1])), np.ones(5, np.float32))
    assert state.week == 20
    assert copied.week == 21
    assert state.tired is None
    assert not np.array_equal(state.weeks, copied.weeks)
