"""Which loss teaches a judge best: arms that start from the same weights and learn from the same candidates.

Each seed draws contexts with candidates of known grades (:mod:`recrl.rewards.judge.suite.ranked`), a head
and the order of training. An arm is a loss; its model scores the held-out contexts, and the share of pairs
that it puts in the order of their grades says how good it is. Arms are compared on the same contexts, by
households.

What an arm scored is kept in ``scores/``: a campaign that was stopped goes on with the arms that are missing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.markup import escape

from ...envs import task as tasks
from ...envs.statistics import Values, estimate, paired_difference
from ...envs.storage import sealed
from ...rewards.judge.suite.pairs import PARTS
from ...rewards.judge.suite.ranked import GRADES, Ranked, ranked
from ...rl.reward_model.scoring import can_share
from ...rl.reward_model.settings import DistillConfig
from ...rl.reward_model.training import Graded, distill, scores_of, texts_of
from ..config.schema import ConfigError, RunConfig
from ..run.progress import Display
from . import losses_report
from .one_pass import started
from .suites import Rows

ARMS: Mapping[str, Mapping[str, Any]] = {
    "list-wise": {"loss": "list_wise"},
    "pair-logistic": {"loss": "pair_logistic"},
    "point-wise": {"loss": "point_wise"},
    "point-wise, strictness": {"loss": "point_wise", "strictness": True},
}
"""Arm -> settings of its distillation; the first is compared with the others."""

COMPARISONS: Mapping[str, Callable[[str, str], bool]] = {
    "plain truth over rich lie": lambda one, other: (one, other) == ("plain truth", "rich lie"),
    "superior over average": lambda one, other: (one, other) == ("rich truth", "plain truth"),
    "truth over lie, equally rich": lambda one, other: (
        one.split()[0] == other.split()[0] and GRADES[one] > GRADES[other]
    ),
    "all pairs": lambda one, other: GRADES[one] > GRADES[other],
}
"""What is compared -> whether it speaks of a pair of kinds of candidates, the better one first."""

HELD = tuple(part for part in PARTS if part != "training")
RESULT, _PLAN, _SCORES = "losses.json", "plan.json", "scores"


@dataclass(frozen=True)
class Plan:
    """A campaign.

    Attributes:
        seeds: Number of seeds.
        contexts: Contexts that each arm learns from; a tenth of their households are held out to calibrate.
        steps, contexts_per_step, rate: Of each training.
        start: Folder of a policy that all start from; None for random weights of the tiny model.
    """

    seeds: int = 5
    contexts: int = 400
    steps: int = 150
    contexts_per_step: int = 8
    rate: float = 1e-3
    start: Path | None = None


def run(config: RunConfig, plan: Plan, output: Path, display: Display) -> Path:
    """Train the arms that are missing, and write figures and report; the path of the report.

    Raises:
        ConfigError, SuiteError: the task is another one, the rows are too few, or the folder holds the arms
            of another plan.
    """
    _same_plan(config, plan, output)
    rows = Rows.of(config, tasks.make(config.task, config.data), plan.contexts)
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    drawn: list[list[Ranked]] = []
    for seed in range(plan.seeds):
        contexts = ranked(rows.seen, rows.unseen, rows.task.catalog, plan.contexts, seed, rows.prompt)
        drawn.append([one for one in contexts if one.part != "training"])
        for arm in ARMS:
            path = output / _SCORES / f"seed-{seed}, {arm}.json"
            if not path.is_file():
                sealed.write(path, json.dumps(_arm(config, plan, rows, contexts, seed, arm, display)))
            found[arm].append(json.loads(path.read_text()))
    result = {
        "config": config.name,
        "plan": {**asdict(plan), "start": None if plan.start is None else plan.start.parent.name},
        "seconds": {arm: round(sum(one["seconds"] for one in each), 1) for arm, each in found.items()},
        "weights": found[next(iter(ARMS))][0]["weights"],
        "contexts": {part: sum(one.part == part for each in drawn for one in each) for part in HELD},
        **figures(drawn, {arm: [one["scores"] for one in each] for arm, each in found.items()}),
    }
    sealed.write(output / RESULT, json.dumps(result, indent=1))
    report = losses_report.write(output, result)
    display.say(f"report: {escape(str(report))}")
    return report


def _same_plan(config: RunConfig, plan: Plan, output: Path) -> None:
    """Note what a folder's arms are made with, or hold it against what they were made with."""
    files = [] if plan.start is None else [plan.start / name for name in sealed.files(plan.start)]
    made_with = {
        **asdict(plan),
        "seeds": None,
        "config": config.model_dump(mode="json", include={"task", "data", "policy", "seed"}),
        "files": {path.name: sealed.fingerprint(path) for path in files},
    }
    told = json.dumps(made_with, default=str)
    if (path := output / _PLAN).is_file():
        if path.read_text() != told:
            raise ConfigError(
                f"--output {output}: holds arms of other settings, data or weights; give the same ones, "
                "or another folder"
            )
        return
    (output / _SCORES).mkdir(parents=True, exist_ok=True)
    sealed.write(path, told)


