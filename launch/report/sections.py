"""The sections of a report, as lines of Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...rl.trainer.timing import PARTS
from .markdown import code, text

_DEPLOYED = {
    "distinct": "{slots} distinct tags",
    "grammar": "one to {slots} tags, under a grammar",
    "free": "the first {slots} lines of what the policy writes",
}


def _population(name: str, population: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    sampled, deployed = population["sampled"], population["deployed"]
    policies = list(sampled["rewards"]["objective"])
    headline = f"recall@{result['slots']}"
    last = policies[-1]
    gain = sampled["gain"]
    lines = [
        f"## Test: {name}, later weeks "
        f"({population['episodes']:,} episodes of {population['users']:,} users)",
        "",
        "### Sampled, as in training",
        "",
        _gained(gain),
        "",
        _table(
            ["reward", *policies],
            [
                [text(reward), *(_interval(row[p]) if row[p] else "no score" for p in policies)]
                for reward, row in sampled["rewards"].items()
            ],
        ),
        "",
        _table(
            ["constraint", *(f"slack, {p}" for p in policies), f"{last}"],
            [
                [
                    f"{text(c['name'])} ({c['kind']})",
                    *(_signed(c[p]["slack"]) for p in policies),
                    _met(c[last]),
                ]
                for c in sampled["constraints"]
            ],
        ),
        "",
        *(f"No episode here says anything about {text(name)}.\n" for name in sampled["unobserved"]),
        f"### Deployed: greedy, {_DEPLOYED[result['decoding']].format(slots=result['slots'])}",
        "",
    ]
    columns = [
        m
        for m in next(iter(deployed["metrics"].values()))
        if m not in ("validity", "duplicates", "novel precision")
    ]
    ranked = sorted(deployed["metrics"], key=lambda p: -deployed["metrics"][p][headline]["mean"])
    lines += [
        _table(
            ["policy", *columns, "coverage"],
            [
                [
                    f"**{p}**" if p in policies else p,
                    *(_short(deployed["metrics"][p].get(m), m == headline) for m in columns),
                    f"{deployed['exposure'][p]['coverage']:.2f}",
                ]
                for p in ranked
            ],
        ),
        "",
        "`quota` is own frequency with its last slots given to popular novel tags, as many as the novelty "
        f"floor of {result['novelty_floor']:g} asks for: the best simple policy that meets the floor. "
        f"The {last} policy reaches {deployed['share of quota']:.2f} of its {headline}: "
        f"{_signed(deployed['difference to quota'][last])}.",
        "",
    ]
    dropped = {m: row["dropped"] for m, row in deployed["metrics"][last].items() if row["dropped"]}
    if dropped:
        lines += [
            "Episodes left out because the slice is empty: "
            + ", ".join(f"{m} {n}" for m, n in dropped.items())
            + ".",
            "",
        ]
    held = {row["name"]: row[last]["within CI"] for row in sampled["constraints"]}
    for constraint in deployed["constraints"]:
        row, subject = constraint[last], text(constraint["name"])
        slack = row["slack"]
        if row["met"]:
            verdict = f"The deployed lists meet {subject}: slack {_signed(slack)}."
        elif row["within CI"]:
            verdict = (
                f"The deployed lists miss {subject} by {-slack['mean']:.3f}, "
                f"within the interval: slack {_signed(slack)}."
            )
        else:
            missed = f"**The deployed lists miss {subject}** by {-slack['mean']:.3f}"
            verdict = f"{missed}: slack {_signed(slack)}."
            if held.get(constraint["name"]):
                verdict += " Sampled answers hold it; greedy decoding shows only the likeliest tags."
        lines += [verdict, ""]
    return [*lines, f"![Recall against novelty](plots/deployed-{name.replace(' ', '-')}.png)", ""]


def _gained(gain: Mapping[str, float] | None) -> str:
    if gain is None:
        return "**Nothing can be said of the objective**: no episode has a score for it."
    verdict = "rose" if gain["low"] > 0 else "fell" if gain["high"] < 0 else "did not change measurably"
    return f"The objective {verdict}: {_signed(gain)} over the warm start."


def _conflict(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """Conflict measures, means over the last fifth of the steps."""
    late = log[-max(1, len(log) // 5) :]
    found: dict[str, dict[str, float]] = {}  # what is measured -> reward or pair -> mean
    for key in sorted({key for row in late for key in row if key.startswith("conflict/")}):
        _, kind, *subject = key.split("/", 2)
        values = [row[key] for row in late if row.get(key) is not None]
        found.setdefault(kind, {})["".join(subject)] = float(np.mean(values))

    def table(head: str, kinds: Mapping[str, str]) -> list[str]:
        shown = {kind: title for kind, title in kinds.items() if kind in found}
        subjects = sorted({subject for kind in shown for subject in found[kind]})
        rows = [
            [
                "~".join(map(text, subject.split("~"))),
                *(f"{found[k][subject]:.3f}" if subject in found[k] else "-" for k in shown),
            ]
            for subject in subjects
        ]
        return [_table([head, *shown.values()], rows), ""] if rows else []

    consensus = found.get("consensus", {}).get("")
    return [
        "## Conflict",
        "",
        "![Conflict between rewards](plots/conflict.png)",
        "",
        "Within the answers to a prompt, never across prompts; means over the last fifth of the steps.",
        "",
        *table(
            "pair",
            {
                "corr": "correlation",
                "sign_disagreement": "judged differently",
                "gradient_cosine": "cosine of gradients",
            },
        ),
        *table(
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
    """Where the seconds of a step went; nothing in a log without them."""
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
        _table(["part of a step", "seconds (median)", "share"], rows),
        "",
    ]


def _infeasible(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the last step says about constraints that look infeasible."""
    last = log[-1] if log else {}
    found = [
        reason
        for key, reason in last.items()
        if key.startswith("constraint/") and key.endswith("/explanation")
    ]
    return [line for reason in found for line in (f"**Infeasible?** {text(reason)}.", "")]


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


def _render_examples(shown: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["Deployed lists; **bold** = bought in the window, ° = not bought in the look-back.", ""]
    for row in shown:
        lines.append(
            f"**User {text(row['user'])}, week {row['origin']}** "
            f"({text(row['calendar'])}; {row['target']} tags bought)  "
        )
        lines.append(f"most frequent before: {', '.join(map(text, row['most frequent before']))}  ")
        for name, given in row["answers"].items():
            tags = [
                (f"**{text(t['tag'])}**" if t["bought"] else text(t["tag"])) + ("°" if t["novel"] else "")
                for t in given["deployed"]
            ]
            lines.append(f"{name}: {', '.join(tags)}  ")
        lines.append("")
    return lines


def _constraint_names(log: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = [
        key for key in (log[0] if log else {}) if key.startswith("constraint/") and key.endswith("/slack")
    ]
    return [key.removeprefix("constraint/").removesuffix("/slack") for key in keys]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _interval(row: Mapping[str, float]) -> str:
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _signed(row: Mapping[str, float]) -> str:
    return f"{row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def _short(row: Mapping[str, float] | None, with_interval: bool) -> str:
    if row is None:
        return "-"
    return _interval(row) if with_interval else f"{row['mean']:.3f}"


def _met(row: Mapping[str, Any]) -> str:
    return "met" if row["met"] else "met within its interval" if row["within CI"] else "**missed**"
