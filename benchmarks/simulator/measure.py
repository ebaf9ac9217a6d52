"""The measurements, each on its own: a function of the task and the fitted shoppers that returns JSON.

``fidelity``    simulated against real weeks: all households, unseen ones, four weeks, and told the season
``same``        A/A tests: how often an interval covers zero, and how often any look excludes it
``planted``     how often a planted effect is found, against the power that was announced
``ranking``     random, popularity and copy under every scenario
``speed``       shopper-weeks a second, memory, and growth with the number of shoppers
``off_policy``  estimates from logs of the simulator, where the truth is known

and ``open_bandit`` of the module of that name.
"""

import time
import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from recrl.envs.data.panel import top
from recrl.envs.simulator import fidelity as fidelities
from recrl.envs.simulator import fitting, inference, neighbours
from recrl.envs.simulator.ab_test import ABTest, Plan
from recrl.envs.simulator.arms import Arm, Moment, baseline
from recrl.envs.simulator.histories import Histories
from recrl.envs.simulator.off_policy import Logged, evaluate, log_probabilities, sample
from recrl.envs.simulator.outcomes import METRICS
from recrl.envs.simulator.scenario import SCENARIOS, Scenario, SimulatorError
from recrl.envs.simulator.shopper import Behaviour, Hazard
from recrl.envs.simulator.world import Slates, World
from recrl.envs.tags.task import Tags
from recrl.launch.simulating.report import told

from ..memory import memory
from .open_bandit import open_bandit

ORIGIN = 41
BASE = SCENARIOS[0]


@dataclass(frozen=True)
class Setting:
    """What all measurements share.

    Attributes:
        task: Lists of ten tags for the Complete Journey panel.
        hazards: Fitted shoppers.
        tests: Number of tests where a share of tests is measured.
        shoppers: Shoppers of each of these.
    """

    task: Tags
    hazards: Hazard
    tests: int = 400
    shoppers: int = 400


def fidelity(given: Setting) -> dict[str, Any]:
    data = given.task.data
    oracle = fitting.told_seasons(data, given.hazards)
    return {
        "all households": told(fidelities.compare(data, given.hazards)),
        "unseen households": told(fidelities.compare(data, given.hazards, unseen=True)),
        "first four weeks": told(fidelities.compare(data, given.hazards, weeks=4)),
        "unseen, told the season": told(fidelities.compare(data, oracle, unseen=True)),
        "neighbours": told(fidelities.compare(data, neighbours.fit(data))),
    }


def same(given: Setting) -> dict[str, Any]:
    """Each test draws its own shoppers and luck; both arms copy, each under luck of its own."""
    arm = copying(given.task)
    found: dict[str, list[tuple[bool, bool]]] = {metric: [] for metric in METRICS}
    everyone = ABTest.of(given.task, (arm, arm), Plan(ORIGIN))
    for number in range(given.tests):
        test = drawn(everyone, given.shoppers, number)
        a, b = (test.live(arm, given.hazards, BASE, 2 * number + side) for side in (0, 1))
        for place, metric in enumerate(METRICS):
            shown, _ = inference.paired(a[None, :, place], b[None, :, place])
            covered = shown.low <= 0 <= shown.high
            looks = inference.looks((b - a)[:, place])
            found[metric].append((covered, any(look.decided for look in looks)))
    return {
        metric: {
            "tests": len(pairs),
            "covered": float(np.mean([covered for covered, _ in pairs])),
            "any look": float(np.mean([looked for _, looked in pairs])),
        }
        for metric, pairs in found.items()
    }


