"""Cells of the benchmark, each measured once: a file for each, so that a bench that was stopped goes on.

``CELLS``     names of all cells, a track's next to each other
``measure``   the figures of one cell as JSON
``track_of``  name of a cell's track
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from recrl.envs.agents.measures import together
from recrl.envs.statistics import Values, estimate, paired_difference

from .arms import FLAT, HIERARCHY, ONE, SLOTS, TEMPERATURES, Track, arms, tuned
from .finals import SINGLE, finals, measured

TRACKS = ("category", "type")
READING = "reading-category"
EXPERTS = "experts"
CELLS = (
    *("union-category", "tokens-category", "final-category", READING),
    *("union-type", "tokens-type", "final-type"),
)
"""Cells of every bench; ``experts`` is measured besides where trained ones are named."""

FINAL_MEASURES = ("recall@10", "recall@10 novel", "novelty", "diversity")


def measure(cell: str, track: Track, households: int) -> dict[str, Any]:
    """Figures of one cell.

    Args:
        track: The cell's track.
        households: Households whose reading is measured.
    """
    if cell == READING:
        from .reading import reading

        return reading(track, households)
    about = {
        "households": len(set(track.users.tolist())),
        "episodes": len(track.rows),
        "tags": len(track.task.catalog),
    }
    if cell.startswith("tokens"):
        from .tokens import budgeted

        found = budgeted(track)
        told = _told(found.pop("values"), track.users, [HIERARCHY])
        flat = float(found.pop("tokens").mean())
        return {**about, **told, **found, "tokens of a flat route": flat}
    temperature = tuned(track)
    named = arms(temperature)
    if cell.startswith("final"):
        lists, prices = finals(track, named)
        values = {
            name: {one: found[one] for one in FINAL_MEASURES}
            for name, chosen in lists.items()
            for found in [measured(track, track.rows, chosen)]
        }
        return {**about, **_told(values, track.users, [SINGLE]), "prices": prices}
    options = len(track.task.catalog)
    unions = {name: together(track.rows, arm(track, track.rows), options) for name, arm in named.items()}
    told = _told(unions, track.users, [FLAT, ONE, HIERARCHY])
    return {**about, **told, "temperature": temperature, "temperatures": TEMPERATURES, "slots": SLOTS}


def _told(
    values: Mapping[str, Mapping[str, Values]], users: npt.NDArray[np.intp], references: list[str]
) -> dict[str, Any]:
    """Means, and paired differences to some references, with their intervals over households."""
    means = {name: {one: vars(estimate(v, users)) for one, v in of.items()} for name, of in values.items()}
    apart = {
        reference: {
            name: {one: vars(paired_difference(of[one], values[reference][one], users)) for one in of}
            for name, of in values.items()
            if name != reference
        }
        for reference in references
    }
    return {"means": means, "differences": apart}


def track_of(cell: str) -> str:
    """Name of the track of a cell."""
    return cell.partition("-")[2]
