"""Figures of a set of runs: a row for each rule, and how rules compare run by run.

``summarise``                a row for each rule over all runs that have a score
``price_error``              how far a run's learned prices are from the optimal ones
``difference_to_reference``  paired by problem and seed
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from .statistics import Interval, Scores, bootstrap, paired_difference, share

Record: TypeAlias = Mapping[str, Any]

REFERENCE = "lagrangian"
"""The rule that all others are compared with."""


@dataclass(frozen=True)
class Row:
    """Results of a rule over all scored runs."""

    rule: str
    runs: int
    score: Interval
    """Interquartile mean of the score."""
    feasible: Interval
    """Share of the runs that are feasible."""
    violation: float
    """Median violation, raw units."""
    certificate: float
    """Median of G_L / J*."""
    price_error: float | None
    """Median of `price_error`; None for a rule without prices."""
    difference: Interval | None
    """Mean paired difference of the score to `lagrangian`; None without common runs."""


def summarise(records: Sequence[Record]) -> list[Row]:
    """A row for each rule, best score first; records have a score."""
    rows = []
    for rule in dict.fromkeys(r["rule"] for r in records):
        runs = [r for r in records if r["rule"] == rule]
        errors = [error for r in runs if (error := price_error(r)) is not None]
        rows.append(
            Row(
                rule,
                len(runs),
                bootstrap(strata_of(records, rule)),
                share(sum(r["feasible"] for r in runs), len(runs)),
                float(np.median([r["violation"] for r in runs])),
                float(np.median([r["certificate"] / r["oracle"]["objective"] for r in runs])),
                float(np.median(errors)) if errors else None,
                difference_to_reference(records, rule),
            )
        )
    return sorted(rows, key=lambda row: -row.score.value)


def price_error(record: Record) -> float | None:
    """Distance of the learned prices from the optimal intervals, summed, over the sum of the true prices.

    It is None for a rule without prices, and if every true price is 0, to which nothing can be relative.
    """
    true, intervals = record["oracle"]["prices"], record["oracle"]["intervals"]
    learned = record["prices"]
    if any(value is None for value in (*true.values(), *learned.values())) or not sum(true.values()):
        return None
    missed = 0.0
    for name, (low, high) in intervals.items():
        missed += max(low - learned[name], 0.0 if high is None else learned[name] - high, 0.0)
    return missed / sum(true.values())


def difference_to_reference(records: Sequence[Record], rule: str) -> Interval | None:
    """Mean of rule - reference over runs that both did; records have scores."""
    runs = {(r["problem"], r["seed"], r["rule"]): r for r in records if r["rule"] in (rule, REFERENCE)}
    both = [r for r in records if r["rule"] == rule and (r["problem"], r["seed"], REFERENCE) in runs]
    if not both:
        return None
    strata: dict[str, tuple[list[float], list[float]]] = {}
    for r in both:
        first, second = strata.setdefault(r["problem"], ([], []))
        first.append(r["score"])
        second.append(runs[r["problem"], r["seed"], REFERENCE]["score"])
    pairs = [(np.array(first), np.array(second)) for first, second in strata.values()]
    return paired_difference([first for first, _ in pairs], [second for _, second in pairs])


def strata_of(records: Sequence[Record], rule: str) -> list[Scores]:
    problems = dict.fromkeys(r["problem"] for r in records if r["rule"] == rule)
    return [scores_of([r for r in records if (r["problem"], r["rule"]) == (p, rule)]) for p in problems]


def scores_of(runs: Sequence[Record]) -> Scores:
    return np.array([r["score"] for r in sorted(runs, key=lambda r: r["seed"])], dtype=np.float64)


def has_prices(record: Record) -> bool:
    return any(price is not None for price in record["prices"].values())