def planted(given: Setting, lift: float = 1.02, tests: int = 1000, shoppers: int = 80) -> dict[str, Any]:
    """Click probabilities of the second arm are 2 % higher; power is announced from a pilot on other luck."""
    from scipy.stats import binomtest

    arm = copying(given.task)
    everyone = ABTest.of(given.task, (arm, arm), Plan(ORIGIN))
    compared = everyone.compare(given.hazards, BASE, range(90_000, 90_020), lift=lift)
    spread = inference.Pilot.of(*compared.of("CTR"))
    effect = (lift - 1) * spread.mean
    a, b = compared.of("CTR")
    # Each life of the weeks is a pilot by itself; how far they are apart says how far off their mean may be.
    announced = np.array([inference.resampled_power(one, shoppers) for one in b - a])
    margin = 1.96 * announced.std(ddof=1) / np.sqrt(len(announced))
    found, effects = 0, []
    for number in range(tests):
        pair = drawn(everyone, shoppers, 20_000 + number).compare(
            given.hazards, BASE, (30_000 + number,), lift=lift
        )
        difference, p = inference.paired(*pair.of("CTR"))
        found += p <= inference.LEVEL and difference.mean > 0
        effects.append(difference.mean / spread.mean)
    return {
        "announced": announced.mean(),
        "announced interval": [announced.mean() - margin, announced.mean() + margin],
        "by formula": inference.power(effect, spread.error(shoppers, 1)),
        "found": found / tests,
        "interval": [*binomtest(found, tests).proportion_ci(method="wilson")],
        "tests": tests,
        "shoppers": shoppers,
        "relative effect": float(np.mean(effects)),
    }


def ranking(given: Setting, shoppers: int = 500, seeds: int = 2) -> dict[str, Any]:
    """Differences of neighbouring policies, with intervals, under every scenario and in both simulators."""
    names = ("random", "popularity", "own frequency")
    arms = {name: baseline(name, given.task, {}) for name in names}
    plan = Plan(ORIGIN, shoppers)
    pairs = {pair: ABTest.of(given.task, (arms[pair[0]], arms[pair[1]]), plan) for pair in pairwise(names)}
    second = neighbours.fit(given.task.data)
    found: dict[str, Any] = {}
    worlds: list[tuple[str, Behaviour, Scenario]] = [(one.name, given.hazards, one) for one in SCENARIOS]
    worlds.append(("neighbours", second, BASE))
    for name, behaviour, scenario in worlds:
        found[name] = {}
        for (low, high), test in pairs.items():
            differences = test.compare(behaviour, scenario, range(seeds)).differences()
            found[name][f"{high} less {low}"] = {
                metric: vars(differences[metric][0]) for metric in ("CTR", "TV", "NER")
            }
    return found


def speed(
    given: Setting, sizes: tuple[int, ...] = (1_000, 4_000, 16_000, 100_000), seeds: int = 20
) -> dict[str, Any]:
    """One week of synthetic households, drawn with repetition from the real ones; and a test of 1,900
    shoppers over eight weeks whose lists are new every week."""
    users = ABTest.of(given.task, (copying(given.task),) * 2, Plan(ORIGIN)).start
    growth = {}
    for size in sizes:
        drawn = np.random.default_rng(size).choice(len(users.users), size)
        tracemalloc.start()
        world = World(given.hazards, users.taken(drawn), BASE, 0)
        slates = copied(world.histories, given.task.slots, given.hazards.base)
        wall, processor = time.perf_counter(), time.process_time()
        world.step(slates)
        growth[size] = {
            "seconds": time.perf_counter() - wall,
            "processor seconds": time.process_time() - processor,
            "bytes": tracemalloc.get_traced_memory()[1],
        }
        tracemalloc.stop()
    pair = (baseline("popularity", given.task, {}), baseline("own frequency", given.task, {}))
    test = ABTest.of(given.task, pair, Plan(ORIGIN, 1_900, refresh=1))
    processor, wall = time.process_time(), time.perf_counter()
    test.compare(given.hazards, BASE, range(seeds))
    lived = {
        "seeds": seeds,
        "processor seconds": time.process_time() - processor,
        "seconds": time.perf_counter() - wall,
    }
    return {"growth": growth, "peak": memory("VmHWM"), "lived": lived}


