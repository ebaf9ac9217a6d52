"""The sections of a report on the training, as lines of Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...envs.markdown import code, table, text
from ...rl.evaluation.validation import merit
from ...rl.trainer.timing import PARTS
from .sections import _interval, _signed

# Standard deviation of a price over its mean, above which it has not settled.
_RESTLESS = 0.2
# Pairs of rewards in the table of conflicts, those that agree least.
_PAIRS = 10
# Steps that are too few to say so.
_FEW_STEPS = 5


def _conflict(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """Conflict measures, means over the last fifth of the steps."""
    late = log[-max(1, len(log) // 5) :]
    found: dict[str, dict[str, float]] = {}  # what is measured -> reward or pair -> mean
    for key in sorted({key for row in late for key in row if key.startswith("conflict/")}):
        _, kind, *subject = key.split("/", 2)
        values = [row[key] for row in late if row.get(key) is not None]
        found.setdefault(kind, {})["".join(subject)] = float(np.mean(values))

    def measures(head: str, kinds: Mapping[str, str]) -> list[str]:
        shown = {kind: title for kind, title in kinds.items() if kind in found}
        subjects = sorted({subject for kind in shown for subject in found[kind]})
        if head == "pair" and len(subjects) > _PAIRS:
            agreement = found.get("corr", {})
            subjects = sorted(sorted(subjects, key=lambda pair: agreement.get(pair, 1.0))[:_PAIRS])
        rows = [
            [
                "~".join(map(text, subject.split("~"))),
                *(f"{found[k][subject]:.3f}" if subject in found[k] else "-" for k in shown),
            ]
            for subject in subjects
        ]
        return [table([head, *shown.values()], rows), ""] if rows else []

    consensus, pairs = found.get("consensus", {}).get(""), len(found.get("corr", {}))
    return [
        "## Conflict",
        "",
        "![Conflict between rewards](plots/conflict.png)",
        "",
        "Within the answers to a prompt, never across prompts; means over the last fifth of the steps."
        + (f" Of {pairs} pairs, the {_PAIRS} that agree least." if pairs > _PAIRS else ""),
        "",
        *measures(
            "pair",
            {
                "corr": "correlation",
                "sign_disagreement": "judged differently",
                "gradient_cosine": "cosine of gradients",
            },
        ),
        *measures(
            "reward",
            {
                "effective_weight": "effective weight",
                "cov_advantage": "covariance with the advantage",
                "dead_groups": "groups without variation",
            },
        ),
        "Below zero, raising one of a pair lowers the other, and a step lowers a reward. The effective "
        "weight is what one unit of the reward is worth to a step, in units of the objective."
        + (f" Consensus over all rewards: {consensus:.2f} of 1." if consensus is not None else ""),
        "",
    ]


def _seconds(log: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Seconds of each part of a step, by name; parts that took none are left out."""
    found = {part: [row.get(f"time/{part}", 0.0) for row in log] for part in PARTS}
    return {part: values for part, values in found.items() if any(values)}


def _time(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """Section on the seconds of a step; nothing for a log without them."""
    medians = {part: float(np.median(values)) for part, values in _seconds(log).items()}
    total = sum(medians.values())
    if not total:
        return []
    rows = [
        [part.replace("_", " "), f"{seconds:.3f}", f"{seconds / total:.0%}"]
        for part, seconds in sorted(medians.items(), key=lambda item: -item[1])
    ]
    return [
        "## Time",
        "",
        "![Seconds of a step by part](plots/time.png)",
        "",
        table(["part of a step", "seconds (median)", "share"], rows),
        "",
    ]


def _infeasible(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """Explanations of the last step for constraints that look infeasible."""
    last = log[-1] if log else {}
    found = [
        reason
        for key, reason in last.items()
        if key.startswith("constraint/") and key.endswith("/explanation")
    ]
    return [line for reason in found for line in (f"**Infeasible?** {text(reason)}.", "")]


def _settled(log: Sequence[Mapping[str, Any]], constraints: Sequence[str]) -> list[str]:
    """Prices of the last fifth of the steps, and whether they stand still; nothing for a handful of steps."""
    late = log[-(len(log) // 5) :]
    if len(log) // 5 < _FEW_STEPS:
        return []
    rows, restless = [], []
    for name in constraints:
        prices, slacks = (
            np.array([row[f"constraint/{name}/{what}"] for row in late], dtype=float)  # None: no score
            for what in ("price", "slack")
        )
        if np.isnan(prices).all():
            continue
        low, high = np.nanpercentile(prices, [5, 95])
        mean = float(np.nanmean(prices))
        variation = float(np.nanstd(prices)) / mean if mean > 0 else 0.0
        shown = f"{mean:.3f} [{low:.3f}, {high:.3f}]"
        slack = f"{np.nanmean(slacks):+.3f}" if not np.isnan(slacks).all() else "-"
        rows.append([text(name), shown, f"{variation:.2f}", slack])
        if variation > _RESTLESS:
            restless.append(text(name))
    if not rows:
        return []
    verdict = (
        f"**Not settled**: the price of {' and of '.join(restless)} still moves by more than {_RESTLESS:.0%} "
        "of itself. Read it as an order of magnitude."
        if restless
        else f"All prices have settled: they move by less than {_RESTLESS:.0%} of themselves."
    )
    return [
        f"Over the last fifth ({len(late)} steps), with the range of nine tenths of the steps:",
        "",
        table(["constraint", "price", "standard deviation / mean", "mean slack"], rows),
        "",
        verdict,
        "",
    ]


def _validated(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Validations while the run trained, and which of them the policy is of; nothing without any."""
    if not found:
        return []
    headline, constraints = found[0]["headline"], list(found[0]["constraints"])
    chosen = max(found, key=merit)
    return [
        f"The policy is that of step {chosen['step']}, the best of {len(found)} validations on "
        f"{found[0]['episodes']} episodes of the validation split: no bound missed beyond its interval, then "
        f"the highest {text(headline)}.",
        "",
        table(
            ["step", text(headline), *(f"slack, {text(name)}" for name in constraints)],
            [
                [
                    f"**{one['step']}**" if one is chosen else f"{one['step']}",
                    _interval(one["metrics"][headline]),
                    *(_signed(one["constraints"][name]) for name in constraints),
                ]
                for one in found
            ],
        ),
        "",
        "![Validations over steps](plots/validation.png)",
        "",
    ]


def _failed(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """Answers that a reward could not score; nothing where all could."""
    shares: dict[str, list[float]] = {}
    for row in log:
        for key, share in row.items():
            if key.startswith("rewards/") and key.endswith("/failed"):
                shares.setdefault(key.removeprefix("rewards/").removesuffix("/failed"), []).append(share)
    found = [
        f"{code(name)} {np.mean(values):.1%} (of a step up to {max(values):.1%})"
        for name, values in shares.items()
        if any(values)
    ]
    if not found:
        return []
    return [f"**Not scored**, and left out of means and advantages: {', '.join(found)} of the answers.", ""]


def _constraint_names(log: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = [
        key for key in (log[0] if log else {}) if key.startswith("constraint/") and key.endswith("/slack")
    ]
    return [key.removeprefix("constraint/").removesuffix("/slack") for key in keys]
