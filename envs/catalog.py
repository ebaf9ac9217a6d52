"""The tag vocabulary: names, aliases, equivalent tags, and the parser that turns an answer into tag ids.

An answer is read one tag a line. Numbering, bullets, quotes, letter case and known aliases are tolerated; any
other string is counted as invalid and never guessed.

Names come from a source that nobody has read: :func:`display` says how one may stand in a prompt. Catalogues
are built from such names, and a policy that repeats what it was shown names the tag.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .storage import sealed
from .text import normalise

INVALID = -1

# Lines whose tag is remembered.
_MOST_LINES = 50_000

_BULLET = re.compile(r"^(?:[-*•–—]+|\(?\d{1,3}[.):]|#\d{1,3}\b)\s*")
_WRAPPING = "\"'`*_“”‘’"


@dataclass(frozen=True)
class ParsedAnswer:
    """One answer as tag ids.

    Attributes:
        slots: One entry per non-empty answer line: a tag id, or ``INVALID`` (-1). Repeats stay in.
    """

    slots: tuple[int, ...]

    @cached_property
    def valid(self) -> tuple[int, ...]:
        """Valid tag ids in order, each once."""
        return tuple(dict.fromkeys(s for s in self.slots if s != INVALID))

    @property
    def invalid(self) -> int:
        """Number of slots whose string is no known tag."""
        return sum(s == INVALID for s in self.slots)

    @property
    def duplicates(self) -> int:
        """Number of slots that repeat an earlier valid tag."""
        return len(self.slots) - self.invalid - len(self.valid)

    def first(self, k: int) -> "ParsedAnswer":
        """The answer as it stood after its first ``k`` slots."""
        return ParsedAnswer(self.slots[:k])

    def top(self, k: int) -> tuple[int, ...]:
        """Distinct valid tags among the first ``k`` slots: an invalid or repeated string uses its slot up."""
        return tuple(dict.fromkeys(s for s in self.slots[:k] if s != INVALID))


class Catalog:
    """The closed set of tags a policy may name.

    Args:
        tags: Display names; the position is the tag id. Unique after :func:`normalise`.
        aliases: Other spelling -> display name. An alias never overrides a display name.
        equivalents: Groups of display names that mean the same shelf (``cheese`` and ``cheeses``). They
            stay separate tags; metrics may count a hit on either in an extra column.

    Raises:
        ValueError: two tags share a name, or an alias or equivalent names an unknown tag.
    """

    def __init__(
        self,
        tags: Sequence[str],
        aliases: Mapping[str, str] | None = None,
        equivalents: Sequence[Sequence[str]] = (),
    ) -> None:
        self.tags = tuple(tags)
        self.aliases = dict(aliases or {})
        self.equivalents = tuple(tuple(group) for group in equivalents)
        self._ids: dict[str, int] = {}
        self._read: dict[str, int] = {}
        for i, tag in enumerate(self.tags):
            key = normalise(tag)
            if not key:
                raise ValueError(f"tag {i} is empty; every tag needs a name")
            if key in self._ids:
                raise ValueError(
                    f"tags {self._ids[key]} and {i} are both called {tag!r}; tag names must be unique"
                )
            self._ids[key] = i
        for alias, tag in self.aliases.items():
            self._ids.setdefault(normalise(alias), self.id(tag))
        self.equivalence_class = list(range(len(self.tags)))
        for group in self.equivalents:
            ids = [self.id(tag) for tag in group]
            for i in ids:
                self.equivalence_class[i] = min(ids)

    def __len__(self) -> int:
        return len(self.tags)

    def id(self, name: str) -> int:
        """Tag id of a display name or alias; ``KeyError`` for an unknown one."""
        try:
            return self._ids[normalise(name)]
        except KeyError:
            raise KeyError(f"{name!r} is not in the catalogue of {len(self)} tags") from None

    def parse(self, text: str) -> ParsedAnswer:
        """Read an answer, one tag a line."""
        return ParsedAnswer(tuple(self._slot(line) for line in text.splitlines() if line.strip()))

    def _slot(self, line: str) -> int:
        """Tag id of a line, or ``INVALID``."""
        # A policy writes the same few hundred lines again and again.
        if (found := self._read.get(line)) is None:
            if len(self._read) >= _MOST_LINES:
                self._read.clear()
            found = self._read[line] = self._look_up(line)
        return found

    def _look_up(self, line: str) -> int:
        # The line as it stands comes first: a tag may itself begin with a digit or a dash.
        stripped = line.strip()
        without_bullet = _BULLET.sub("", stripped)
        for candidate in (
            stripped,
            without_bullet,
            without_bullet.strip(_WRAPPING + " ").rstrip(".,;:").strip(_WRAPPING),
        ):
            found = self._ids.get(normalise(candidate))
            if found is not None:
                return found
        return INVALID

    def render(self, tag_ids: Sequence[int]) -> str:
        """The answer text that names these tags, one a line; every line ends with its break."""
        return "".join(f"{self.tags[i]}\n" for i in tag_ids)

    @cached_property
    def fingerprint(self) -> str:
        """Content hash: equal for catalogues that parse every answer alike."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()[:16]

    def _content(self) -> dict:
        return {"tags": self.tags, "aliases": self.aliases, "equivalents": self.equivalents}

    def save(self, path: Path) -> None:
        sealed.write(path, json.dumps(self._content(), indent=1, ensure_ascii=False))

    @classmethod
    def load(cls, path: Path) -> "Catalog":
        return cls(**json.loads(path.read_text()))
