"""The sections of a report, as lines of Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...envs.markdown import code, table, text
from ...envs.task import Words
from ...rl.evaluation.validation import merit
from ...rl.trainer.timing import PARTS

# Standard deviation of a price over its mean, above which it has not settled.
_RESTLESS = 0.2
# Pairs of rewards in the table of conflicts, those that agree least.
_PAIRS = 10
# Steps that are too few to say so.
_FEW_STEPS = 5
_FITTED = {
    "population": "The prices are the smallest that meet the bounds for the very users of this report; that "
    "reads none of their outcomes.",
    "validation": "The prices are the smallest that meet the bounds on the validation split, with a margin "
    "for its sampling error; the means are those of that split.",
}


def _population(name: str, population: Mapping[str, Any], words: Words, objective: str) -> list[str]:
    sampled, deployed = population["sampled"], population["deployed"]
    policies = list(sampled["rewards"]["objective"])
    headline = words.headline or objective
    last = policies[-1]
    gain = sampled["gain"]
    lines = [
        f"## Test: {words.population}".format(
            name=name, episodes=population["episodes"], users=population["users"]
        ),
        "",
        "### Sampled, as in training",
        "",
        _gained(gain),
        "",
        table(
            ["reward", *policies],
            [
                [text(reward), *(_interval(row[p]) if row[p] else "no score" for p in policies)]
                for reward, row in sampled["rewards"].items()
            ],
        ),
        "",
        table(
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
        *(f"No episode here says anything about {text(name)}.\n" for name in sampled.get("unobserved", ())),
        f"### Deployed: {words.deployed}",
        "",
    ]
    columns = [m for m in next(iter(deployed["metrics"].values())) if m not in words.hidden]
    ranked = ranked_by(deployed["metrics"], headline)
    lines += [
        table(
            ["policy", *columns, *words.spread],
            [
                [
                    f"**{p}**" if p in policies else p,
                    *(_short(deployed["metrics"][p].get(m), m == headline) for m in columns),
                    *(f"{deployed['exposure'][p][figure]:.2f}" for figure in words.spread),
                ]
                for p in ranked
            ],
        ),
        "",
        *_compared(deployed, last, headline, words.note),
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
            verdict = f"{words.subject} meet {subject}: slack {_signed(slack)}."
        elif row["within CI"]:
            verdict = (
                f"{words.subject} miss {subject} by {-slack['mean']:.3f}, "
                f"within the interval: slack {_signed(slack)}."
            )
        else:
            missed = f"**{words.subject} miss {subject}** by {-slack['mean']:.3f}"
            verdict = f"{missed}: slack {_signed(slack)}."
            if held.get(constraint["name"]):
                verdict += f" Sampled answers hold it; {words.remedy}."
        lines += [verdict, ""]
    if words.trade_off is not None:
        lines += [f"![{words.trade_off.caption}](plots/deployed-{name.replace(' ', '-')}.png)", ""]
    return lines


def _held(result: Mapping[str, Any]) -> list[str]:
    """The prices that hold bounds in deployed answers."""
    held = result.get("hold", {})
    lines: list[str] = []
    if rows := [(policy, one) for policy, found in held.items() for one in found["prices"]]:
        fit = next(iter(held.values()))["fit"]
        candidates = next((found["candidates"] for found in held.values() if "candidates" in found), None)
        by_line = any(one["price"] is not None for _, one in rows)
        told = []
        if by_line:
            told.append(
                "While a deployed answer is written, what a line adds to a constrained reward is worth a "
                "price: so many nats of the line's log-probability for one unit of the reward."
            )
        if candidates is not None:
            told.append(
                f"Where a bound is missed {'even so' if by_line else 'otherwise'}, one of {candidates} "
                "answers to each prompt is chosen: that whose log-probability and constrained rewards, each "
                "times its price in the choice, add up to most."
            )
        columns = {"price": "price" if candidates is None else "price of a line"} if by_line else {}
        if candidates is not None:
            columns["choice"] = "price in the choice"
        lines = [
            "## Prices of what is shown",
            "",
            " ".join([*told, _FITTED[fit]]),
            "",
            table(
                [
                    *("policy", "constraint", *columns.values()),
                    *("mean without prices", "mean with them", ""),
                ],
                [
                    [
                        policy,
                        text(one["name"]),
                        *("-" if one.get(name) is None else f"{one[name]:.3g}" for name in columns),
                        f"{one['free']:.3f}",
                        f"{one['held']:.3f}",
                        "met" if one["met"] else "**cannot be met**: that is the best that prices attain",
                    ]
                    for policy, one in rows
                ],
            ),
            "",
        ]
    apart = {name: why for found in held.values() for name, why in found["not held"].items()}
    return lines + [f"No price holds {text(name)}: {text(why)}.\n" for name, why in apart.items()]


def ranked_by(metrics: Mapping[str, Any], headline: str) -> list[str]:
    """Names of whoever answered, the best first; those without a value of the metric last."""
    return sorted(metrics, key=lambda name: -metrics[name].get(headline, {"mean": -np.inf})["mean"])


def _references(deployed: Mapping[str, Any]) -> list[str]:
    """Names of what deployed answers were compared with."""
    prefix = "difference to "
    return [key.removeprefix(prefix) for key in deployed if key.startswith(prefix)]


def _compared(deployed: Mapping[str, Any], last: str, headline: str, note: str) -> list[str]:
    """The trained policy against each reference, in the metric that ranks."""
    references = _references(deployed)
    if not references:
        return [f"**Nothing can be said of the {headline} of deployed answers**: no episode has one."]

    def reached(reference: str) -> str:
        whose = f"the {headline} of `{reference}`" if note else f"the {reference}'s {headline}"
        if note and len(references) == 1:  # the note has just named it
            whose = f"its {headline}"
        share = deployed[f"share of {reference}"]
        return f"{share:.2f} of {whose}: {_signed(deployed[f'difference to {reference}'][last])}"

    return [f"{note} The {last} policy reaches {'; '.join(map(reached, references))}.".lstrip()]


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
