"""People's answers to the texts of a suite: asked for, kept, imported, compared.

A file of answers is JSON lines, :class:`Label`: of ``recrl judge label``, or imported from elsewhere. One
line is one person's grade of one text; a person's last grade of a text counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from ...envs.statistics import Values
from ...rewards.judge.suite.pairs import Item
from ..config.schema import ConfigError
from .measure import Table
from .verdicts import Verdicts, mark

NOT_MEASURED = "not measured"
_KEYS = {"b": "bad", "a": "average", "s": "superior"}
_HELP = "b bad (any defect), a average, s superior, q stop (go on later)"


class Label(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """One person's grade of one text."""

    version: Literal[1] = 1
    """Version of this schema."""
    item: Annotated[int, Field(ge=0)]
    """Number of the text in the suite, as in the benchmark's ``items.parquet``."""
    mark: Annotated[int, Field(ge=0)]
    """Checksum of household, item and text, as in ``judgements.parquet``: answers stay with their text."""
    grade: Literal["bad", "average", "superior"]
    """The person's grade."""
    rater: Annotated[str, Field(min_length=1, max_length=100)]
    """Name of the person, or a pseudonym."""
    seconds: Annotated[float, Field(ge=0)] | None = None
    """Time that it took, if known."""


def ask(
    shown: Sequence[Item],
    path: Path,
    rater: str,
    wanted: int,
    seed: int,
    read: Callable[[str], str],
    say: Callable[[str], None],
) -> int:
    """Ask a person for grades of texts, one at a time, in an order drawn for the person; the number of grades
    that the file then holds of this person.

    Nothing but the context and the text is shown. Each answer is on disk before the next question.

    Args:
        path: File of answers; what it holds of this person is not asked again.
        read: Function of a prompt that returns a line; ``EOFError`` ends.
    """
    known = {one.item for one in _lines(path, shown) if one.rater == rater} if path.exists() else set()
    asked = _drawn(shown, rater, wanted, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    say(_HELP)
    for number, i in enumerate(asked, 1):
        if i in known:
            continue
        say(f"\n[{number} of {len(asked)}]\n{shown[i].row['prompt'][-1]['content']}\n\n  {shown[i].text}\n")
        began = time.perf_counter()
        grade = _answer(read, say)
        if grade is None:
            break
        seconds = round(time.perf_counter() - began, 2)
        told = Label(item=i, mark=mark(shown[i]), grade=grade, rater=rater, seconds=seconds)  # type: ignore[arg-type]
        with path.open("a", encoding="utf-8") as stream:
            stream.write(told.model_dump_json() + "\n")
        known.add(i)
    return len(known)


def _answer(read: Callable[[str], str], say: Callable[[str], None]) -> str | None:
    while True:
        try:
            key = read("grade? ").strip().casefold()[:1]
        except EOFError:
            return None
        if key == "q":
            return None
        if key in _KEYS:
            return _KEYS[key]
        say(_HELP)


def _drawn(shown: Sequence[Item], rater: str, wanted: int, seed: int) -> list[int]:
    """Numbers of the texts, the same ones for everybody; no two of one pair, none with orders to a judge."""
    able = {one.number: i for i, one in enumerate(shown) if one.pair.kind == "defect"}
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(sorted(able))[:wanted]
    chosen = [int(2 * pair + rng.integers(2)) for pair in pairs]
    own = np.random.default_rng([seed, *rater.encode()])
    return [chosen[i] for i in own.permutation(len(chosen))]


def read(paths: Sequence[Path], shown: Sequence[Item]) -> list[Label]:
    """Answers of files, the last of each person to each text.

    Raises:
        ConfigError: a line is no answer, or one to another text.
    """
    last = {(one.rater, one.item): one for path in paths for one in _lines(path, shown)}
    return list(last.values())


def _lines(path: Path, shown: Sequence[Item]) -> Iterator[Label]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: ratings cannot be read ({error}); name a file of recrl judge label"
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = Label.model_validate_json(line)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            place = ".".join(map(str, fault["loc"])) or "the line"
            raise ConfigError(f"{path}, line {number}: {place}: {fault['msg']}") from error
        if found.item >= len(shown) or mark(shown[found.item]) != found.mark:
            raise ConfigError(
                f"{path}, line {number}: a rating of another suite; give its data, --pairs and --seed"
            )
        yield found


def agreement(ratings: Sequence[Label], table: Table, judges: Sequence[Verdicts]) -> dict[str, Any] | None:
    """How far people agree with the suite's labels and with each judge on what is bad; None without people.

    Cohen's kappa and accuracy with intervals over households; a text that two people graded counts twice.
    """
    if not ratings:
        return None
    at = np.array([one.item for one in ratings])
    people: Values = np.array([float(one.grade == "bad") for one in ratings])
    against = {"labels by construction": table.bad, **{one.name: one.bad for one in judges}}
    return {
        "raters": len({one.rater for one in ratings}),
        "grades": len(ratings),
        "with": {name: _agreed(table, at, people, said[at]) for name, said in against.items()},
    }


def _agreed(table: Table, at: Any, people: Values, said: Values) -> dict[str, Any]:
    there = ~np.isnan(said)
    cells = [(1, 1), (1, 0), (0, 1), (0, 0)]
    counts = np.stack([((people == a) & (said == b)).astype(float) for a, b in cells], axis=1)
    of = table.taken(at)
    return {
        "kappa": of.interval(there, counts, kappa),
        "accuracy": of.share(there, (people == said).astype(float)),
    }


def kappa(counts: Values) -> Values:
    """Cohen's kappa (1960) of counts ``[..., 4]``: both bad, first alone, second alone, neither."""
    both, first, second, neither = (counts[..., i] for i in range(4))
    n = both + first + second + neither
    agreed = (both + neither) / n
    chance = ((both + first) * (both + second) + (neither + first) * (neither + second)) / n**2
    return np.where(chance < 1, (agreed - chance) / np.where(chance < 1, 1 - chance, 1), np.nan)


def line(found: dict[str, Any] | None) -> str:
    """Agreement in a line."""
    if found is None:
        return NOT_MEASURED
    parts = [
        f"{name}: kappa {one['kappa']['value']} [{one['kappa']['low']}, {one['kappa']['high']}]"
        for name, one in found["with"].items()
    ]
    return f"{found['grades']} grades of {found['raters']} people; " + "; ".join(parts)
