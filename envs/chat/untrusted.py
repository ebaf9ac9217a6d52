"""Text that somebody else wrote - titles, histories, answers of models - as data in a question.

``quoted``   a text between marks that it cannot leave
``plain``    a text without control tokens of chat templates, and without what does not show
"""

import re

from ..text import visible

# What is read as an angle bracket or a bracket; some tokenizers fold full width before they look for tokens.
_ANGLE = re.compile("[<＜﹤]")
_WORD = r"/?[A-Za-z_]*[A-Z]{2}[A-Za-z_]*"
# `[INST]`, `[/INST]`, `[TOOL_CALLS]`, `[gMASK]`: control tokens of some models.
_BRACKETS = re.compile(rf"[\[［【]+({_WORD})[\]］】]+")


def plain(text: str) -> str:
    """A text, line by line, that holds no control token of a chat template: ``<`` is written ``&lt;``, words
    in capitals lose their brackets, and characters that do not show are left out."""
    # Characters that do not show go first: they could stand between two halves of a token.
    shown = "\n".join(map(visible, text.splitlines()))
    while (without := _BRACKETS.sub(r"\1", shown)) != shown:
        shown = without
    return _ANGLE.sub("&lt;", shown)


def quoted(text: str, name: str) -> str:
    """Text that somebody else wrote, as data in a question: it can neither end its quotation nor open
    another, and holds no control token of a chat template.

    Args:
        name: What the text is, in one word: ``answer``, ``history``.
    """
    return f"<{name}>\n{plain(text)}\n</{name}>"


def without(text: str, tokens: re.Pattern[str]) -> str:
    """A text without the control tokens of one tokenizer: a blank stands for each.

    Args:
        tokens: See :func:`any_of`.
    """
    while (cleared := tokens.sub(" ", text)) != text:  # what is left of two may be a third
        text = cleared
    return text


def any_of(tokens: list[str]) -> re.Pattern[str]:
    """Pattern of control tokens, the longest first; of none, what never matches."""
    known = sorted({token for token in tokens if token.strip()}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, known)) or r"(?!)")
