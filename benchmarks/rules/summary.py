"""What the runs say: intervals over users and seeds, the order of the rules, time to a feasible policy.

Nothing here runs or trains: results and the values of every episode are read from the benchmark's folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recrl.envs.statistics import Estimate, pooled

from .cells import GATE, LAGRANGIAN, SFT, SUM, TRL, Cell, Record

Values = npt.NDArray[np.floating]

TOLERANCE = 0.005
"""What may be missed of a bound, and of the best objective, where a policy counts as found."""


class Episodes:
    """Values of every episode of the runs on the test split.

    Args:
        folder: Folder of the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Cell, dict[str, npt.NDArray[Any]]] = {}

    def users(self, cell: Cell) -> npt.NDArray[np.integer]:
        """User of each episode."""
        return self._of(cell)["users"]

    def values(self, cell: Cell, mode: str, column: int) -> Values:
        """Objective (column 0) or a constraint of each episode."""
        return self._of(cell)[mode][:, column]

    def _of(self, cell: Cell) -> dict[str, npt.NDArray[Any]]:
        if cell not in self._read:
            with np.load(self._folder / f"{cell.name}.npz") as found:
                self._read[cell] = dict(found)
        return self._read[cell]


def of_column(episodes: Episodes, cells: Sequence[Cell], mode: str, column: int) -> Estimate:
    """Objective or a constraint of the runs of one rule."""
    return pooled([episodes.values(cell, mode, column) for cell in cells], episodes.users(cells[0]))


def slack(
    episodes: Episodes, cells: Sequence[Cell], mode: str, column: int, constraint: Mapping[str, Any]
) -> Estimate:
    """Slack of a constraint of the runs of one rule; 0 or more where it is met."""
    sign, bound = constraint["sign"], constraint["bound"]
    values = [sign * (episodes.values(cell, mode, column).astype(float) - bound) for cell in cells]
    return pooled(values, episodes.users(cells[0]))


def difference(episodes: Episodes, one: Sequence[Cell], other: Sequence[Cell], mode: str) -> Estimate | None:
    """Objective of the runs of one rule less that of another's, on the same episodes and seeds; None where
    they share no seed yet."""
    paired = [(a, b) for a in one for b in other if a.seed == b.seed]
    if not paired:
        return None
    values = [episodes.values(a, mode, 0).astype(float) - episodes.values(b, mode, 0) for a, b in paired]
    return pooled(values, episodes.users(paired[0][0]))


def of_arms(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Runs by the name of their arm, by seed."""
    found: dict[str, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.seed):
        found.setdefault(cell.arm, []).append(cell)
    return found


@dataclass(frozen=True)
class Order:
    """One step of the order SUM < SFT < CRS: the difference that should be positive, and what it shows."""

    lower: str
    higher: str
    difference: Estimate

    @property
    def verdict(self) -> str:
        """``holds``, ``reversed``, or ``not decided`` where the interval has 0."""
        if self.difference.low > 0:
            return "holds"
        return "reversed" if self.difference.high < 0 else "not decided"


def order(episodes: Episodes, arms: Mapping[str, Sequence[Cell]], mode: str) -> list[Order]:
    """The order SUM < SFT < CRS of RecGPT-V2 (arXiv 2512.14503), as found; empty where a rule is missing."""
    if not {SUM, SFT, GATE} <= arms.keys():
        return []
    return [
        Order(low, high, found)
        for low, high in ((SUM, SFT), (SFT, GATE), (SUM, GATE))
        if (found := difference(episodes, arms[high], arms[low], mode)) is not None
    ]


@dataclass(frozen=True)
class Search:
    """Runs of one way to look for a feasible policy, one after the other.

    Attributes:
        arm: Name of the arm.
        seed: Seed.
        runs: Number of runs that there are.
        found: Number of those that met the bounds and the best objective, within the tolerance.
        until: Number of runs until the first of those, in the order of the grid; None where there is none.
        seconds: Seconds until then, of training and judging; of all runs where there is none.
        whole: Seconds of all runs: who looks for the best has to do them all.
    """

    arm: str
    seed: int
    runs: int
    found: int
    until: int | None
    seconds: float
    whole: float

    @property
    def expected(self) -> float | None:
        """Mean number of runs until the first that was good, over all orders of the grid."""
        return (self.runs + 1) / (self.found + 1) if self.found else None


def feasible(record: Record, constraints: Sequence[Mapping[str, Any]], mode: str) -> bool:
    """Whether the means of a run meet every bound within the tolerance."""
    _, *values = record["means"][mode]
    return all(
        c["sign"] * (value - c["bound"]) >= -TOLERANCE for c, value in zip(constraints, values, strict=True)
    )


def best(records: Sequence[Record], constraints: Sequence[Mapping[str, Any]], mode: str) -> float | None:
    """Largest objective of the feasible runs; None where no run is."""
    found = [r["means"][mode][0] for r in records if feasible(r, constraints, mode)]
    return max(found, default=None)


def searches(
    swept: Sequence[Cell],
    records: Mapping[Cell, Record],
    constraints: Sequence[Mapping[str, Any]],
    mode: str,
) -> tuple[dict[int, float | None], list[Search]]:
    """One Lagrangian run and the sweeps over weights, for each seed.

    Args:
        swept: Runs of the sweep, in the order of the grid.
        records: All runs; the best objective of a seed is over all of them on the test split.

    Returns:
        The best objective of each seed, and the searches.
    """
    tops: dict[int, float | None] = {}
    rows = []
    for seed in dict.fromkeys(cell.seed for cell in swept):
        every = [record for cell, record in records.items() if (cell.seed, cell.split) == (seed, "test")]
        top = tops[seed] = best(every, constraints, mode)
        for arm in (LAGRANGIAN, SUM, TRL):
            runs = [records[cell] for cell in swept if (cell.arm, cell.seed) == (arm, seed)]
            good = [
                top is not None
                and feasible(run, constraints, mode)
                and run["means"][mode][0] >= top - TOLERANCE
                for run in runs
            ]
            until = good.index(True) + 1 if any(good) else None
            spent = [run["seconds"]["training"] + run["seconds"]["judging"] for run in runs]
            rows.append(Search(arm, seed, len(runs), sum(good), until, sum(spent[:until]), sum(spent)))
    return tops, rows
