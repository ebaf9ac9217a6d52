"""An episode as chat messages.

Everything a source brings (profile, tag names) is data, not instruction: it stands between ``<user>`` and
``</user>``, one item a line, as :func:`recrl.envs.text.display` leaves it: without markup, line breaks and
characters that do not show, and never as a heading. Tags got such names when their catalogue was built: what
is shown is what is read back.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from ..catalog import Catalog
from ..data.settings import Step
from ..task import Message
from ..text import display
from .settings import SHOP, PromptConfig

# Weeks with the tag over weeks with the most frequent tag, from the most to the least frequent.
_HIGHEST: dict[Step, str] = {"hour": "most", "day": "daily", "week": "weekly", "month": "monthly"}
_LOWER = ((0.25, "often"), (0.1, "sometimes"), (0.0, "rarely"))
_OLD = "not lately"


Told = Callable[[Mapping[str, Any]], list[str]]


def tag_messages(
    episode: Mapping[str, Any],
    catalog: Catalog,
    slots: int,
    max_history: int = 100,
    wording: PromptConfig = SHOP,
    step: Step = "week",
    told: Told | None = None,
) -> list[Message]:
    """Ask for the ``slots`` tags that a user will buy next.

    Args:
        episode: A row of :func:`recrl.envs.data.episodes.build`; ``target`` is not read.
        slots: Length of the list to ask for.
        max_history: Largest number of tags of the history to show, the most frequent ones.
        wording: Words of the messages.
        step: Unit of the episode's weeks, which names the highest level.
        told: Function that tells the history of an episode in lines; None for its tags.

    Returns:
        A system and a user message. A history of tags stands as one tag a line, most frequent last, in levels
        of frequency; tags last bought before the lookback have a level of their own, the first.
    """
    facts = _facts(episode, wording.holidays)
    history = told(episode) if told else _history(episode, catalog, max_history, step)
    data = ["<user>", *facts, *history, "</user>"]
    user = {"role": "user", "content": "\n".join([*data, request(slots, wording)])}
    return [{"role": "system", "content": wording.system}, user] if wording.system else [user]


def request(slots: int, wording: PromptConfig = SHOP) -> str:
    """Request, the same for every user; it follows the data, so that nothing in them has the last word."""
    return wording.request.format(count=slots, goods=wording.goods, person=wording.person)


def _facts(episode: Mapping[str, Any], holidays: bool) -> list[str]:
    texts = (episode["calendar"] if holidays else None, episode["profile"])
    return [fact for text in texts if text and (fact := display(text))]


def _history(episode: Mapping[str, Any], catalog: Catalog, max_history: int, step: Step) -> list[str]:
    recent = set(episode["lookback"])
    tags = episode["history"][:max_history]
    weights = episode["history_weight"][:max_history]
    most = max(weights, default=1.0)
    known = ((0.5, _HIGHEST[step]), *_LOWER)
    levels: dict[str, list[str]] = {_OLD: [], **{name: [] for _, name in reversed(known)}}
    for tag, weight in zip(tags, weights, strict=True):
        name = next(name for share, name in known if weight >= share * most) if tag in recent else _OLD
        levels[name].append(catalog.tags[tag])
    # What matters most stands nearest to the answer: attention finds it by distance alone.
    return [line for name, found in levels.items() if found for line in (f"{name}:", *reversed(found))]


# Columns that travel with a prompt: what rewards and the warm start may read.
COLUMNS = ("target", "lookback", "history", "history_weight", "segment", "user", "origin", "calendar")


def prompted_rows(
    episodes: pl.DataFrame,
    catalog: Catalog,
    slots: int,
    max_history: int = 100,
    wording: PromptConfig = SHOP,
    step: Step = "week",
    columns: Sequence[str] = COLUMNS,
    told: Told | None = None,
) -> list[dict[str, Any]]:
    """Rows ready to be asked: ``prompt`` (chat messages), ``unseen`` and some of :data:`COLUMNS`."""
    return [
        {
            "prompt": tag_messages(row, catalog, slots, max_history, wording, step, told),
            **{name: row[name] for name in (*columns, "unseen")},
        }
        for row in episodes.iter_rows(named=True)
    ]
