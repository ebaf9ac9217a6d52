"""Figures of the report, as PNG. A rule keeps its colour and marker in all of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from recrl.envs.statistics import Estimate

from ..figures import grid, save
from .cells import ARMS, FREE, HELD, LAGRANGIAN

Point: TypeAlias = tuple[Estimate, Estimate]
"""A constrained value and the objective."""

_MARKERS = dict(zip(ARMS, "sDv<>P^oX", strict=True))
_COLOURS = {**{arm: f"C{k}" for arm, k in zip(ARMS, (0, 1, 2, 4, 5, 6, 8, 3, 7), strict=True)}}


def deployed(points: Mapping[str, Mapping[str, Point]], labels: Mapping[str, Any], path: Path) -> None:
    """Objective against a constrained value, without prices and with them, and the latter alone by rule.

    Args:
        points: Arm -> mode -> point.
        labels: ``objective``, ``constraint`` and ``bound``.
        path: Path of the PNG.
    """
    figure, (plane, ranking) = grid(2, 2, 5.6, 4.0)
    for arm, modes in points.items():
        look = {"color": _COLOURS[arm], "zorder": 5 if arm == LAGRANGIAN else 2}
        for mode, filled in ((FREE, False), (HELD, True)):
            x, y = modes[mode]
            plane.plot((x.low, x.high), (y.mean, y.mean), linewidth=1, **look)
            plane.plot((x.mean, x.mean), (y.low, y.high), linewidth=1, **look)
            plane.plot(
                x.mean,
                y.mean,
                _MARKERS[arm],
                markerfacecolor=look["color"] if filled else "white",
                label=ARMS[arm].title if filled else None,
                linestyle="none",
                **look,
            )
    plane.axvline(labels["bound"], color="black", linewidth=0.8, linestyle="--", label=labels["constraint"])
    plane.plot([], [], "o", color="0.4", markerfacecolor="white", linestyle="none", label="without prices")
    plane.plot([], [], "o", color="0.4", linestyle="none", label="bounds held by prices")
    plane.set(xlabel=labels["reward"], ylabel=labels["objective"])
    for row, (arm, modes) in enumerate(points.items()):
        y = modes[HELD][1]
        ranking.plot((y.low, y.high), (row, row), color=_COLOURS[arm], linewidth=1.5)
        ranking.plot(y.mean, row, _MARKERS[arm], color=_COLOURS[arm])
    ranking.set_yticks(range(len(points)), [ARMS[arm].title for arm in points], fontsize=8)
    ranking.invert_yaxis()
    ranking.set(xlabel=f"{labels['objective']}, bounds held by prices")
    save(figure, path, (plane,))
