"""The section ``task`` of a configuration, for the tag task."""

from string import Formatter
from typing import Annotated, Literal

from pydantic import BaseModel, field_validator, model_validator

from ..settings import MANY, Between, Each, Text
from ..task import TaskSettings

History = Literal["tags", "text", "hybrid", "truncated", "frequent"]


class PromptConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Words of the prompt. For films they might be: person ``viewer``, goods ``films``, and a request to name
    what the person watches next."""

    system: Annotated[str, Text(10_000)] | None = "You tell a shop what its customers buy next."
    """System message; null for none."""
    request: Annotated[str, Text(10_000)] = (
        "Name {count} kinds of {goods} this {person} buys in the coming weeks, one a line, none twice."
    )
    """Request that follows the data; ``{count}``, ``{goods}`` and ``{person}`` are filled in."""
    goods: Annotated[str, Text(200)] = "goods"
    """Noun for what the tags are kinds of."""
    person: Annotated[str, Text(200)] = "shopper"
    """Noun for a user."""
    holidays: bool = True
    """Whether the season and the holidays ahead stand in the prompt."""
    history: History = "tags"
    """How the history is told: ``tags`` by their frequency, or product by product: as ``text``, ``hybrid``
    (one vector each, for a policy with entity slots), or as text the latest (``truncated``) or most
    ``frequent`` ones."""
    products: Annotated[int, Between(1, MANY)] = 480
    """Largest number of products of a history as text or hybrid, the latest ones."""
    kept: Annotated[int, Between(1, MANY)] = 50
    """Number of products of a truncated history, or of the most frequent ones."""

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


class TagsConfig(TaskSettings, frozen=True, use_attribute_docstrings=True):
    """Lists of tags that a user will buy."""

    slots: Annotated[int, Between(1, 10_000)] = 10
    """Length of a list of tags."""
    cutoffs: Annotated[tuple[Annotated[int, Between(1, 9_999)], ...], Each(100)] = ()
    """Shorter lengths at which hit, recall and nDCG of deployed lists are measured too, such as [1, 5]."""
    sequential: bool = False
    """Whether a small self-attentive model of a user's steps, trained on the spot, is a baseline."""
    max_history: Annotated[int, Between(0, MANY)] = 100
    """Largest number of tags of the history that stand in the prompt."""
    prompt: PromptConfig = PromptConfig()
    """Words of the prompt."""

    @model_validator(mode="after")
    def _shorter(self) -> "TagsConfig":
        if self.cutoffs and max(self.cutoffs) >= self.slots:
            raise ValueError(
                f"task.cutoffs={list(self.cutoffs)}: a list has task.slots={self.slots} tags, at which it is "
                "measured anyway; name shorter lengths, or raise task.slots"
            )
        return self
