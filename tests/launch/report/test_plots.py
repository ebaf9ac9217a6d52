"""Plots: axes for each constraint, whole steps, and legends that neither cover nor are cut."""

import matplotlib
import pytest

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from recrl.benchmarks import figures
from recrl.launch.report import plots

BOUNDS = ["novelty >= 0.3", "duplicates <= 0.03", "diversity >= 0.5 (where segment=cold)"]


@pytest.fixture
def drawn(monkeypatch):
    """Function that gives the last figure, as it was saved."""
    monkeypatch.setattr(plt, "close", lambda figure: None)
    yield plt.gcf
    monkeypatch.undo()
    plt.close("all")


def step(number):
    found = {"step": number, "objective": 0.1 * number}
    for i, name in enumerate(BOUNDS):
        found |= {f"constraint/{name}/slack": 0.1**i, f"constraint/{name}/price": 1.0}
    return found


def boxes(figure):
    """Legend, axes and whole picture, in pixels."""
    figure.canvas.draw()
    legends = [*figure.legends, *(axis.get_legend() for axis in figure.axes if axis.get_legend())]
    (legend,) = (one.get_window_extent() for one in legends)
    return legend, [axis.get_window_extent() for axis in figure.axes], figure.bbox


def is_within(inner, outer):
    return inner.x0 >= outer.x0 and inner.y0 >= outer.y0 and inner.x1 <= outer.x1 and inner.y1 <= outer.y1


@pytest.mark.parametrize("count", [0, 1, 3])
def test_each_constraint_has_axes_of_its_own_over_whole_steps(drawn, tmp_path, count):
    plots._plot_training([step(1), step(2), step(3)], BOUNDS[:count], "recall", tmp_path / "training.png")
    top, *below = drawn().axes
    assert "recall" in top.get_ylabel()
    assert [axis.get_title() for axis in below] == [name for name in BOUNDS[:count] for _ in range(2)]
    for axis in (top, *below):
        assert all(tick == round(tick) for tick in axis.get_xticks())
        assert axis.get_legend() is None
    for i, slack in enumerate(below[::2]):
        assert slack.get_ylim()[1] < 2 * 0.1**i, "a small slack is not flattened by a large one"


def test_a_validation_shows_each_constraint_on_axes_of_its_own(drawn, tmp_path):
    value = {"mean": 0.2, "low": 0.1, "high": 0.3}
    found = [
        {
            "step": n,
            "headline": "recall@10",
            "metrics": {"recall@10": value},
            "constraints": dict.fromkeys(BOUNDS, value),
        }
        for n in (0, 2)
    ]
    plots._plot_validation(found, tmp_path / "validation.png")
    assert [axis.get_title() for axis in drawn().axes[1:]] == BOUNDS
    assert all(tick == round(tick) for axis in drawn().axes for tick in axis.get_xticks())


def test_a_legend_covers_nothing_and_is_not_cut(drawn, tmp_path):
    pairs = [f"conflict/corr/a_reward_with_a_long_name_{i}~another_reward" for i in range(6)]
    log = [{"step": n, **dict.fromkeys(pairs, 0.5)} for n in (1, 2, 3)]
    plots._plot_conflict(log, tmp_path / "conflict.png")
    legend, axes, picture = boxes(drawn())
    assert is_within(legend, picture)
    assert not any(legend.overlaps(axis) for axis in axes)


@pytest.mark.parametrize(("panels", "rules"), [(1, 12), (2, 12), (4, 12), (1, 2)])
def test_a_legend_below_a_benchmarks_panels_fits_its_width(drawn, tmp_path, panels, rules):
    """As that of ``pareto.png`` for one's own rewards, a single panel for a dozen rules."""
    figure, axes = figures.grid(panels, 4, 3.6, 3.1)
    for axis in axes:
        for rule in range(rules):
            axis.plot([0, 1], [rule, rule], label=f"scalarized_advantage {rule}")
    figures.save(figure, tmp_path / "pareto.png", axes)
    legend, found, picture = boxes(figure)
    assert is_within(legend, picture)
    assert not any(legend.overlaps(axis) for axis in found)
