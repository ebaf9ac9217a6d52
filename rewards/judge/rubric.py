"""Rubrics: the dimensions of a judge, in a YAML file with a version.

    version: 1
    superior: 0.7
    dimensions:
      relevance: {by: grounded}
      charm:
        reads: [item]
        question: Would a friend say it like this?

``explanations`` and ``tags`` ship; any other is the path of a file.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ValidationError

from ...envs.faults import MendableError
from ...envs.settings import Between, Text

SHIPPED = ("explanations", "tags")

_LARGEST = 1_000_000  # bytes of a rubric


class RubricError(MendableError, ValueError):
    """A rubric cannot be used; the message names file, place and fix."""


class Dimension(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """One thing that is judged."""

    by: Annotated[str, Text(4000)] = "model"
    """Who evaluates it: ``model``, ``grounded`` (the shipped checker of this name), or a checker of your own,
    ``file.py:function`` or ``package.module:function``."""
    question: Annotated[str, Text(10_000)] = ""
    """What the model is asked; also what a person who labels reads."""
    defect: Annotated[str, Text(10_000)] = ""
    """When it is a defect."""
    positive: Annotated[str, Text(10_000)] = ""
    """When it is positive."""
    reads: tuple[Annotated[str, Text(200)], ...] = ()
    """Columns of a row that the model sees beside the text."""


class Rubric(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Dimensions of a judge."""

    version: Annotated[int, Between(1, 1_000_000)]
    """Number that changes with the rubric."""
    superior: Annotated[float, Between(0, 1)] = 0.7
    """Least share of positive dimensions of a superior text."""
    dimensions: dict[str, Dimension]
    """Name -> what is judged."""


def load(name: str) -> Rubric:
    """A rubric by its name or path.

    Raises:
        RubricError: there is no such file, or it is no rubric.
    """
    if name in SHIPPED:
        return _read(name, (resources.files(__package__) / "rubrics" / f"{name}.yaml").read_text())
    path = Path(name)
    if not path.is_file():
        raise RubricError(f"rubric {name}: no such file; name one, or one of {', '.join(SHIPPED)}")
    if path.stat().st_size > _LARGEST:
        raise RubricError(f"rubric {name}: larger than {_LARGEST:,} bytes; is it the right file?")
    try:
        return _read(name, path.read_text())
    except UnicodeDecodeError as error:
        raise RubricError(f"rubric {name}: no text in UTF-8 ({error.reason}); save it so") from error


def _read(name: str, text: str) -> Rubric:
    try:
        found = Rubric.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise RubricError(f"rubric {name}: no YAML: {why[:300]}") from error
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"])) or "the file"
        raise RubricError(f"rubric {name}: {place}: {fault['msg']}") from error
    if not found.dimensions:
        raise RubricError(f"rubric {name}: dimensions is empty; name at least one")
    for dimension, one in found.dimensions.items():
        if one.by == "model" and not one.question:
            raise RubricError(
                f"rubric {name}: dimensions.{dimension}.question is missing; write what the model is asked, "
                "or set by: grounded, or a checker of your own"
            )
    return found
