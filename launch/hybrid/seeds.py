"""Evaluations of one configuration under several seeds, as one.

``Seed``      what one seed found
``read``      that of a folder
``combined``  those of several
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config.schema import ConfigError
from .quality import Episodes, quality

EVALUATION = "evaluation.json"
"""File of what :func:`recrl.launch.hybrid.measuring.measure` found."""

# What seeds that are told together have in common.
_ALIKE = ("episodes", "users", "least", "long", "headline")


@dataclass(frozen=True)
class Seed:
    """What one seed found.

    Attributes:
        name: Name of its folder.
        found: Its ``evaluation.json``.
        episodes: Values of every episode; None where they were not kept.
    """

    name: str
    found: Mapping[str, Any]
    episodes: Episodes | None


def read(folder: Path) -> Seed:
    """What the evaluation of a folder found.

    Raises:
        ConfigError: there is none, or the values of the episodes are another's.
    """
    path = folder / EVALUATION
    if not path.is_file():
        raise ConfigError(f"{path} is not there; write it by recrl hybrid eval with hybrid.folder={folder}")
    found, episodes = json.loads(path.read_text()), Episodes.read(folder)
    if episodes is not None:
        means = {arm: float(np.nanmean(values)) for arm, values in episodes.recall.items()}
        if any(not np.isclose(mean, found["recall"][arm]["mean"]) for arm, mean in means.items()):
            raise ConfigError(
                f"{folder}: {EVALUATION} is not of its episodes; write both by recrl hybrid eval"
            )
    return Seed(folder.resolve().name, found, episodes)


def combined(seeds: Sequence[Seed]) -> dict[str, Any]:
    """One evaluation out of those of several seeds, shaped alike: means over seeds.

    Intervals are over users and seeds where all seeds kept their episodes. Else their bounds are means over
    seeds, which say nothing of seeds; over users they are wide enough, as no mean has a larger standard error
    than its parts have on the mean.

    Raises:
        ConfigError: two have one name, or were asked other episodes.
    """
    first = seeds[0]
    if len({one.name for one in seeds}) < len(seeds):
        raise ConfigError(f"{', '.join(one.name for one in seeds)}: name the folder of each seed once")
    for one in seeds:
        if other := [name for name in _ALIKE if one.found[name] != first.found[name]]:
            raise ConfigError(
                f"{one.name} has {other[0]}={one.found[other[0]]}, {first.name} {first.found[other[0]]}; "
                "report seeds of one configuration"
            )
    if len(seeds) == 1:
        return dict(first.found)
    found = {name: _mean([one.found[name] for one in seeds]) for name in first.found if name != "seed"}
    episodes = [one.episodes for one in seeds if one.episodes is not None]
    return found | quality(episodes) if len(episodes) == len(seeds) else found


def _mean(values: Sequence[Any]) -> Any:
    """Mean of what has the same shape; of what is no number, the first."""
    first = values[0]
    if isinstance(first, Mapping):
        return {name: _mean([value[name] for value in values]) for name in first}
    return float(np.mean(values)) if isinstance(first, int | float) else first