def off_policy(given: Setting, logs: int = 40, slots: int = 3) -> dict[str, Any]:
    """A log of lists of the start; the truth is the mean probability of a click on lists of the target."""
    test = ABTest.of(given.task, (copying(given.task),) * 2, Plan(ORIGIN))
    start = test.start
    logging, target = (np.log(start.recent + add).astype(float) for add in (0.5, 0.25))
    world = World(given.hazards, start.copied(), BASE, 0)
    buy = given.hazards.wish(start).buy
    rng = np.random.default_rng(0)
    examined = BASE.opens * BASE.position ** np.arange(slots)

    def chances(slates: Slates) -> Any:
        return world.clicks(buy, start, slates) * examined

    truth = np.mean([chances(sample(target, slots, rng)[0]).sum(axis=1).mean() for _ in range(20)])
    # A crude forecast: a click is as likely as the tag is bought by all.
    crude = np.log(given.hazards.base / (1 - given.hazards.base))
    covered: dict[str, list[bool]] = {"IPS": [], "SNIPS": [], "DR": []}
    errors: dict[str, list[float]] = {name: [] for name in covered}
    effective = []
    for _ in range(logs):
        slates, shown = sample(logging, slots, rng)
        clicks = (rng.random(slates.shape) < chances(slates)).astype(float)

        def forecast(lists: Slates) -> Any:
            return examined / (1 + np.exp(-BASE.click - BASE.taste * crude[lists]))

        expected = np.mean([forecast(sample(target, slots, rng)[0]).sum(axis=1) for _ in range(2)], axis=0)
        log = Logged(
            *(start.users, clicks, shown, log_probabilities(target, slates)),
            predicted=forecast(slates),
            expected=expected,
        )
        result = evaluate(log)
        effective.append(result.effective)
        for name, one in (("IPS", result.ips), ("SNIPS", result.snips), ("DR", result.dr)):
            assert one is not None
            covered[name].append(one.low <= truth <= one.high)
            errors[name].append(one.mean - truth)
    try:
        far = np.zeros_like(logging)
        slates, shown = sample(far, 10, rng)
        evaluate(Logged(start.users, np.zeros(slates.shape), shown, log_probabilities(target, slates)))
        refused = "not refused"
    except SimulatorError as error:
        refused = str(error)
    return {
        "truth": float(truth),
        "logs": logs,
        "lists": len(start.users),
        "effective": float(np.mean(effective)),
        "covered": {name: float(np.mean(values)) for name, values in covered.items()},
        "bias": {name: float(np.mean(values)) for name, values in errors.items()},
        "error": {name: float(np.sqrt(np.mean(np.square(values)))) for name, values in errors.items()},
        "refused": refused,
    }


MEASUREMENTS: Mapping[str, Any] = {
    "fidelity": fidelity,
    "same": same,
    "planted": planted,
    "ranking": ranking,
    "speed": speed,
    "off_policy": off_policy,
    "open_bandit": open_bandit,
}


def drawn(test: ABTest, shoppers: int, seed: int) -> ABTest:
    """The same test on shoppers drawn at random."""
    return test.part(np.random.default_rng(seed).choice(len(test.start.users), shoppers, replace=False))


def copying(task: Tags) -> Arm:
    """What a household bought in most weeks, ties by the tag's number: ``own frequency`` without its ties."""
    return Arm("copy", lambda moment: copied(moment.histories, task.slots, _ids(moment)))


def copied(histories: Histories, slots: int, tie: Any) -> Slates:
    """The tags of most weeks, ties by the higher of ``tie``."""
    scores = histories.weeks + np.asarray(tie, np.float32) * np.float32(0.5)
    return top(scores, slots)


def _ids(moment: Moment) -> Any:
    count = moment.histories.weeks.shape[1]
    return 1 - np.arange(count) / count
