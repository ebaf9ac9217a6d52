"""The section ``task`` of a configuration, for the explanations task."""

from typing import Annotated

from pydantic import BaseModel

from ..settings import MANY, Between, Each, Text
from ..task import TaskSettings

PRIVATE = (
    *("adult incontinence", "analgesics", "antacids", "cold and flu", "dietary aid products"),
    *("ethnic personal care", "eye and ear care products", "family planning", "feminine hygiene"),
    *("foot care products", "hispanic", "laxatives", "sinus and allergy"),
)
"""Goods that tell of health, intimacy or origin."""


class PromptConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Words of the prompt."""

    system: Annotated[str, Text(10_000)] | None = "You tell shoppers why an item is for them."
    """System message; null for none."""
    request: Annotated[str, Text(10_000)] = "Say in two short sentences why the item is for them."
    """Request that follows the data."""
    profile: bool = True
    """Whether the line about the household stands in the prompt; no text may repeat it."""
    holidays: bool = True
    """Whether the season and the holidays ahead stand in the prompt."""


class ExplanationsConfig(TaskSettings, frozen=True, use_attribute_docstrings=True):
    """Texts that say why an item is recommended."""

    items: Annotated[str, Text(4000, path=True)] = "target"
    """Items to explain: ``target`` (of what the household bought in the window), a baseline of the tags task
    such as ``own frequency``, or a ``.parquet`` file of ``recrl recommend``."""
    items_per_episode: Annotated[int, Between(1, 100)] = 1
    """Items to explain to a household at one origin."""
    unseen_items: Annotated[float, Between(0, 0.9)] = 0.2
    """Share of the tags that are never explained in training; test rows explain these alone. 0: all tags are
    explained in both."""
    private: Annotated[tuple[Annotated[str, Text(200)], ...], Each()] = PRIVATE
    """Goods that are neither explained nor shown to the writer, since nobody wants to be told of them; names
    that the data do not have are ignored."""
    max_history: Annotated[int, Between(1, MANY)] = 20
    """Largest number of tags of the history that stand in the prompt."""
    max_tokens: Annotated[int, Between(1, MANY)] = 48
    """Tokens of the longest text."""
    any_calendar: bool = True
    """Whether training prompts have a day of the year at random: the days of training are of a few months."""
    guided: Annotated[float, Between(0, 1)] = 0.3
    """Share of the training prompts that carry a style guideline, drawn at random."""
    prompt: PromptConfig = PromptConfig()
    """Words of the prompt."""
