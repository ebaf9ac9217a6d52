"""An episode as chat messages.

Everything a source brings (profile, tag names) is data, not instruction: it stands between ``<user>`` and
``</user>``, one item a line, as :func:`recrl.envs.text.display` leaves it: without markup, line breaks and
characters that do not show, and never as a heading. Tags got such names when their catalogue was built: what
is shown is what is read back.
"""

from collections.abc import Mapping
from string import Formatter
from typing import Annotated, Any

import polars as pl
from pydantic import BaseModel, field_validator

from ..catalog import Catalog
from ..settings import Text
from ..task import Message
from ..text import display

# Weeks with the tag over weeks with the most frequent tag, from the most to the least frequent.
_LEVELS = ((0.5, "weekly"), (0.25, "often"), (0.1, "sometimes"), (0.0, "rarely"))
_OLD = "not lately"


class PromptConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Words of the prompt. Those of films might be: person ``viewer``, goods ``films``, and a request to name
    what the person watches next."""

    system: Annotated[str, Text(10_000)] | None = "You tell a shop what its customers buy next."
    """System message; null for none."""
    request: Annotated[str, Text(10_000)] = (
        "Name {count} kinds of {goods} this {person} buys in the coming weeks, one a line, none twice."
    )
    """What is asked, behind the data; ``{count}``, ``{goods}`` and ``{person}`` are filled in."""
    goods: Annotated[str, Text(200)] = "goods"
    """Noun of what tags are kinds of."""
    person: Annotated[str, Text(200)] = "shopper"
    """Noun of a user."""
    holidays: bool = True
    """Whether the season and the holidays ahead stand in the prompt."""

    @field_validator("request")
    @classmethod
    def _fills(cls, request: str) -> str:
        try:
            named = {name for _, name, _, _ in Formatter().parse(request) if name is not None}
        except ValueError as error:
            raise ValueError(f"{error}; write {{{{ for a brace that is meant as it stands") from error
        if unknown := named - {"count", "goods", "person"}:
            raise ValueError(
                f"names {{{min(unknown)}}}; only {{count}}, {{goods}} and {{person}} are filled in"
            )
        if "count" not in named:
            raise ValueError("must name {count}, so that the policy knows how many tags to list")
        return request


SHOP = PromptConfig()


def tag_messages(
    episode: Mapping[str, Any],
    catalog: Catalog,
    slots: int,
    max_history: int = 100,
    wording: PromptConfig = SHOP,
) -> list[Message]:
    """Ask for the ``slots`` tags that a user will buy next.

    Args:
        episode: A row of :func:`recrl.envs.data.episodes.build`; ``target`` is not read.
        slots: Length of the list to ask for.
        max_history: At most this many tags of the history, the most frequent ones.
        wording: Words of the messages.

    Returns:
        A system and a user message. The history stands as one tag a line, most frequent last, in levels of
        frequency; tags last bought before the lookback have a level of their own, the first.
    """
    facts = _facts(episode, wording.holidays)
    data = ["<user>", *facts, *_history(episode, catalog, max_history), "</user>"]
    user = {"role": "user", "content": "\n".join([*data, request(slots, wording)])}
    return [{"role": "system", "content": wording.system}, user] if wording.system else [user]


def request(slots: int, wording: PromptConfig = SHOP) -> str:
    """What is asked, the same for every user; after the data, so that nothing in them has the last word."""
    return wording.request.format(count=slots, goods=wording.goods, person=wording.person)


def _facts(episode: Mapping[str, Any], holidays: bool) -> list[str]:
    texts = (episode["calendar"] if holidays else None, episode["profile"])
    return [fact for text in texts if text and (fact := display(text))]


def _history(episode: Mapping[str, Any], catalog: Catalog, max_history: int) -> list[str]:
    recent = set(episode["lookback"])
    tags = episode["history"][:max_history]
    weights = episode["history_weight"][:max_history]
    most = max(weights, default=1.0)
    levels: dict[str, list[str]] = {_OLD: [], **{name: [] for _, name in reversed(_LEVELS)}}
    for tag, weight in zip(tags, weights, strict=True):
        name = next(name for share, name in _LEVELS if weight >= share * most) if tag in recent else _OLD
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
) -> list[dict[str, Any]]:
    """Rows ready for training: ``prompt`` (chat messages), ``unseen`` and the columns of :data:`COLUMNS`."""
    return [
        {
            "prompt": tag_messages(row, catalog, slots, max_history, wording),
            **{name: row[name] for name in (*COLUMNS, "unseen")},
        }
        for row in episodes.iter_rows(named=True)
    ]
