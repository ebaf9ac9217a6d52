"""Markdown: tables, and texts of others, which look as they are and mark nothing up."""

import re
from collections.abc import Sequence

from .text import visible

# In this order: what has a meaning anywhere; `_`, but for one within a word; the start of a tag, of an
# entity, and of what GitHub makes a link of; the end of a link's text. So `novelty >= 0.3`,
# `length in [6, 11]` and `own_frequency` stay as they are.
_MARKS = (
    re.compile(r"([\\`*|~$])"),
    re.compile(r"((?<![^\W_])_|_(?![^\W_]))"),
    re.compile(r"(<(?=[\w/!?]))"),
    re.compile(r"(&(?=#?\w+;))"),
    re.compile(r"(:(?=//))"),
    re.compile(r"((?<=www)\.)", re.IGNORECASE),
    re.compile(r"(\](?=[(\[:]))"),
)


def text(raw: object) -> str:
    """A text within a line or a table's cell."""
    shown = visible(str(raw))
    for mark in _MARKS:
        shown = mark.sub(r"\\\1", shown)
    return shown


def code(raw: object) -> str:
    """A text as code, with backticks of its own turned into quotes."""
    return "`" + visible(str(raw)).replace("`", "'") + "`"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; all columns but the first are numbers, flush right. Cells stand as they are."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
