"""Personas: complementary parts of a household's purchases, each with its evidence.

``Persona``      one part: tags, weeks and season that speak for it, and the options that it answers for
``Planner``      whoever splits rows: each gets its personas, the heaviest first
``whole``        a household as one persona, where nobody has split it
``evidence``     the lines that tell an expert of its persona
``shared_out``   a budget of tags in slots for each persona, by weight
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from ..task import Row

_RHYTHMS = ((1.5, "about weekly"), (3.0, "every few weeks"), (6.0, "about monthly"))
_LATELY = 4  # weeks


@dataclass(frozen=True)
class Persona:
    """One part of what a household buys.

    Attributes:
        tags: Tags of the household's history that make it up, the most frequent first.
        weeks: Weeks with a purchase of them, counted back from the origin: 1 is the week before it.
        season: Season in which the household bought most of them a week; empty where nobody knows.
        weight: Share of the household's purchases, 0 to 1.
        cell: Options that it answers for, its tags among them; the cells of a household's personas are
            disjoint.
    """

    tags: tuple[int, ...]
    weeks: tuple[int, ...] = ()
    season: str = ""
    weight: float = 1.0
    cell: tuple[int, ...] = ()

    @property
    def rhythm(self) -> float | None:
        """Median number of weeks from one purchase to the next; None for a single one."""
        gaps = np.diff(sorted(self.weeks))
        return median(gaps.tolist()) if len(gaps) else None


Planner = Callable[[Sequence[Row]], list[list[Persona]]]


def whole(row: Row, options: int) -> Persona:
    """A household as one persona.

    Args:
        options: Number of options, all of which are its cell.
    """
    return Persona(tuple(row["history"]), cell=tuple(range(options)))


def evidence(persona: Persona, options: Sequence[str], most: int) -> list[str]:
    """Lines about a persona: facts out of closed sets of words, then its tags, the most frequent last.

    Args:
        options: Names of the tags.
        most: Largest number of tags.
    """
    share = f"{round(10 * persona.weight) * 10} % of the purchases"
    gap = persona.rhythm
    rhythm = next((word for most, word in _RHYTHMS if gap is not None and gap <= most), "now and then")
    last = min(persona.weeks, default=None)
    lately = "bought lately" if last is not None and last <= _LATELY else "not bought lately"
    facts = ", ".join([share, rhythm, lately, *([f"most in {persona.season}"] if persona.season else [])])
    return [facts, *(options[tag] for tag in reversed(persona.tags[:most]))]


def shared_out(personas: Sequence[Persona], tags: int) -> list[int]:
    """Slots of each persona, by weight, by largest remainders; every persona has at least one.

    Args:
        tags: Sum of the slots, no less than the number of personas.
    """
    weights = np.array([persona.weight for persona in personas], float)
    exact = weights / weights.sum() * (tags - len(personas)) if weights.sum() else np.zeros(len(personas))
    slots = np.floor(exact).astype(int)
    order = np.argsort(slots - exact, kind="stable")
    slots[order[: tags - len(personas) - slots.sum()]] += 1
    return (slots + 1).tolist()
