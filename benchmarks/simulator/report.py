"""The report of the measurements that are there, and its figures."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recrl.envs.markdown import table
from recrl.envs.simulator.fidelity import WITHIN
from recrl.envs.tags.task import NOTES

from ..figures import grid, save


def report(folder: Path) -> str:
    """Markdown of all ``*.json`` in a folder; writes ``plots/`` beside it."""
    found = {path.stem: json.loads(path.read_text())["found"] for path in folder.glob("*.json")}
    parts = ["# The simulated shop, measured", NOTES["completejourney"]]
    for name, section in _SECTIONS.items():
        if name in found:
            parts += section(found[name], folder)
    missing = [name for name in _SECTIONS if name not in found]
    if missing:
        parts.append(f"Not measured yet: {', '.join(missing)}.")
    return "\n\n".join(parts) + "\n"


def _fidelity(found: Mapping[str, Any], folder: Path) -> list[str]:
    names = list(found)
    rows = [["classifier's AUC", *(_interval(one["told apart"]) for one in found.values())]]
    for marginal in found[names[0]]["marginals"]:
        cells = []
        for one in found.values():
            real, mine = one["marginals"][marginal]
            cells.append(f"{mine:.3g} for {real:.3g} ({100 * (mine / real - 1):+.1f} %)")
        rows.append([marginal, *cells])
    for label, key in (
        ("forecast of a visit, AUC", "visits"),
        ("of a purchase given a visit, AUC", "purchases"),
        ("popularity of tags, Spearman", "popularity"),
        ("lift of pairs, Spearman", "together"),
    ):
        rows.append([label, *(f"{one[key]:.3f}" for one in found.values())])
    figure, (axis,) = grid(1, 1, 7.0, 3.4)
    for row, one in enumerate(found.values()):
        apart = one["told apart"]
        axis.plot((apart["low"], apart["high"]), (row, row), color="C0", linewidth=2)
        axis.plot(apart["mean"], row, "o", color="C0")
    axis.axvline(0.5, color="black", linewidth=0.8)
    axis.axvline(0.65, color="black", linewidth=0.8, linestyle="--", label="goal: at most .65")
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel("AUC of a classifier that tells real from simulated baskets (.5: it cannot)")
    save(figure, folder / "plots" / "fidelity.png", (axis,))
    off = [abs(mine / real - 1) for real, mine in found[names[0]]["marginals"].values()]
    inside = sum(one <= WITHIN for one in off)
    return [
        "## How real",
        "Weeks from 37 on, which nothing was fitted on; simulated for real, for as many weeks as are "
        f"compared. Of all households, {inside} of {len(off)} marginals are within {100 * WITHIN:.0f} %. "
        "The fourth column is told how later weeks changed each tag, by training households alone: what "
        "the AUC falls by is season, which a log that ends in August cannot hold.",
        "![AUC of the classifier](plots/fidelity.png)",
        table(["", *names], rows),
    ]


def _same(found: Mapping[str, Any], folder: Path) -> list[str]:
    rows = [
        [metric, str(one["tests"]), f"{100 * one['covered']:.1f} %", f"{100 * one['any look']:.1f} %"]
        for metric, one in found.items()
    ]
    return [
        "## A/A",
        "Each test draws shoppers of its own; both arms show the same kind of list, under luck of their "
        "own. 95 % intervals should cover zero in 93 to 97 % of the tests, and no more than 5 % of the "
        "tests may see any look exclude zero.",
        table(["metric", "tests", "interval covers zero", "any look excludes it"], rows),
    ]


def _planted(found: Mapping[str, Any], folder: Path) -> list[str]:
    least, most = found["announced interval"]
    low, high = found["interval"]
    return [
        "## A planted effect",
        f"Probabilities of a click are 2 % higher in one arm ({found['shoppers']} shoppers, one life of "
        f"the weeks, same luck). Power announced from resamples of pilots: {found['announced']:.3f} "
        f"[{least:.3f}, {most:.3f}]. Found in {found['found']:.3f} [{low:.3f}, {high:.3f}] of "
        f"{found['tests']:,} tests; mean relative difference {100 * found['relative effect']:.1f} %. The "
        f"normal formula says {found['by formula']:.2f}: under the same luck few shoppers differ, by much, "
        "so that a test which draws few of these has a small mean and a small error at once.",
    ]


def _ranking(found: Mapping[str, Any], folder: Path) -> list[str]:
    pairs = list(next(iter(found.values())))
    head = ["scenario", *(f"{metric}: {pair}" for metric in ("CTR", "NER") for pair in pairs)]
    rows = [
        [name, *(_interval(one[pair][metric]) for metric in ("CTR", "NER") for pair in pairs)]
        for name, one in found.items()
    ]
    clicks = sum(one[pair]["CTR"]["low"] > 0 for one in found.values() for pair in pairs)
    novelty = sum(one[pair]["NER"]["high"] < 0 for one in found.values() for pair in pairs)
    return [
        "## Policies that have an order",
        "CTR has to rise from random over popularity to own frequency, and NER to fall, under every "
        f"scenario and in the second simulator. The interval says so in {clicks} and {novelty} of "
        f"{len(rows) * 2} cases.",
        table(head, rows),
    ]


def _speed(found: Mapping[str, Any], folder: Path) -> list[str]:
    rows, sizes, seconds = [], [], []
    for size, one in found["growth"].items():
        sizes.append(int(size))
        seconds.append(one["processor seconds"])
        rows.append(
            [
                f"{int(size):,}",
                f"{one['processor seconds']:.2f}",
                f"{int(size) / max(one['processor seconds'], 1e-9):,.0f}",
                f"{one['bytes'] / 2**20:,.0f}",
            ]
        )
    figure, (axis,) = grid(1, 1, 6.0, 3.4)
    axis.loglog(sizes, seconds, "o-", label="measured")
    axis.loglog(sizes, [seconds[0] * size / sizes[0] for size in sizes], "--", color="0.5", label="linear")
    axis.set(xlabel="shoppers", ylabel="processor seconds a week")
    save(figure, folder / "plots" / "speed.png", (axis,))
    lived = found["lived"]
    return [
        "## Speed",
        f"A test of 1,900 shoppers over 8 weeks, two arms and {lived['seeds']} seeds, lists new every week: "
        f"{lived['processor seconds']:.1f} processor seconds, {lived['seconds']:.1f} by the clock; "
        f"{2 * 8 * 1900 * lived['seeds'] / lived['processor seconds']:,.0f} shopper-weeks a second, lists "
        f"and metrics included. Peak memory {found['peak'] / 2**30:.1f} GiB, that of the largest size below.",
        "One week of synthetic households (real ones, drawn with repetition), on one thread.",
        table(["shoppers", "processor seconds", "shopper-weeks a second", "MiB at most"], rows),
        "![Seconds over shoppers](plots/speed.png)",
    ]


def _off_policy(found: Mapping[str, Any], folder: Path) -> list[str]:
    rows = [
        [
            name,
            f"{100 * found['covered'][name]:.0f} %",
            f"{found['bias'][name]:+.5f}",
            f"{found['error'][name]:.5f}",
        ]
        for name in found["covered"]
    ]
    return [
        "## Off-policy evaluation",
        f"{found['logs']} logs of {found['lists']:,} lists of three tags each; the truth, "
        f"{found['truth']:.5f} clicks a list, is known. Mean effective sample size "
        f"{found['effective']:,.0f}.",
        table(["estimator", "interval covers the truth", "bias", "root mean squared error"], rows),
        f"A log of random lists of ten for the same target: {found['refused']}.",
    ]


def _open_bandit(found: Mapping[str, Any], folder: Path) -> list[str]:
    head = "## Off-policy evaluation on the Open Bandit logs"
    if "missing" in found:
        return [head, f"Not measured: {found['missing']}."]
    rows, refused = [], []
    for campaign, policies in found.items():
        for policy, one in policies.items():
            if "refused" in one:
                refused.append(f"{policy} of {campaign}: {one['refused']}.")
                continue
            cells = [
                f"{one[name]['mean']:.1f} [{one[name]['low']:.1f}, {one[name]['high']:.1f}]" for name in _ROWS
            ]
            rows.append([campaign, policy, f"{one['effective']:,.0f}", *cells])
    return [
        head,
        "Clicks per 1,000 impressions of fashion items at ZOZOTOWN, from the 10,000 impressions of the other "
        "policy that the package `obp` brings, beside the mean of its own 10,000. Each log holds 38 to "
        "69 clicks, so the intervals are wide and nothing finer than them is tested. What Thompson "
        "sampling (`bts`) shows is simulated from its published priors; impressions are logged one by one, "
        "so the lists have one slot.",
        table(["campaign", "evaluated", "effective sample size", "own log", "IPS", "SNIPS", "DR"], rows),
        *refused,
    ]


_ROWS = ("truth", "IPS", "SNIPS", "DR")


def _interval(found: Mapping[str, float]) -> str:
    return f"{found['mean']:.3g} [{found['low']:.3g}, {found['high']:.3g}]"


_SECTIONS = {
    "fidelity": _fidelity,
    "same": _same,
    "planted": _planted,
    "ranking": _ranking,
    "speed": _speed,
    "off_policy": _off_policy,
    "open_bandit": _open_bandit,
}
