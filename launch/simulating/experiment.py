"""One A/B test from its fit to its report.

``Request``  what the command line asks for
``run``      fits the simulators, says the power, runs the test, and writes the report

``ab.json``      every figure
``report.html``  the report as one file that opens from disk; ``report.md``: the same as Markdown
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...envs.data.prepared import prepare
from ...envs.simulator import fidelity, fitting, inference, neighbours
from ...envs.simulator.ab_test import ABTest, Compared, Plan, verdict
from ...envs.simulator.outcomes import METRICS
from ...envs.simulator.scenario import SCENARIOS, named
from ...envs.simulator.shopper import Behaviour
from ...envs.statistics import Estimate
from ...envs.storage.sealed import write
from ..run.progress import Display
from . import report
from .named import TASK, configured, is_run
from .parties import Parties

PLANTED = 0.02
"""Relative difference whose power is announced."""

SECOND = "neighbours"

_PILOT = (400, (1000, 1001))  # shoppers and seeds of the pilot


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        names: The two parties.
        config, overrides: Configuration of the task, where no party is a run.
        which: Policy of runs.
        origin: First week; None for the first one of the test split.
        shoppers, weeks, seeds, sweep_seeds: Size, see :class:`recrl.envs.simulator.ab_test.Plan`.
        refresh: Weeks after which lists are made anew; None for 4, or the whole test where a policy is asked.
        scenarios: Names of those that are swept, besides the base; None for all.
        output: Folder.
    """

    names: tuple[str, str]
    output: Path
    config: str = "demo"
    overrides: Sequence[str] = ()
    which: str = "trained"
    origin: int | None = None
    shoppers: int | None = None
    weeks: int = 8
    seeds: int = 20
    sweep_seeds: int = 4
    refresh: int | None = None
    scenarios: Sequence[str] | None = None


def run(request: Request, display: Display) -> dict[str, Any]:
    """Run a test and write its report.

    Returns:
        Every figure, as ``ab.json`` holds them.
    """
    begun = time.monotonic()
    wanted = [one.name for one in SCENARIOS] if request.scenarios is None else request.scenarios
    chosen = [named(name) for name in dict.fromkeys(wanted) if name != SCENARIOS[0].name]
    configs = configured(request.names, request.config, request.overrides, request.which)
    request.output.mkdir(parents=True, exist_ok=True)
    data = prepare(configs[TASK].data)
    fitting.check(data)
    origin = request.origin if request.origin is not None else min(data.protocol.test_origins)
    asks = any(is_run(name) for name in request.names)
    refresh = request.refresh or (request.weeks if asks else 4)
    plan = Plan(
        *(origin, request.shoppers, request.weeks, request.seeds, request.sweep_seeds, refresh),
        scenarios=(SCENARIOS[0], *chosen),
    )
    parties = Parties.of(*(request.names, configs, origin, request.which, request.output, request.shoppers))
    test = ABTest.of(parties.task, parties.arms, plan)
    display.say(f"fitting shoppers of {len(data.panel.users):,} households before week {origin}")
    behaviours: dict[str, Behaviour] = {"hazards": fitting.fit(data), SECOND: neighbours.fit(data)}
    held = {name: fidelity.compare(data, one) for name, one in behaviours.items()}
    power = _power(test, behaviours["hazards"])
    for line in report.announced(power, len(test.start.users)):
        display.say(line)
    runs = 2 * (plan.seeds + plan.sweep_seeds * len(plan.scenarios))
    done = 0
    with display.stage("weeks of shoppers", runs) as advance:

        def one_more() -> None:
            nonlocal done
            done += 1
            advance(done)

        base = test.compare(behaviours["hazards"], plan.scenarios[0], range(plan.seeds), on_run=one_more)
        few = range(plan.sweep_seeds)
        others = {
            scenario.name: test.compare(behaviours["hazards"], scenario, few, on_run=one_more)
            for scenario in plan.scenarios[1:]
        }
        second = test.compare(behaviours[SECOND], plan.scenarios[0], few, on_run=one_more)
    swept = {name: _differences(one) for name, one in {**others, SECOND: second}.items()}
    result = {
        "arms": list(request.names),
        "source": configs[TASK].data.source,
        "plan": {
            **{name: value for name, value in asdict(plan).items() if name != "scenarios"},
            "shoppers": len(test.start.users),
            "first day": data.panel.monday(origin).isoformat(),
        },
        "fidelity": {name: report.told(one) for name, one in held.items()},
        "power": power,
        "metrics": _metrics(test, base, swept),
        "aa": _same(base),
        "sweep": {
            name: {metric: vars(one) for metric, one in found.items()} for name, found in swept.items()
        },
        "scenarios": {one.name: one.assumptions for one in plan.scenarios},
        "seconds": time.monotonic() - begun,
    }
    write(request.output / "ab.json", json.dumps(result, indent=1))
    report.write_all(result, held, request.output)
    return result


def _power(test: ABTest, behaviour: Any) -> dict[str, Any]:
    """Power of the test, from a few shoppers and seeds that the test does not use."""
    shoppers, seeds = _PILOT
    some = np.arange(min(shoppers, len(test.start.users)))
    compared = test.part(some).compare(behaviour, test.plan.scenarios[0], seeds)
    found = {}
    for metric in METRICS:
        pilot = inference.Pilot.of(*compared.of(metric))
        error = pilot.error(len(test.start.users), test.plan.seeds)
        found[metric] = {
            "error": error,
            "of planted": inference.power(PLANTED * pilot.mean, error),
            "smallest": inference.smallest(error),
            "mean": pilot.mean,
        }
    return found


def _differences(compared: Compared) -> dict[str, Estimate]:
    return {metric: found for metric, (found, _) in compared.differences().items()}


def _metrics(test: ABTest, base: Compared, swept: dict[str, dict[str, Estimate]]) -> dict[str, Any]:
    differences, means = base.differences(), base.means()
    adjusted = dict(zip(METRICS, inference.holm([p for _, p in differences.values()]), strict=True))
    found = {}
    for metric, (apart, p) in differences.items():
        a, b = base.of(metric)
        shown = inference.looks(inference.mean_over_seeds(b - a))
        decided = next((look.shoppers for look in shown if look.decided), None)
        others = {name: of_all[metric] for name, of_all in swept.items()}
        live = [inference.split(a[0], b[0], known) for known in (None, test.covariates)]
        found[metric] = {
            "a": vars(means[metric][0]),
            "b": vars(means[metric][1]),
            "difference": vars(apart),
            "p": p,
            "holm": adjusted[metric],
            "verdict": verdict((apart, p), adjusted[metric], others),
            "split": asdict(live[0]),
            "cuped": asdict(live[1]),
            "looks": [asdict(look) for look in shown],
            "decided": decided,
        }
    return found


def _same(base: Compared) -> dict[str, Any]:
    """A/A: the first arm against itself under other luck, in pairs of seeds that no two tests share."""
    found = {}
    for metric in METRICS:
        values, _ = base.of(metric)
        tests = [inference.paired(values[i : i + 1], values[i + 1 : i + 2])[0] for i in _pairs(values)]
        found[metric] = {"tests": len(tests), "covered": sum(one.low <= 0 <= one.high for one in tests)}
    return found


def _pairs(values: np.ndarray) -> range:
    return range(0, len(values) - 1, 2)