def _arm(
    config: RunConfig,
    plan: Plan,
    rows: Rows,
    contexts: Sequence[Ranked],
    seed: int,
    arm: str,
    display: Display,
) -> dict[str, Any]:
    """Train one arm; its scores of the held-out contexts' candidates, in order."""
    graded = [_graded(one) for one in contexts if one.part == "training"]
    settings = DistillConfig(
        steps=plan.steps,
        contexts_per_step=plan.contexts_per_step,
        learning_rate=plan.rate,
        held_out=0.1,
        seed=seed,
        **ARMS[arm],
    )
    began = time.process_time()
    with TemporaryDirectory(prefix="recrl-losses-") as scratch:
        folder, tokenizer = started(config, rows.task, graded, plan.start, Path(scratch))
        with display.stage(f"seed {seed}, {arm}", plan.steps) as advance:
            found = distill(
                folder,
                tokenizer,
                graded,
                settings,
                {"labels": "ranked contexts"},
                lambda step, loss: advance(step, f"loss {loss:.3f}"),
            )
    texts = [texts_of(tokenizer, _graded(one)) for one in contexts if one.part != "training"]
    longest = max(len(one.shared) + max(map(len, one.rests)) for one in texts)
    scores = scores_of(found.model, texts, shared=can_share(found.model, longest))
    return {
        "scores": [one.tolist() for one in scores],
        "seconds": round(time.process_time() - began, 1),
        "weights": sum(one.numel() for one in found.model.parameters()),
    }


def _graded(one: Ranked) -> Graded:
    return Graded(one.row["prompt"], one.texts, tuple(map(int, one.grades)), one.household)


def figures(
    drawn: Sequence[Sequence[Ranked]], scores: Mapping[str, Sequence[Sequence[Sequence[float]]]]
) -> dict[str, Any]:
    """Shares of pairs in the right order, and differences of the first arm to the others, by part.

    Args:
        drawn: Held-out contexts of each seed.
        scores: Arm -> scores ``[seed][context][candidate]``.
    """
    flat = [one for each in drawn for one in each]
    seeds = np.repeat(np.arange(len(drawn)), [len(each) for each in drawn])
    users = np.array([one.household for one in flat])
    parts = np.array([one.part for one in flat])
    shares: dict[str, dict[str, Any]] = {}
    differences: dict[str, dict[str, Any]] = {}
    first, *others = scores
    for name, speaks in COMPARISONS.items():
        values = {
            arm: np.array(
                [
                    right(one.kinds, told, speaks)
                    for each, of in zip(drawn, given, strict=True)
                    for one, told in zip(each, of, strict=True)
                ]
            )
            for arm, given in scores.items()
        }
        at = {part: parts == part for part in HELD}
        shares[name] = {
            arm: {part: _interval(estimate(one[chosen], users[chosen])) for part, chosen in at.items()}
            for arm, one in values.items()
        }
        differences[name] = {
            arm: {
                part: {
                    **_interval(paired_difference(values[first][chosen], values[arm][chosen], users[chosen])),
                    "seeds": _won((values[first] - values[arm])[chosen], seeds[chosen]),
                }
                for part, chosen in at.items()
            }
            for arm in others
        }
    return {"shares": shares, "first": first, "differences": differences}


def right(kinds: Sequence[str], scores: Sequence[float], speaks: Callable[[str, str], bool]) -> float:
    """Share of the pairs of one context that scores put in the right order, a tie counts half; NaN if there
    is no such pair."""
    wins = [
        0.5 if scores[i] == scores[j] else float(scores[i] > scores[j])
        for i, one in enumerate(kinds)
        for j, other in enumerate(kinds)
        if speaks(one, other)
    ]
    return float(np.mean(wins)) if wins else float("nan")


def _interval(found: Any) -> dict[str, float]:
    return {name: round(getattr(found, name), 4) for name in ("mean", "low", "high")}


def _won(differences: Values, seeds: Values) -> int:
    """Number of seeds whose mean difference is above zero."""
    return sum(bool(np.nanmean(differences[seeds == seed]) > 0) for seed in np.unique(seeds))
