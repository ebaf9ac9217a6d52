"""Sections of the report about single questions: feasibility, prices, fixed multipliers, credit, cost."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from . import markdown, plots
from .cost import RESULT
from .statistics import bootstrap, paired_difference
from .summary import REFERENCE, has_prices, scores_of

Record: TypeAlias = Mapping[str, Any]


def infeasible(records: Sequence[Record]) -> list[str]:
    """Lines on whether rules notice that no policy is feasible, and cry wolf where one is."""
    text: list[str] = []
    hopeless = [r for r in records if r["oracle"]["objective"] is None and has_prices(r)]
    if hopeless:
        rows = []
        for problem, rule in dict.fromkeys((r["problem"], r["rule"]) for r in hopeless):
            runs = [r for r in hopeless if (r["problem"], r["rule"]) == (problem, rule)]
            flagged = sum("infeasible_suspected" in r["statuses"].values() for r in runs)
            violation = np.median([r["violation"] for r in runs])
            rows.append([problem, rule, f"{flagged} of {len(runs)}", f"{violation:.3f}"])
        text += [
            "## No feasible policy",
            "",
            "Here no policy meets the constraints. Rules that learn prices should say so.",
            "",
            markdown.table(["problem", "rule", "flagged as infeasible", "violation, median"], rows),
            "",
        ]
    solvable = [r for r in records if r["oracle"]["objective"] is not None and r["rule"] == REFERENCE]
    false = sum("infeasible_suspected" in r["statuses"].values() for r in solvable)
    if solvable:
        text += [
            f"Where a feasible policy exists, `{REFERENCE}` ended flagged as infeasible in {false} of "
            f"{len(solvable)} runs.",
            "",
        ]
    return text


def prices(records: Sequence[Record]) -> list[str]:
    """True and learned prices."""
    rows = []
    own = [r for r in records if r["rule"] == REFERENCE and r["oracle"]["objective"] is not None]
    for problem in dict.fromkeys(r["problem"] for r in own):
        runs = [r for r in own if r["problem"] == problem]
        oracle = runs[0]["oracle"]
        for name, true in oracle["prices"].items():
            low, high = oracle["intervals"][name]
            learned = [r["prices"][name] for r in runs]
            exact = f"{true:.3g}" if high is not None and high - low < 1e-6 * max(1.0, high) else None
            upper = "any" if high is None else f"{high:.3g}"
            rows.append(
                [
                    f"{problem}: {name}",
                    exact or f"{low:.3g} to {upper}",
                    f"{np.median(learned):.3g} ({min(learned):.3g} to {max(learned):.3g})",
                ]
            )
    if not rows:
        return []
    return [
        "## Prices",
        "",
        "What one unit of a bound costs in units of the objective: at the optimum, and as "
        f"`{REFERENCE}` learned it: mean over the last fifth of a run; median, lowest and highest seed.",
        "",
        markdown.table(["constraint", "true price", "learned price"], rows),
        "",
    ]


def trajectories(records: Sequence[Record], style: plots.Style, folder: Path) -> list[str]:
    """Slack and price over steps, a figure for each family of problems."""
    text: list[str] = []
    for family in dict.fromkeys(r["family"] for r in records):
        chosen = [r for r in records if r["family"] == family and has_prices(r) and r["slacks"]]
        if chosen:
            name = f"trajectories-{family}.png"
            plots.trajectories(chosen, style, folder / "plots" / name)
            text += [f"![Slack and price over steps, {family}](plots/{name})", ""]
    if not text:
        return []
    return [
        "## Slack and price over steps",
        "",
        "Median and span over seeds, for rules that learn prices. Dashed: bound and true price; gold where "
        "an interval of prices is optimal.",
        "",
        *text,
    ]


def fixed_multipliers(records: Sequence[Record], fixed: Sequence[Record], folder: Path) -> list[str]:
    """Learned multipliers against a grid of fixed ones."""
    text: list[str] = []
    for problem in dict.fromkeys(r["problem"] for r in fixed):
        grid = [r for r in fixed if r["problem"] == problem]
        learned = [r for r in records if r["problem"] == problem and r["rule"] == REFERENCE]
        if not learned:
            continue
        name = f"fixed-{problem.replace(' ', '-')}.png"
        plots.fixed_multipliers(learned, grid, folder / "plots" / name)
        feasible = [r for r in grid if r["feasible"]]
        best = max(grid, key=lambda r: r["score"])
        found = ", ".join(f"{name}: {value:g}" for name, value in best["multipliers"].items())
        rows = [
            [label, f"{np.median([r['score'] for r in runs]):.3f}"]
            + [f"{np.median([r[key] for r in runs]):.3f}" for key in ("objective", "violation")]
            + [f"{np.median([r['certificate'] / r['oracle']['objective'] for r in runs]):.3f}"]
            for label, runs in (
                (f"learned, median of {len(learned)} seeds", learned),
                ("best of the grid", [best]),
            )
        ]
        head = ["multipliers", "score", "objective", "violation", "certificate"]
        text += [
            f"**{problem}**: {len(grid)} combinations of fixed multipliers, {len(feasible)} of them feasible "
            f"at the end; learned ones are feasible in {sum(r['feasible'] for r in learned)} of "
            f"{len(learned)} runs. The best of the grid, known only afterwards, is {found}.",
            "",
            markdown.table(head, rows),
            "",
            f"![Learned and fixed multipliers, {problem}](plots/{name})",
            "",
        ]
    return ["## Learned multipliers against fixed ones", "", *text] if text else []


def credit(records: Sequence[Record], by_tag: Sequence[Record], folder: Path) -> list[str]:
    """Learning curves with credit for whole answers and for each tag."""
    text: list[str] = []
    for problem, rule in dict.fromkeys((r["problem"], r["rule"]) for r in by_tag):
        pair = [
            [r for r in group if (r["problem"], r["rule"]) == (problem, rule)] for group in (records, by_tag)
        ]
        if not pair[0]:
            continue
        labels = ("credit: sequence", "credit: tag")
        name = f"credit-{problem.replace(' ', '-')}.png"
        plots.learning_curves(dict(zip(labels, pair, strict=True)), folder / "plots" / name)
        seeds = {r["seed"] for r in pair[0]} & {r["seed"] for r in pair[1]}
        scores = [[scores_of([r for r in runs if r["seed"] in seeds])] for runs in pair]
        lines = [
            f"`{label}`: score {markdown.interval(bootstrap([scores_of(runs)]))}, feasible in "
            f"{sum(r['feasible'] for r in runs)} of {len(runs)} runs."
            for label, runs in zip(labels, pair, strict=True)
        ]
        difference = markdown.signed(paired_difference(scores[1], scores[0])) if seeds else "-"
        text += [
            f"**{problem}**, `{rule}`. {' '.join(lines)} Tag less sequence, paired: {difference}.",
            "",
            f"![Learning curves, {problem}](plots/{name})",
            "",
        ]
    return ["## Credit: whole answer or each tag", "", *text] if text else []


def cost(records: Sequence[Record], folder: Path) -> list[str]:
    """Time in rule and duals, by themselves and within a training step."""
    rows, own = [], None
    records = [r for r in records if r["rule_seconds"] is not None]
    for rule in dict.fromkeys(r["rule"] for r in records):
        each = [1000 * r["rule_seconds"] / r["steps"] for r in records if r["rule"] == rule]
        rows.append([rule, f"{np.median(each):.2f}", f"{max(each):.2f}"])
        own = float(np.median(each)) if rule == REFERENCE else own
    text = ["## Cost", "", "Rule and duals together, on the machine of this run.", ""]
    text += [markdown.table(["rule", "ms a step, median", "highest"], rows), ""]
    if own is not None:
        text += [
            f"That is under 1 % of any training step that takes longer than {own / 10:.2g} s with "
            f"`{REFERENCE}`; sampling and the gradient of a language model are not in it.",
            "",
        ]
    path = folder / RESULT
    if path.exists():
        demo = json.loads(path.read_text())
        text += [
            f"In the demo's training (a tiny language model, {demo['samples']} answers a step) "
            f"rule and multipliers take {1000 * demo['optimiser']:.2g} ms of a step of {demo['step']:.2g} s: "
            f"{100 * demo['share']:.2g} %.",
            "",
        ]
    return text
