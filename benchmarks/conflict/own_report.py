"""The report on one's own rewards: conflict, prices, frontiers, and the rules on the same problem."""

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from . import markdown, plots, report
from .suite import FRONTIERS, RESULTS, read

SUMMARY = "own.json"


def write(folder: Path) -> Path:
    """Render ``report.md`` from ``own.json``, and the rules' part from ``results.jsonl`` if it is there."""
    summary = json.loads((folder / SUMMARY).read_text())
    text = [
        "# Reward conflict",
        "",
        f"{summary['prompts']} prompts with {summary['answers']} answers each: {summary['source']}.",
        "",
        *_conflict_part(summary["conflict"], folder),
    ]
    if summary["problem"]:
        text += _price_part(summary["problem"])
    text += _sweep_part(summary["sweeps"], folder)
    records = read(folder / RESULTS)
    if records:
        path = folder / FRONTIERS
        lines = json.loads(path.read_text()) if path.exists() else {}
        text += ["# Rules on this problem", "", *_rules_note(summary["problem"])]
        text += report.sections(records, lines, folder)
    path = folder / "report.md"
    path.write_text("\n".join(text) + "\n")
    return path


def _conflict_part(found: Mapping[str, Any], folder: Path) -> list[str]:
    names = found["names"]
    values = np.array(found["correlation"], dtype=float)  # None becomes NaN
    plots.matrix(names, values, folder / "plots" / "conflict.png")
    rows = [
        [
            f"{i} ~ {j}",
            "-" if found["correlation"][a][b] is None else f"{found['correlation'][a][b]:+.2f}",
            _percent(found["disagreement"].get(f"{i}~{j}")),
        ]
        for (a, i), (b, j) in combinations(enumerate(names), 2)
    ]
    dead = [[name, _percent(found["dead"][name])] for name in names]
    text = [
        "## Conflict",
        "",
        "Correlation of the rewards between the answers of one prompt, pooled over prompts. For a softmax "
        "policy it is the cosine of the rewards' natural gradients: below 0, raising one lowers the other.",
        "",
        "![Correlations](plots/conflict.png)",
        "",
        markdown.table(["pair", "correlation", "answers on which the two disagree"], rows),
        "",
        markdown.table(["reward", "prompts on which it does not vary"], dead),
        "",
    ]
    if found["constant"]:
        text += [
            f"**Never varies within a prompt: {', '.join(found['constant'])}.** No choice among these "
            "answers can change it.",
            "",
        ]
    if found["consensus"] is not None:
        text += [
            f"Consensus: {found['consensus']:.2f}. It is the size of the sum of the standardised rewards "
            "over the sum of their sizes, 1 when all agree on every answer.",
            "",
        ]
    return text


def _price_part(problem: Mapping[str, Any]) -> list[str]:
    asked = ", ".join(f"**{text}**" for text in problem["constraints"])
    text = [
        "## What the constraints cost",
        "",
        f"Maximise **{problem['objective']}** subject to {asked}. The best choice among the sampled answers "
        "is known exactly, by a linear programme. It knows every answer's rewards, so a policy that has to "
        "generalise may reach less; one that finds better answers may reach more.",
        "",
    ]
    if problem["left out"]:
        text += [f"{problem['left out']} prompts are left out: one of their answers lacks a reward.", ""]
    if not problem["feasible"]:
        text += ["**No choice among these answers meets all constraints.** What each could reach alone:", ""]
    rows = [
        [
            name,
            f"{sense} {bound:.3g}",
            f"{problem['sampled']['values'][name]:.3f}",
            f"{problem['attainable'][name]:.3f}",
            _price(problem["price"][name]) if problem["feasible"] else "-",
        ]
        for name, (sense, bound) in problem["bounds"].items()
    ]
    head = ["constraint", "bound", "sampling policy", "attainable alone", "price"]
    text += [markdown.table(head, rows), ""]
    if not problem["feasible"]:
        return text
    text += [
        f"The optimum is {_estimate(problem['optimum'])}; the sampling policy has "
        f"{problem['sampled']['objective']:.3f}, whether or not it meets the constraints. A price is what "
        "one unit of the bound costs in units of the objective. Intervals: 95 %, bootstrapped over prompts.",
        "",
    ]
    if problem["feasible share"] < 1:
        missed = _percent(1 - problem["feasible share"])
        text += [f"In {missed} of the resamples no choice met the constraints; the intervals lack them.", ""]
    return text


def _sweep_part(sweeps: Sequence[Mapping[str, Any]], folder: Path) -> list[str]:
    if not sweeps:
        return []
    plots.sweeps(sweeps, folder / "plots" / "sweeps.png")
    return [
        "## Frontiers",
        "",
        "One bound moves from what the sampling policy has to the most that is attainable, the others stay: "
        "the best objective, and the price there.",
        "",
        "![Frontiers](plots/sweeps.png)",
        "",
    ]


def _rules_note(problem: Mapping[str, Any]) -> list[str]:
    text = (
        "Every rule trains a policy over the sampled answers of each prompt, from the sampling policy on, "
        "and is measured by the optimum above."
    )
    if problem["shift"]:
        text += f" Here {problem['objective']} counts from its lowest value: {problem['shift']:g} is added."
    return [text, ""]


def _price(price: Mapping[str, Any]) -> str:
    low, high = price["optimal"]
    if high is not None and high - low <= 1e-6 * max(1.0, high):
        return _estimate(price)
    return f"{_estimate(price)}; optimal from {low:.3g} to {'any' if high is None else format(high, '.3g')}"


def _estimate(found: Mapping[str, Any]) -> str:
    if found["low"] is None:
        return f"{found['value']:.3f}"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"
