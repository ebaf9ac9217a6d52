"""The report of the benchmark: ``report.md`` and PNGs, rendered from the files of its folder alone.

``write``     the report of the built-in problems
``sections``  the part for any set of records, one's own problem included

Every sentence is generated from the figures of ``summary``.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from . import details, markdown, plots
from .statistics import bootstrap, performance_profile
from .suite import FIXED, FRONTIERS, RESULTS, TRANSFORMER, BenchmarkError, read
from .summary import REFERENCE, Row, difference_to_reference, scores_of, strata_of, summarise

Record: TypeAlias = Mapping[str, Any]

# Problems on which rules are compared; the others ask special questions and have sections of their own.
COMPARED = ("T0", "T1", "T2", "T3", "own")
_TAUS = np.linspace(0.0, 1.0, 401)


def write(folder: Path) -> Path:
    """Render the report of a benchmark's folder.

    Args:
        folder: Folder with ``results.jsonl``, and ``frontiers.json`` if the benchmark came to its end.

    Returns:
        Path of ``report.md``.

    Raises:
        BenchmarkError: there are no results.
    """
    records = read(folder / RESULTS)
    if not records:
        raise BenchmarkError(f"no results in {folder / RESULTS}; run the benchmark without --report-only")
    path = folder / FRONTIERS
    lines = json.loads(path.read_text()) if path.exists() else {}
    text = ["# Reward conflict: rules against known optima", "", *sections(records, lines, folder)]
    path = folder / "report.md"
    path.write_text("\n".join(text) + "\n")
    return path


def sections(records: Sequence[Record], lines: Mapping[str, Any], folder: Path) -> list[str]:
    """Lines of Markdown; figures go to ``plots/`` in the folder.

    Args:
        records: Records of finished runs.
        lines: Frontiers, see `suite.frontiers`.
        folder: Folder of the report.
    """
    fixed = [r for r in records if r["rule"] == FIXED]
    by_tag = [r for r in records if r.get("credit") == "tag"]
    records = [r for r in records if r["rule"] != FIXED and r.get("credit", "sequence") == "sequence"]
    rules = list(dict.fromkeys(r["rule"] for r in records))
    style = plots.styles(rules)
    compared = [r for r in records if r["family"] in COMPARED and r["score"] is not None]
    text = _setup(records)
    if compared:
        rows = summarise(compared)
        found = {row.rule: performance_profile(strata_of(compared, row.rule), _TAUS) for row in rows}
        plots.profiles(found, style, folder / "plots" / "profiles.png")
        text += [
            *_headline(rows, compared),
            *_losses([r for r in records if r["score"] is not None]),
            *["## Performance profiles", "", "![Performance profiles](plots/profiles.png)", ""],
        ]
    plots.pareto(records, lines, style, folder / "plots" / "pareto.png")
    text += [*_by_problem(records, rules), *_fronts()]
    text += [*details.infeasible(records), *details.prices(records)]
    text += details.trajectories(records, style, folder)
    text += [*details.fixed_multipliers(records, fixed, folder), *details.credit(records, by_tag, folder)]
    return [*text, *details.cost(records, folder)]


def _setup(records: Sequence[Record]) -> list[str]:
    problems, rules, seeds = ({r[key] for r in records} for key in ("problem", "rule", "seed"))
    tables = [r for r in records if r["problem"] != TRANSFORMER]
    planned = len({r["problem"] for r in tables}) * len({r["rule"] for r in tables}) * len(seeds)
    text = f"Runs: {len(records)}, problems: {len(problems)}, rules: {len(rules)}, seeds: {len(seeds)}. "
    if planned != len(tables):
        text += f"**{planned - len(tables)} of {planned} runs are missing**: the figures are preliminary. "
    return [
        text
        + "On a problem every rule has the same seeds, steps and learning rate. Rules that add rewards up "
        "weigh each by 1, in the direction that its constraint asks for: no weight is tuned.",
        "",
        "The **score** is the objective, less a penalty for each violation that takes back more than the "
        "violation can gain, over the constrained optimum J\\*: at most 1, and 1 only at a feasible optimum. "
        "A run is **feasible** when no constraint is missed by .01 or more. The **certificate** is "
        "J\\* - [J + sum of true price x slack], over J\\*: 0 at the optimum. All are computed from exact "
        "expectations of the last policy, not from samples.",
        "",
    ]


def _headline(rows: Sequence[Row], compared: Sequence[Record]) -> list[str]:
    families = sorted({r["family"] for r in compared})
    problems = len({r["problem"] for r in compared})
    head = ["rule", "score, IQM", "feasible", "violation", "certificate", "price error"]
    table = [
        [
            f"**{row.rule}**" if row.rule == REFERENCE else row.rule,
            markdown.interval(row.score),
            f"{100 * row.feasible.value:.0f} % [{100 * row.feasible.low:.0f}, {100 * row.feasible.high:.0f}]",
            f"{row.violation:.3f}",
            f"{row.certificate:.3f}",
            "-" if row.price_error is None else f"{100 * row.price_error:.1f} %",
            "-" if row.difference is None or row.rule == REFERENCE else markdown.signed(row.difference),
        ]
        for row in rows
    ]
    return [
        "## Rules" if families == ["own"] else f"## Rules over {', '.join(families)} ({problems} problems)",
        "",
        markdown.table([*head, f"score less {REFERENCE}"], table),
        "",
        "IQM: mean of the middle half of the runs. Brackets: 95 %; stratified bootstrap over seeds within "
        "problems, Wilson for the feasible share. Violation, certificate and price error are medians; the "
        "price error is how far the learned prices lie outside of the optimal ones, over the sum of those. "
        "The last column is the mean difference between runs of the same problem and seed.",
        "",
        *_verdict(rows),
    ]


def _verdict(rows: Sequence[Row]) -> list[str]:
    own = next((row for row in rows if row.rule == REFERENCE), None)
    if own is None:
        return []
    others = [(row.rule, row.difference) for row in rows if row.rule != REFERENCE and row.difference]
    above = [f"`{rule}` ({markdown.signed(d)})" for rule, d in others if d.low > 0]
    below = [f"`{rule}`" for rule, d in others if d.high < 0]
    level = [f"`{rule}` ({markdown.signed(d)})" for rule, d in others if d.low <= 0 <= d.high]
    text = (
        f"`{REFERENCE}` is feasible in {round(own.feasible.value * own.runs)} of {own.runs} runs and scores "
        f"{markdown.interval(own.score)}. "
    )
    if above:
        text += f"**Above it by more than the interval: {', '.join(above)}.** "
    elif others:
        text += "No rule is above it by more than the interval. "
    if below:
        text += f"Below it: {', '.join(below)}. "
    if level:
        text += f"Not told apart from it: {', '.join(level)}. "
    safer = [row for row in rows if row.feasible.value > own.feasible.value]
    if safer:
        shares = ", ".join(f"`{row.rule}` ({100 * row.feasible.value:.0f} %)" for row in safer)
        text += f"More often feasible: {shares}. "
    return [text.strip(), ""]


def _losses(scored: Sequence[Record]) -> list[str]:
    """Problems on which the reference is beaten or misses a constraint, in words."""
    lines = []
    for problem in dict.fromkeys(r["problem"] for r in scored):
        records = [r for r in scored if r["problem"] == problem]
        own = [r for r in records if r["rule"] == REFERENCE]
        if not own:
            continue
        missed = [r["violation"] for r in own if not r["feasible"]]
        if missed:
            count = f"{len(missed)} of {len(own)} runs"
            lines.append(f"- {problem}: misses a constraint in {count}, by up to {max(missed):.3f}.")
        for rule in dict.fromkeys(r["rule"] for r in records if r["rule"] != REFERENCE):
            found = difference_to_reference(records, rule)
            if found is not None and found.low > 0:
                runs = [r for r in records if r["rule"] == rule]
                lines.append(
                    f"- {problem}: `{rule}` scores higher by {markdown.signed(found)}; it is feasible in "
                    f"{sum(r['feasible'] for r in runs)} of {len(runs)} runs."
                )
    if not any(r["rule"] == REFERENCE for r in scored):
        return []
    nothing = (
        f"On no problem: no rule is above `{REFERENCE}` by more than the interval; it is always feasible."
    )
    note = "Each interval is one of 95 %: of many comparisons a few exclude 0 by chance."
    return [f"## Where {REFERENCE} loses", "", note, "", *(lines or [nothing]), ""]


def _by_problem(records: Sequence[Record], rules: Sequence[str]) -> list[str]:
    table = []
    for problem in dict.fromkeys(r["problem"] for r in records if r["score"] is not None):
        cells = [problem]
        for rule in rules:
            runs = [r for r in records if (r["problem"], r["rule"]) == (problem, rule)]
            missed = sum(not r["feasible"] for r in runs)
            score = f"{bootstrap([scores_of(runs)]).value:.3f}" if runs else "-"
            cells.append(f"{score} **✗{missed}**" if missed else score)
        table.append(cells)
    if not table:
        return []
    return [
        "## Rule x problem",
        "",
        "IQM score over seeds. **✗n**: in n of the runs a constraint is missed by .01 or more.",
        "",
        markdown.table(["problem", *rules], table),
        "",
    ]


def _fronts() -> list[str]:
    return [
        "## Objective against slack",
        "",
        "![Objective against the smallest slack](plots/pareto.png)",
        "",
        "One marker a rule: median over seeds, bars from the lowest to the highest. Left of the dashed "
        "line a constraint is missed. The star is the constrained optimum; the grey line is the best "
        "objective that any policy has with that slack on every constraint.",
        "",
    ]
