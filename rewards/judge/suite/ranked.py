"""Contexts with candidates of three grades, for judges that learn to rank.

For one household on one day two authors write four texts each:

- a rich truth, superior: reasons that are true, and an occasion that is there (season, holiday, coupon)
- a plain truth, average: one reason that is true, no occasion, nothing that invites
- a rich lie and a plain lie, bad: the same with one defect of a family

So what is rich is as often good as bad, and a lie differs from its truth in one thing. Lies about goods and
seasons come in mirror images, as in :mod:`.build`. The family ``campaign`` is left out: its two sides are one
text in two contexts. A wrong season has no plain lie, which would need an occasion; and where a change cannot
be had in an author's words, both its texts of that manner are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ....envs.explanations.facts import OF_GOODS
from ....envs.task import Row
from ..checkers import attractiveness
from ..findings import Grade
from .authors import Author
from .draws import KINDS, Draws, attempted
from .families import CHANGES, HELD_OUT, TRAINING
from .pairs import PARTS, Part, SuiteError
from .worlds import Household, world, written

if TYPE_CHECKING:
    from ....envs.catalog import Catalog

RANKED = tuple(family for family in HELD_OUT if family != "campaign")
"""Held-out families that contexts are made of."""
GRADES: Mapping[str, Grade] = {
    "rich truth": Grade.SUPERIOR,
    "plain truth": Grade.AVERAGE,
    "rich lie": Grade.BAD,
    "plain lie": Grade.BAD,
}
"""Kind of candidate -> its grade by construction."""

# Contexts of each held-out part, for one of training; seeds that an author gets to take up an occasion.
_HELD, _SEEDS = 0.3, 60
_SILENT: Mapping[str, Sequence[Any]] = {"season": (), "holiday": (), "campaign": ()}


@dataclass(frozen=True)
class Ranked:
    """Candidates for one context.

    Attributes:
        part, family, household: As of :class:`recrl.rewards.judge.suite.pairs.Pair`.
        row: Row that all candidates answer.
        kinds: Kind of each candidate, see :data:`GRADES`.
        texts: Text of each.
        authors: Who wrote each.
    """

    part: Part
    family: str
    household: int
    row: Row
    kinds: tuple[str, ...]
    texts: tuple[str, ...]
    authors: tuple[str, ...]

    @property
    def grades(self) -> tuple[Grade, ...]:
        """Grade of each candidate by construction."""
        return tuple(GRADES[kind] for kind in self.kinds)


@dataclass(frozen=True)
class _Told:
    """Worlds that an author is shown for one household: kind of candidate -> row."""

    home: Household
    worlds: Mapping[str, Row]
    good: str


def ranked(
    seen: Sequence[Row],
    unseen: Sequence[Row],
    catalog: Catalog,
    contexts: int,
    seed: int = 0,
    prompt: Callable[[Row], Any] | None = None,
) -> list[Ranked]:
    """Draw contexts of all parts.

    Args:
        seen: Rows of households that judges may learn from.
        unseen: Rows of other households.
        contexts: Number of contexts to learn from; each held-out part gets three for every ten of them.
        prompt: Function of a row that makes its messages anew, for its day; by default they stay.

    Raises:
        SuiteError: the rows are too few, or a household is in both.
    """
    if {row["user"] for row in seen} & {row["user"] for row in unseen}:
        raise SuiteError("rows of unseen households hold households that are seen; take others")
    spoken = frozenset(tag for row in (*seen, *unseen) for tag in row["shown"])
    rng = np.random.default_rng(seed)
    draws = {rows is seen: _Contexts(rows, catalog, spoken, rng) for rows in (seen, unseen)}
    found: list[Ranked] = []
    for part in PARTS:
        families = {"families": RANKED, "authors": (*TRAINING, *RANKED)}.get(part, TRAINING)
        share = 1 if part == "training" else _HELD
        for family in families:
            wanted = max(2, round(share * contexts / len(families)))
            found += draws[part == "training"].of(family, part, wanted)
    if prompt is None:
        return found
    return [replace(one, row={**one.row, "prompt": prompt(one.row)}) for one in found]


class _Contexts(Draws):
    """Contexts of the households of some rows."""

    def of(self, family: str, part: Part, wanted: int) -> list[Ranked]:
        """Contexts of a family; those of lies about goods and seasons in mirror images."""
        return attempted(lambda: self._contexts(family, part), wanted, f"contexts of {family} ({part})")

    def _contexts(self, family: str, part: Part) -> list[Ranked]:
        """Contexts that one draw makes: two mirror images, one, or none where it fails."""
        held_out = part == "authors"
        told = self._told(family)
        first = self.author(held_out)
        authors = (first, self.author(held_out, besides=first))
        written_by = [self._written(family, author, told) for author in authors]
        if not told or not all(written_by):
            return []
        found = []
        for number, one in enumerate(told):
            each = [
                (kind, text, author.name)
                for author, texts in zip(authors, written_by, strict=True)
                for kind, text in texts[number].items()
            ]
            if not each:
                return []
            kinds, texts, names = zip(*each, strict=True)
            if len(set(texts)) < len(texts):  # two authors in one voice, other goods, or no season
                return []
            found.append(Ranked(part, family, one.home.row["user"], one.home.row, kinds, texts, names))
        return found

    def _told(self, family: str) -> list[_Told]:
        """Worlds of the households of one draw; none where it fails."""
        if family in KINDS:
            return self._exchanged(family)
        if family == "season":
            return self._of_seasons()
        home = self.home()
        kind, goods = self.told(home, OF_GOODS, 1)  # one alone: a change must leave no other reason
        if not goods:
            return []
        rich, plain = world(home.row, kind, goods), world(home.row, kind, goods, **_SILENT)
        return [self._of(home, goods[0], [rich], [plain])]

    def _exchanged(self, family: str) -> list[_Told]:
        """Two households, each told its own goods and the other's."""
        exchange, found = self.exchange(family), []
        if exchange is None:
            return []
        for home, own, foreign, beside in exchange.sides:
            rich = [world(home.row, exchange.kind, [*goods, *beside]) for goods in (own, foreign)]
            plain = [world(home.row, exchange.kind, goods[:1], **_SILENT) for goods in (own, foreign)]
            found.append(self._of(home, own[0], rich, plain))
        return found

    def _of_seasons(self) -> list[_Told]:
        """Two households, each told its own season and the other's."""
        found = []
        for home, own, foreign in self.seasons():
            kind, goods = self.told(home, OF_GOODS, 3)
            if not goods:
                return []
            rich = [world(home.row, kind, goods, season=season) for season in (own, foreign)]
            plain = [world(home.row, kind, goods[:1], **_SILENT)]
            found.append(self._of(home, goods[0], rich, plain))
        return found

    def _of(self, home: Household, good: int, rich: Sequence[Row], plain: Sequence[Row]) -> _Told:
        worlds = {
            f"{manner} {side}": row
            for manner, rows in (("rich", rich), ("plain", plain))
            for side, row in zip(("truth", "lie"), rows, strict=False)
        }
        return _Told(home, worlds, self.catalog.tags[good])

    def _written(self, family: str, author: Author, told: Sequence[_Told]) -> list[dict[str, str]]:
        """What an author writes for each household, by kind of candidate; nothing where it cannot."""
        seeds = {
            "rich": self._seed(author, told, self._takes_up),
            "plain": self._seed(author, told, self._holds_back),
        }
        found = []
        for one in told:
            texts: dict[str, str] = {}
            for manner, seed in seeds.items():
                if seed is None:
                    return []
                texts |= self._sides(family, author, one, manner, seed)
            found.append(texts)
        return found

    def _sides(self, family: str, author: Author, told: _Told, manner: str, seed: int) -> dict[str, str]:
        """The truth and the lie of one manner, as far as there are any."""
        names = (f"{manner} truth", f"{manner} lie")
        texts = {
            name: written(author, told.worlds[name], self.catalog, seed)
            for name in names
            if name in told.worlds
        }
        if family not in CHANGES:
            return texts
        changed = CHANGES[family](told.home, texts[names[0]], told.good, author.held_out, self.rng)
        return dict(zip(names, changed, strict=True)) if changed is not None else {}

    def _seed(
        self, author: Author, told: Sequence[_Told], fits: Callable[[Author, _Told, int], bool]
    ) -> int | None:
        """A seed with which an author writes as it should for all households; None if none is found."""
        for _ in range(_SEEDS):
            seed = self.seed()
            if all(fits(author, one, seed) for one in told):
                return seed
        return None

    def _takes_up(self, author: Author, told: _Told, seed: int) -> bool:
        """Whether an author takes up an occasion: without any, the text is another."""
        row = told.worlds["rich truth"]
        silent = {**row, "facts": {**row["facts"], **_SILENT}}
        return written(author, row, self.catalog, seed) != written(author, silent, self.catalog, seed)

    def _holds_back(self, author: Author, told: _Told, seed: int) -> bool:
        """Whether a plain text has nothing that invites."""
        text = written(author, told.worlds["plain truth"], self.catalog, seed)
        return attractiveness(told.home.row, text, self.catalog)[0] != "positive"
