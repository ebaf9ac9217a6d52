"""The section ``task`` of a configuration, for the tasks of agents."""

from typing import Any

from pydantic import Field, field_validator

from ..settings import check_plain
from ..task import TaskSettings


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
