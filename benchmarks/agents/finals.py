"""Final lists: what is left of a union when ten tags may be shown, every list priced to hold the same
floor of novelty.

``finals``  name -> lists of the test rows, and the prices under which they were made
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recrl.envs.agents.arbiter import PRICED, Ranker, arbitrated, held, in_turn
from recrl.envs.agents.measures import Routes
from recrl.envs.agents.personas import Persona
from recrl.envs.statistics import Values
from recrl.envs.tags.metrics import MISSING, per_episode
from recrl.envs.task import Row

from .arms import FINAL, FLAT, HIERARCHY, ONE, Arm, Track

NOVELTY, MARGIN = 0.30, 0.02
"""Floor of the final lists, as in the demo, and what prices hold above it on training households."""

GAIN = 0.02
"""Diversity that a priced list has to have above the single policy's, on training households."""

SINGLE, TEAM = "single policy", "team"
DIVERSE = ", diversity priced"
Chosen = list[list[int]]


def measured(track: Track, rows: Sequence[Row], lists: Sequence[Sequence[int]]) -> dict[str, Values]:
    """Metrics of the tag task of each list."""
    slots = np.full((len(rows), FINAL), MISSING, np.int32)
    for row, tags in zip(slots, lists, strict=True):
        row[: len(tags)] = tags[:FINAL]
    return per_episode(track.task.data, rows, slots, track.encoder)


def finals(track: Track, arms: Mapping[str, Arm]) -> tuple[dict[str, Chosen], dict[str, dict[str, float]]]:
    """Lists of ten tags for the test rows.

    The single policy is the scorer itself, the best tags of all. Arbiters are fitted, and all prices found,
    on training households; ``in turn`` merges the experts' lists without an arbiter.

    Args:
        arms: Who names the candidates.

    Returns:
        Name -> lists; and name -> prices.
    """
    task = track.task
    end = task.data.protocol.statistics_end
    assert end is not None
    plain = Ranker(track.scores, track.encoder, task.catalog, task.data.panel.buyers(0, end), FINAL)
    lists: dict[str, Chosen] = {}
    prices: dict[str, dict[str, float]] = {}

    def means(found: Chosen) -> dict[str, float]:
        told = measured(track, track.known, found)
        return {name: float(told[name].mean()) for name in PRICED}

    floors = {"novelty": NOVELTY + MARGIN}
    everything = _Candidates(track, arms[ONE])
    single = held(plain, everything.known, floors, means)
    lists[SINGLE], prices[SINGLE] = single.choose(everything.rows), dict(single.prices)
    floors["diversity"] = means(single.choose(everything.known))["diversity"] + GAIN
    diverse = held(plain, everything.known, floors, means)
    lists[SINGLE + DIVERSE], prices[SINGLE + DIVERSE] = diverse.choose(everything.rows), dict(diverse.prices)
    for name, arm in {TEAM: HIERARCHY, "flat routes, arbiter": FLAT, "one list, arbiter": ONE}.items():
        union = _Candidates(track, arms[arm], arm == HIERARCHY)
        fitted = plain.fitted(union.known)
        for suffix, wanted in (("", {"novelty": floors["novelty"]}), (DIVERSE, floors)):
            found = held(fitted, union.known, wanted, means)
            lists[name + suffix], prices[name + suffix] = found.choose(union.rows), dict(found.prices)
    union = _Candidates(track, arms[HIERARCHY], personas=True)
    lists["experts in turn"] = [in_turn(row["candidates"], FINAL) for row in union.rows]
    return lists, prices


class _Candidates:
    """Rows for an arbiter: of the test households, and of those on which it is fitted."""

    def __init__(self, track: Track, arm: Arm, personas: bool = False) -> None:
        self.rows, self.known = (
            _with(rows, arm(track, rows), track.plans(rows) if personas else [[] for _ in rows])
            for rows in (track.rows, track.known)
        )


def _with(rows: Sequence[Row], found: Routes, plans: Sequence[Sequence[Persona]]) -> list[dict[str, Any]]:
    """Rows with their candidates; a route without a persona has the weight 0."""
    return [
        arbitrated(
            row,
            [[tag for tag in tags if tag >= 0] for tags in lists.tolist()],
            [*(persona.weight for persona in personas), *[0.0] * (len(lists) - len(personas))],
        )
        for row, lists, personas in zip(rows, found, plans, strict=True)
    ]
