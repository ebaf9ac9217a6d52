"""Answers as JSON of a shape that the asker declares with pydantic."""

import json
import re
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from ..http.client import strict_json

Shape = TypeVar("Shape", bound=BaseModel)

# A model that nothing holds to JSON likes to put it into a block of Markdown.
_FENCED = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL)


def parse(text: str, schema: type[Shape]) -> Shape:
    """An answer as an instance of a schema.

    Args:
        text: JSON and nothing else, or a block of Markdown of it.

    Raises:
        ValueError: the text is no JSON in the strict sense, or of another shape; on one line.
    """
    fenced = _FENCED.fullmatch(text)
    given = fenced[1] if fenced else text
    value = strict_json(given)
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("half a character, which is no text") from None
    try:
        return schema.model_validate_json(given)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"])) or "the answer"
        raise ValueError(f"{place}: {fault['msg']}") from None
