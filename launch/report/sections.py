"""The sections of a report on an evaluation, as lines of Markdown; those on the training: ``training.py``."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...envs.markdown import table, text
from ...envs.task import Words

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
        reaches = (
            f"{share:.2f} of {whose}" if share is not None else f"something else than {whose}, which is 0"
        )
        return f"{reaches}: {_signed(deployed[f'difference to {reference}'][last])}"

    return [f"{note} The {last} policy reaches {'; '.join(map(reached, references))}.".lstrip()]


def _gained(gain: Mapping[str, float] | None) -> str:
    if gain is None:
        return "**Nothing can be said of the objective**: no episode has a score for it."
    verdict = "rose" if gain["low"] > 0 else "fell" if gain["high"] < 0 else "did not change measurably"
    return f"The objective {verdict}: {_signed(gain)} over the warm start."


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
