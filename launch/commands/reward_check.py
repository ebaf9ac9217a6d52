"""What a reward does on real episodes, before a run trusts it.

``check``    scores answers, and measures what is listed below
``Finding``  one of them: what was measured, and whether it fails, warns or passes
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from ...rewards import Reward, RewardEngine, RewardError, RewardSpec
from ...rl.optimizer.conflict import conflict_metrics
from .. import faults
from ..run.drafts import Asked, awkward, resources_of
from ..run.setup import Setup

Verdict = Literal["pass", "warn", "fail"]
Scores = npt.NDArray[np.float32]  # [sample, reward]

TIMES = 3  # calls that the speed is the median of
DEAD = 0.5  # share of groups without a difference, worth a warning from there on
NARROW = 0.05  # share of the declared range that scores use, worth a warning below
SLOW = 1.0  # seconds for 1,000 samples, worth a warning above


@dataclass(frozen=True)
class Finding:
    """Outcome of one examination."""

    what: str
    verdict: Verdict
    found: str
    """Result in words, with the figures."""


@dataclass(frozen=True)
class Checked:
    """Outcome of a check.

    Attributes:
        reward: Reward that was checked.
        scores: ``[sample]`` scores, NaN = missing; None if it could not be scored.
        correlations: Name of another reward -> correlation within groups.
    """

    reward: Reward
    findings: list[Finding]
    scores: npt.NDArray[np.float32] | None
    correlations: dict[str, float]
    origin: str

    @property
    def failed(self) -> bool:
        return any(finding.verdict == "fail" for finding in self.findings)

    def save(self, folder: Path) -> None:
        """Write ``check.json``, and ``distribution.png`` where there are scores."""
        folder.mkdir(parents=True, exist_ok=True)
        summary = {
            "reward": self.reward.name,
            "range": [self.reward.low, self.reward.high],
            "answers": self.origin,
            "failed": self.failed,
            "findings": [asdict(finding) for finding in self.findings],
            "correlations": self.correlations,
        }
        (folder / "check.json").write_text(json.dumps(summary, indent=1))
        if self.scores is not None:
            _plot(self.reward, self.scores, folder / "distribution.png")


def check(
    setup: Setup,
    name: str,
    answers: Asked,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Checked:
    """Score real answers with one reward of a run, and look at it from all sides.

    Args:
        setup: Setup of a configuration that holds the reward among others.
        name: Name of the reward.
        on_stage: Function that is called with what is looked at next.
    """
    specs = {spec.name: spec for spec in setup.config.rewards}
    resources, columns = resources_of(setup), list(answers.columns)
    rewards = {reward.name: reward for reward in setup.engine.rewards}
    reward = rewards[name]
    parts = [specs[part] for part in specs[name].sum or {}]
    everything = range(len(answers.completions))

    def engine() -> RewardEngine:
        made = RewardEngine([specs[name], *parts], resources=resources, columns=columns)
        made.learn(*answers.rows(everything))  # behind its warm-up, if it has one
        return made

    on_stage("scores")
    try:
        alone = engine()
        scores = _scored(alone, answers, everything)
    except RewardError as error:
        return Checked(reward, [Finding("scores", "fail", _said(error))], None, {}, answers.origin)
    grouped = scores.reshape(-1, answers.group)
    findings = [_range(reward, scores), _missing(scores, alone, specs[name]), _ties(grouped)]

    def determinism() -> list[Finding]:
        return [_same("determinism", scores, _scored(engine(), answers, everything), "called again")]

    stages: dict[str, Callable[[], list[Finding]]] = {
        "speed": lambda: [_speed(alone, specs[name], answers)],
        "determinism": determinism,
        "batches": lambda: _batches(engine, answers, scores),
        "awkward answers": lambda: [_awkward(engine(), answers)],
    }
    for stage, look in stages.items():
        on_stage(stage)
        try:
            findings += look()
        except RewardError as error:
            findings.append(Finding(stage, "fail", _said(error)))
    on_stage("other rewards")
    try:
        correlations = _correlations(setup, answers, name)
    except RewardError as error:
        correlations = {}
        findings.append(Finding("other rewards", "warn", f"no correlations: {error}"))
    return Checked(reward, findings, scores, correlations, answers.origin)


def _said(error: RewardError) -> str:
    """What an error says, and where the function raised what is behind it."""
    fault = faults.cause(error)
    where = None if fault is None else faults.place(fault)
    return str(error) if where is None else f"{error} (raised in {where})"


def _scored(engine: RewardEngine, answers: Asked, chosen: Sequence[int], group: int | None = None) -> Scores:
    return engine.score(*answers.rows(chosen), group or answers.group)[:, 0]


def _range(reward: Reward, scores: Scores) -> Finding:
    present = scores[np.isfinite(scores)]
    if not present.size:
        return Finding("range", "fail", "no answer has a score")
    marks = np.quantile(present, (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1))
    share = (marks[-1] - marks[0]) / (reward.high - reward.low)
    text = (
        f"{marks[0]:.3g} to {marks[-1]:.3g} of the declared [{reward.low:g}, {reward.high:g}]; mean "
        f"{present.mean():.3g}, 5 % {marks[1]:.3g}, 25 % {marks[2]:.3g}, median {marks[3]:.3g}, 75 % "
        f"{marks[4]:.3g}, 95 % {marks[5]:.3g}"
    )
    if share == 0:
        return Finding("range", "fail", f"{text}: every answer scores the same")
    if share < NARROW:
        return Finding(
            "range",
            "warn",
            f"{text}: declare a range that scores use, or a unit; units are half of the range",
        )
    return Finding("range", "pass", text)


def _missing(scores: Scores, engine: RewardEngine, spec: RewardSpec) -> Finding:
    share, failed = float(np.isnan(scores).mean()), engine.failed.get(spec.name, 0) / len(scores)
    text = f"{share:.1%} of the answers have no score"
    if failed > spec.max_missing:
        text += f", {failed:.1%} since it failed: more than max_missing={spec.max_missing:g} ends a run"
        return Finding("missing", "fail", text)
    if failed:
        text += f", {failed:.1%} since it failed"
    return Finding("missing", "warn" if failed or share >= DEAD else "pass", text)


def _ties(grouped: Scores) -> Finding:
    """Finding on ties: a group in which all score the same teaches nothing."""
    scored = [group[np.isfinite(group)] for group in grouped if np.isfinite(group).any()]
    dead = np.mean([np.ptp(group) == 0 for group in scored] or [True])
    pairs = [a == b for group in scored for a, b in combinations(group, 2)]
    text = f"{dead:.1%} of the groups are dead (all the same), {np.mean(pairs or [True]):.1%} of pairs tie"
    if dead == 1:
        return Finding("ties", "fail", f"{text}: no answer can be preferred to another")
    return Finding("ties", "warn" if dead > DEAD else "pass", text)


def _speed(engine: RewardEngine, spec: RewardSpec, answers: Asked) -> Finding:
    seconds = []
    for _ in range(TIMES):
        started = time.perf_counter()
        _scored(engine, answers, range(len(answers.completions)))
        seconds.append(time.perf_counter() - started)
    per = 1000 * median(seconds) / len(answers.completions)
    text = f"{1000 * per:.3g} ms for 1,000 samples{', cached' if spec.cache else ''}"
    return Finding("speed", "warn" if per > SLOW else "pass", text)


def _same(what: str, expected: Scores, found: Scores, how: str) -> Finding:
    apart = np.abs(np.nan_to_num(expected, nan=-1e9) - np.nan_to_num(found, nan=-1e9))
    differing = int((apart > 1e-5).sum())
    if differing:
        worst = int(apart.argmax())
        return Finding(
            what,
            "fail",
            f"{how}, {differing} of {len(apart)} answers score differently; the worst, sample {worst}: "
            f"{expected[worst]:.4g}, then {found[worst]:.4g}",
        )
    return Finding(what, "pass", f"{how}, all {len(apart)} answers score the same")


def _batches(engine: Callable[[], RewardEngine], answers: Asked, scores: Scores) -> list[Finding]:
    """Findings on other batches, whose scores must be the same: ranks and resumes cut them differently."""
    n, size = len(answers.completions), answers.group
    one = engine()
    by_group = np.concatenate([_scored(one, answers, range(i, i + size)) for i in range(0, n, size)])
    order = np.random.default_rng(0).permutation(n // size)
    rows = [row for group in order for row in range(group * size, (group + 1) * size)]
    shuffled = np.empty_like(scores)
    shuffled[rows] = _scored(engine(), answers, rows)
    found = [
        _same("serial and batched", scores, by_group, "group by group"),
        _same("order", scores, shuffled, "with the groups in another order"),
    ]
    return found


def _awkward(engine: RewardEngine, answers: Asked) -> Finding:
    strange = awkward({"prompt": answers.prompts[0], **{n: of[0] for n, of in answers.columns.items()}})
    found = _scored(engine, strange, range(strange.group))
    shown = ", ".join("missing" if np.isnan(score) else f"{score:.3g}" for score in found)
    return Finding("awkward answers", "pass", f"empty, refusals, other scripts, 2,000 words: {shown}")


def _correlations(setup: Setup, answers: Asked, name: str) -> dict[str, float]:
    """Correlation within groups with each other reward of the configuration."""
    specs, columns = setup.config.rewards, list(answers.columns)
    engine = RewardEngine(specs, resources=resources_of(setup), columns=columns)
    everything = answers.rows(range(len(answers.completions)))
    engine.learn(*everything)
    scores = torch.from_numpy(engine.score(*everything, answers.group)).unflatten(0, (-1, answers.group))
    metrics = conflict_metrics(scores, torch.zeros(scores.shape[:2]), engine.names)
    found = {}
    for other in engine.names:
        for pair in (f"{name}~{other}", f"{other}~{name}"):
            if f"conflict/corr/{pair}" in metrics:
                found[other] = metrics[f"conflict/corr/{pair}"]
    return found


def _plot(reward: Reward, scores: Scores, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
    axis.hist(scores[np.isfinite(scores)], bins=40, range=(reward.low, reward.high))
    axis.set(title=reward.name, xlabel="score, over its declared range", ylabel="answers")
    figure.savefig(path, dpi=90)
    plt.close(figure)
