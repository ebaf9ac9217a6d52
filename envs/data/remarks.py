"""What to know about the episodes of a task before trusting a figure of it."""

from collections.abc import Mapping
from itertools import pairwise

from .calendar import season, start_of
from .episodes import SPLITS, UNSEEN
from .panel import Panel
from .settings import Protocol

FEW = 1000
"""Episodes of a split below which it is remarked on."""

# Share of the look-back that has to lie in the data.
_SEEN = 0.75


def of(
    losses: Mapping[str, Mapping[str, int]], protocol: Protocol, panel: Panel, first: int | None
) -> list[str]:
    """Remarks, a sentence or two each.

    Args:
        losses: Split -> what became of the users at its origins.
        first: First week of the data; None where tables do not tell.
    """
    remarks = [_few(split, losses[split], protocol) for split in SPLITS if split in losses]
    if protocol.split == "time":
        remarks += [_cut(protocol, first), _seasons(protocol, panel)]
    return [remark for remark in remarks if remark]


def _few(split: str, losses: Mapping[str, int], protocol: Protocol) -> str:
    if losses["episodes"] >= FEW:
        return ""
    kept = ("candidates", "episodes", UNSEEN)
    lost = {reason: number for reason, number in losses.items() if reason not in kept}
    most = max(lost, key=lambda reason: lost[reason], default=None)
    why = f"; of {losses['candidates']:,} users at an origin, {lost[most]:,} are lost {most}" if most else ""
    effect = "little to learn from" if split == "train" else "wide intervals"
    other = "; data.protocol.split=last takes one of every user" if protocol.split == "time" else ""
    return f"only {losses['episodes']:,} {split} episodes: {effect}{why}{other}"


def _cut(protocol: Protocol, first: int | None) -> str:
    origin = min(protocol.train_origins)
    if first is None or origin - first >= _SEEN * protocol.lookback:
        return ""
    return (
        f"before the first training origin the data hold {origin - first} of the {protocol.lookback} "
        f"{protocol.step}s of data.protocol.lookback: more tags count as novel there than in the test; "
        f"data.protocol.lookback={max(1, origin - first)} would be whole everywhere"
    )


def _seasons(protocol: Protocol, panel: Panel) -> str:
    of_train, of_test = (
        _seasons_of(origins, protocol, panel) for origins in (protocol.train_origins, protocol.test_origins)
    )
    strange = [name for name in of_test if name not in of_train]
    if not strange:
        return ""
    return (
        f"test episodes lie in {' and '.join(of_test)}, training episodes in {' and '.join(of_train)}: what "
        f"the calendar means in {' and '.join(strange)} is not learned"
    )


def _seasons_of(origins: tuple[int, ...], protocol: Protocol, panel: Panel) -> list[str]:
    """Seasons of the windows, in order."""
    steps = sorted({origin + i for origin in origins for i in range(protocol.window)})
    days = [start_of(panel.week_zero, step, protocol.step) for step in steps]
    seasons = [season(day) for day in days]
    return list(dict.fromkeys(seasons[:1] + [b for a, b in pairwise(seasons) if a != b]))
