"""What a field of a configuration may hold, declared with the field and refused in words.

``Between``   a number within bounds: 5.0 is taken as 5, but neither text (``"5"``) nor a switch (``true``)
``Text``      text that has something in it and can be printed, perhaps a path
``Place``     the path of a file or a folder
``Each``      a list of limited length, without repetitions
``SWITCH``    ``on`` and ``off`` in a list of words, which YAML reads as true and false
``ONE``       a name alone, where a list of names is asked for
``in_full``   a path whose ``~`` and variables mean what they mean in a shell
``nearest``   what an error says behind an unknown name

Every field of every section has one of these, a type that admits few values, or is another section;
``tests/launch/config/test_bounds.py`` walks through all of them.
"""

import difflib
import math
import os
import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from pydantic import BeforeValidator, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

# Steps, episodes, samples: more than anybody trains with, far less than memory has room for.
MANY = 10_000_000
# Seconds: eleven days.
PATIENCE = 1_000_000.0
# Smallest divisor of a reward: a smaller unit, and a narrower range, would be lost in it.
SMALLEST_UNIT = 1e-30
# Largest score, since scores are kept as float32.
LARGEST = 1e38
# Room above a seed for those that the stages and the processes of a run derive from it.
LARGEST_SEED = 2**32 - 2**16

_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})")

# Longest part and whole of a path, on the file systems that we know.
_LONGEST_PART, _LONGEST_PATH = 255, 4000


@dataclass(frozen=True)
class Between:
    """A finite number from ``low`` to ``high``, both included; whole where the field is an ``int``."""

    low: float
    high: float

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        whole = source is int

        def check(value: Any) -> Any:
            number = isinstance(value, Real) and not isinstance(value, bool)
            if not (number and self.low <= value <= self.high and (not whole or value == int(value))):
                raise ValueError(f"must be {self.said(whole)}")
            return int(value) if whole else float(value)

        return core_schema.no_info_before_validator_function(check, handler(source))

    def said(self, whole: bool) -> str:
        """The bounds in words."""
        written = "{:,}" if whole else "{:g}"
        low, high = (written.format(end) for end in (self.low, self.high))
        return f"a {'whole ' if whole else ''}number from {low} to {high}"


@dataclass(frozen=True)
class Text:
    """Text of 1 to ``most`` characters that can be printed and written.

    Attributes:
        path: Whether the text may be a path, which is read :func:`in_full`.
        blank: Whether blanks and line breaks are text too.
    """

    most: int = 1000
    path: bool = False
    blank: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(value: Any) -> Any:
            if not isinstance(value, str):
                raise ValueError("must be text; put it in quotes")
            if not (value if self.blank else value.strip()):
                raise ValueError("must not be empty")
            if len(value) > self.most:
                raise ValueError(f"must have at most {self.most:,} characters, not {len(value):,}")
            _check_printable("".join(value.split()) if self.blank else value)
            return in_full(value) if self.path else value

        return core_schema.no_info_before_validator_function(check, handler(source))


@dataclass(frozen=True)
class Place:
    """The path of a file or a folder, there or not, which is read :func:`in_full`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(value: Any) -> Any:
            if not isinstance(value, str | os.PathLike):
                raise ValueError("must be a path; put it in quotes")
            path = os.fspath(value)
            if not path.strip():
                raise ValueError("must not be empty; '.' is the folder that you are in")
            _check_printable(path)
            path = in_full(path)
            if len(path) > _LONGEST_PATH or any(len(p.encode()) > _LONGEST_PART for p in Path(path).parts):
                raise ValueError(
                    f"is too long; a path has at most {_LONGEST_PATH:,} characters, "
                    f"and at most {_LONGEST_PART} bytes between two slashes"
                )
            return path

        return core_schema.no_info_before_validator_function(check, handler(source))


@dataclass(frozen=True)
class Each:
    """A list of at most ``most`` entries, each of them once."""

    most: int = 1000
    least: int = 0

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(value: Any) -> Any:
            if not isinstance(value, Sequence) or isinstance(value, str | bytes):
                raise ValueError("must be a list, such as [...]")
            if not self.least <= len(value) <= self.most:
                raise ValueError(f"must have {self.least} to {self.most:,} entries, not {len(value):,}")
            repeated = next((entry for i, entry in enumerate(value) if entry in value[:i]), None)
            if repeated is not None:
                raise ValueError(f"names {shown(repeated)} twice")
            return value

        return core_schema.no_info_before_validator_function(check, handler(source))


SWITCH = BeforeValidator(
    lambda value: {True: "on", False: "off"}[value] if isinstance(value, bool) else value
)

ONE = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)


def check_plain(value: Any) -> None:
    """Refuse what JSON cannot say.

    Raises:
        ValueError: a number that is not finite, a key that is no text, or another kind of object.
    """
    if isinstance(value, dict):
        for key, entry in value.items():
            if not isinstance(key, str):
                raise ValueError(f"has the key {shown(key)}; put it in quotes")
            check_plain(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            check_plain(entry)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"holds {value}; write a finite number")
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise ValueError(f"holds a {type(value).__name__}, which JSON has no word for")


def in_full(path: str) -> str:
    """A path with the home folder for ``~`` (or ``~ann``), and values for ``$NAME`` and ``${NAME}``.

    A path that is there under the very name is taken as it stands, dollars included.

    Raises:
        ValueError: a variable that is not set, or a user that does not exist.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2] or ""
        if name not in os.environ:
            raise ValueError(
                f"names the variable {found[0]}, which is not set; set it, or write the path out"
            )
        return os.environ[name]

    full = os.path.expanduser(path)
    if full.startswith("~"):
        raise ValueError(
            f"names the home folder of {full.split('/')[0][1:]!r}, who is no user of this machine"
        )
    return full if os.path.lexists(full) else _VARIABLE.sub(value, full)


def _check_printable(text: str) -> None:
    # Control characters, halves of characters (of a name that is no UTF-8), line and paragraph separators.
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise ValueError("must not hold line breaks or other characters that cannot be printed")


def shown(value: Any) -> str:
    """A value as errors show it: on one line, not longer than a person reads, and without a password."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        text = "a number of thousands of digits"
    if "@" in text:
        return "(not shown: a password may stand before the @)"
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text):,} characters)"


def nearest(name: str, known: Collection[str], most: int | None = None, cutoff: float = 0.6) -> str:
    """End of an error about an unknown name: the nearest one, and those that there are.

    Args:
        most: Largest number of names to list.
        cutoff: Similarity, from 0 to 1, that the nearest one needs.
    """
    close = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    more = f" and {len(known) - most} more" if most is not None and len(known) > most else ""
    return f"{hint} known: {', '.join(sorted(known)[:most]) or 'none'}{more}"
