"""Texts of a source, which nobody has read: compared, shown on one line, and put into a prompt."""

import re
import unicodedata

# Unicode categories without a mark of their own: formats (zero width, directions, tags) and halves of pairs.
_UNSEEN = ("Cf", "Cs")
_BREAKS = ("Cc", "Zl", "Zp")
# Others that show nothing: fillers, joiners, variation selectors, the empty Braille cell.
_BLANKS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
# Characters that are read as an angle bracket or a colon.
_ANGLES = ((" ", re.compile("<(?!=)|[＜﹤]")), (">", re.compile("[＞﹥]")))
_NO_SEPARATOR = re.compile(r"(?<! )>|>(?! )")
_COLONS = ":：﹕︓"
# `[INST]`, `[/INST]`, `[PAD]`: control tokens of some models.
_CONTROL_TOKEN = re.compile(r"\[+(/?[A-Z_]+)\]+")


def normalise(text: str) -> str:
    """Fold letter case, Unicode forms and runs of white space, so that equal strings compare equal."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def visible(text: str) -> str:
    """A text on one line, without what does not show: control, zero-width and direction characters."""
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    kinds = ((character, unicodedata.category(character)) for character in _BLANKS.sub("", text))
    return " ".join(
        "".join(" " if kind in _BREAKS else c for c, kind in kinds if kind not in _UNSEEN).split()
    )


def display(text: str) -> str:
    """A text of a source as it may stand in a prompt: one visible line that is no markup and no heading.

    Angle brackets of any width and the brackets of control tokens (``[INST]``) are taken out, but for what
    can be no markup: ``dairy > milk`` and ``<=42p``. Colons at the end go too: ``weekly:`` heads a level.
    """
    for bracket, found in _ANGLES:
        text = found.sub(bracket, text)
    text = visible(_CONTROL_TOKEN.sub(r"\1", visible(text)))
    return " ".join(_NO_SEPARATOR.sub(" ", text).split()).rstrip(_COLONS + " >").lstrip(" >")
