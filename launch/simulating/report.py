"""The report of an A/B test.

``told``       fidelity as JSON
``announced``  the power of a test, in lines
``write_all``  ``report.md``, ``report.html`` and ``plots/``
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...envs.simulator.fidelity import WITHIN, Fidelity
from ...envs.simulator.outcomes import METRICS
from ...envs.storage.sealed import write
from ...envs.tags.task import NOTES
from . import plots
from .pages import Page


def told(found: Fidelity) -> dict[str, Any]:
    """Fidelity as JSON."""
    return {
        "weeks": list(found.weeks),
        "households": found.households,
        "marginals": {one.name: [one.real, one.simulated] for one in found.marginals},
        "popularity": found.popularity,
        "together": found.together,
        "told apart": vars(found.told_apart),
        "visits": found.visits,
        "purchases": found.purchases,
        "calibration": found.calibration.tolist(),
    }


def announced(power: Mapping[str, Any], shoppers: int) -> list[str]:
    """Lines on what a test of this size can find, said before it runs."""
    return [f"power of a test on {shoppers:,} shoppers: a difference of 2 % is found with probability"] + [
        f"  {metric}: {one['of planted']:.2f}; of {_relative(one['smallest'], one['mean'])} with .80"
        for metric, one in power.items()
    ]


def write_all(result: Mapping[str, Any], held: Mapping[str, Fidelity], output: Path) -> None:
    """Write the report of a result."""
    folder = output / "plots"
    plots.differences(result["metrics"], folder / "differences.png")
    plots.sweep(result["metrics"], result["sweep"], folder / "sweep.png")
    plots.looks(result["metrics"], folder / "looks.png")
    for name, found in held.items():
        plots.fidelity(found, folder / f"fidelity-{name}.png")
    page = made(result)
    write(output / "report.md", page.markdown())
    write(output / "report.html", page.html(output))


def made(result: Mapping[str, Any]) -> Page:
    """The page of a result."""
    a, b = result["arms"]
    plan = result["plan"]
    page = Page(f"A/B test in a simulated shop: {a} against {b}")
    if result["source"] in NOTES:
        page.say(NOTES[result["source"]])
    page.say(
        f"A is `{a}`, B is `{b}`: the same {plan['shoppers']:,} shoppers and the same luck under both, "
        f"for {plan['weeks']} weeks from {plan['first day']} (week {plan['origin']}), lived "
        f"{plan['seeds']} times under the base scenario and {plan['sweep_seeds']} times under each other "
        f"one; lists are new every {plan['refresh']} weeks. Intervals are 95 % over shoppers: "
        "Student's for differences, bootstrapped for means. All of it holds in this simulator under these "
        "assumptions, and says nothing of live traffic."
    )
    _differences(page, result)
    _assumptions(page, result)
    _trust(page, result)
    _live(page, result)
    _fidelity(page, result)
    return page


def _differences(page: Page, result: Mapping[str, Any]) -> None:
    page.heading("What B changes")
    page.say(
        "**robust**: settled after Holm's correction over the metrics, and the interval lies on the same "
        "side of zero under every scenario and in the second simulator. **not settled**: the corrected "
        "p-value is above .05. Otherwise the verdict names where the interval lies on the other side "
        "(flips), where nothing differs (none), and where the interval holds zero (open)."
    )
    rows = []
    for metric, one in result["metrics"].items():
        apart = one["difference"]
        rows.append(
            [
                metric,
                _number(one["a"]["mean"]),
                _number(one["b"]["mean"]),
                _interval(apart),
                _relative(apart["mean"], one["a"]["mean"]),
                f"{one['holm']:.1g}",
                one["verdict"],
            ]
        )
    page.table(["metric", "A", "B", "B less A", "relative", "p (Holm)", "verdict"], rows)
    page.say("; ".join(f"{metric}: {words}" for metric, words in METRICS.items()) + ".")
    page.picture("plots/differences.png", "Relative differences with intervals")


def _assumptions(page: Page, result: Mapping[str, Any]) -> None:
    page.heading("Under which assumptions")
    page.say(
        "A purchase log does not say how shoppers meet recommendations. These values are assumed, not "
        "estimated; each scenario changes what stands in its column. `neighbours` is the second "
        "simulator, under the base."
    )
    scenarios = result["scenarios"]
    base = scenarios["base"]
    page.table(
        ["assumption", *scenarios],
        [
            [name, *(f"{of[name]:g}" if of is base or of[name] != value else "" for of in scenarios.values())]
            for name, value in base.items()
        ],
    )
    page.picture("plots/sweep.png", "Differences under every scenario")
    page.table(
        ["B less A", *METRICS],
        [
            [name, *(_interval(found[metric]) for metric in METRICS)]
            for name, found in result["sweep"].items()
        ],
    )


def _trust(page: Page, result: Mapping[str, Any]) -> None:
    page.heading("Power, A/A and looks")
    page.say(
        "Power was computed before the test, from a pilot on other luck. A/A: the first arm against "
        "itself under other luck, in disjoint pairs of seeds; an interval should cover zero in 95 % of "
        "them. Looks: intervals that all hold at once as shoppers come in, so a test might have been "
        "stopped at the first that excludes zero."
    )
    rows = [
        [
            metric,
            f"{power['of planted']:.2f}",
            _relative(power["smallest"], power["mean"]),
            f"{result['aa'][metric]['covered']} of {result['aa'][metric]['tests']}",
            f"{result['metrics'][metric]['decided']:,}" if result["metrics"][metric]["decided"] else "never",
        ]
        for metric, power in result["power"].items()
    ]
    page.table(["metric", "power at 2 %", "found with .80", "A/A covered", "decided after shoppers"], rows)
    page.picture("plots/looks.png", "Intervals that hold at all looks")


def _live(page: Page, result: Mapping[str, Any]) -> None:
    page.heading("The same test with each shopper in one arm")
    page.say(
        "What live traffic of this size would see: a coin puts each shopper into one arm, once. CUPED "
        "takes out what visits and purchases before the test foretell. The paired test above is the "
        "simulator's privilege."
    )
    rows = [
        [
            metric,
            _interval(one["difference"]),
            _interval(one["split"]),
            _interval(one["cuped"]),
            f"{100 * one['cuped']['reduced']:.0f} %",
        ]
        for metric, one in result["metrics"].items()
    ]
    page.table(["metric", "paired", "split", "split, CUPED", "variance that CUPED takes out"], rows)


def _fidelity(page: Page, result: Mapping[str, Any]) -> None:
    page.heading("How real the simulated shoppers are")
    for name, found in result["fidelity"].items():
        first, end = found["weeks"]
        apart = found["told apart"]
        off = [abs(mine / real - 1) for real, mine in found["marginals"].values()]
        page.say(
            f"`{name}`: {found['households']:,} households in weeks {first} to {end - 1}, which nothing "
            "was fitted on. A classifier tells real from simulated baskets with an AUC of "
            f"{_interval(apart)} (.5: not at all). {sum(one <= WITHIN for one in off)} of {len(off)} "
            f"marginals within {100 * WITHIN:.0f} %. Forecasts of a visit: AUC {found['visits']:.3f}; of "
            f"a purchase given a visit: {found['purchases']:.3f}. Spearman's correlation of the tags' "
            f"popularity: {found['popularity']:.3f}; of the lifts of pairs: {found['together']:.3f}."
        )
    names = list(result["fidelity"])
    rows = [
        [
            marginal,
            _number(real),
            *(
                f"{_number(mine)} ({100 * (mine / real - 1):+.1f} %)"
                for mine in (result["fidelity"][name]["marginals"][marginal][1] for name in names)
            ),
        ]
        for marginal, (real, _) in result["fidelity"][names[0]]["marginals"].items()
    ]
    page.table(["marginal", "real", *names], rows)
    for name in names:
        page.picture(f"plots/fidelity-{name}.png", f"Real against simulated weeks, {name}")


def _number(value: float) -> str:
    return f"{value:.4g}"


def _interval(found: Mapping[str, float]) -> str:
    return f"{found['mean']:.3g} [{found['low']:.3g}, {found['high']:.3g}]"


def _relative(part: float, whole: float) -> str:
    return f"{100 * part / whole:+.1f} %" if whole else "-"
