"""The section ``task`` of a configuration, for the tasks of agents."""

from typing import Annotated, Any

from pydantic import BaseModel, Field, field_validator, model_validator

from ..settings import Between, check_plain
from ..tags.settings import TagsConfig
from ..task import TaskSettings

_Share = Annotated[float, Between(0, 1)]


class GuidelinesConfig(TaskSettings, frozen=True, use_attribute_docstrings=True):
    """Style guidelines for the texts of another task."""

    of: dict[str, Any] = Field(default_factory=lambda: {"use": "explanations"})
    """Section ``task`` of the task whose rows are written about, such as ``{use: explanations}``."""

    @field_validator("of")
    @classmethod
    def _named(cls, of: dict[str, Any]) -> dict[str, Any]:
        check_plain(of)
        if not isinstance(of.get("use"), str):
            raise ValueError("names no task; write it as {use: explanations}")
        return of


class Mix(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Shares of what demonstrations of an expert name, besides tags that fill a list up; they add up to 1."""

    behaviour: _Share = 0.8
    """Tags of the persona that were bought."""
    trend: _Share = 0.05
    """Options of the persona whose buyers grew most in the last weeks."""
    season: _Share = 0.05
    """Options of the persona that are bought most in the season ahead, by the weeks seen so far."""
    situational: _Share = 0.05
    """Tags of the persona that the household bought last."""
    general: _Share = 0.05
    """Popular options of the persona."""

    @model_validator(mode="after")
    def _whole(self) -> "Mix":
        total = sum(share for _, share in self)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares add up to {total:g}, not to 1; change one of them")
        return self


class ExpertConfig(TagsConfig, frozen=True, use_attribute_docstrings=True):
    """Lists of tags for one persona of a user."""

    slots: Annotated[int, Between(1, 10_000)] = 15
    """Length of the list of one persona."""
    personas: Annotated[int, Between(1, 100)] = 4
    """Personas of a user; fewer where the history has fewer tags."""
    clock: Annotated[float, Between(0, 10)] = 0.2
    """Weight of recency, rhythm and season beside the vectors when tags are grouped into personas."""
    final: Annotated[int, Between(1, 10_000)] = 10
    """Length of the team's list, which an arbiter makes of all experts' lists."""
    mix: Mix = Mix()
    """What the demonstrations of the warm start name."""


class ArbiterConfig(TagsConfig, frozen=True, use_attribute_docstrings=True):
    """Lists of tags out of what experts have named."""

    personas: Annotated[int, Between(1, 100)] = 4
    """Personas of a user, each with an expert."""
    clock: Annotated[float, Between(0, 10)] = 0.2
    """Weight of recency, rhythm and season beside the vectors when tags are grouped into personas."""
    candidates: Annotated[int, Between(1, 10_000)] = 15
    """Tags that each expert names."""
