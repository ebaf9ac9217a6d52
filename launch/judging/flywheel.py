"""The flywheel: a policy writes, the judge grades, the grades become a reward, the reward trains the policy.

A round has its own folder. ``graded.jsonl`` has texts of the last policy, judged; ``judge/`` is the model
that is distilled from all grades so far, and ``blind/`` another that never sees the prompt, for comparison;
``run/`` is the training, from the warm start, with the reward ``judge_score``. Its ``probe.json`` has what
reward and judge say of the trained policy's own texts on unseen rows. When the reward rises while the
judge's share of good texts falls, the policy has learned the reward's mistakes, and the flywheel stops.

A flywheel that was stopped goes on where it was. One whose judge grades none of a policy's texts ends with an
error; the same command goes on once the judge answers.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...envs import task as tasks
from ...envs.statistics import Values, estimate, paired_difference
from ...envs.storage.sealed import write
from ...envs.task import Row
from ...rewards.judge.findings import Grade, Judgement
from ...rewards.judge.panel import Judge
from ...rewards.shipped.judged import JudgeScore
from ...rl import policy
from ...rl.chat.make import make_chat
from ...rl.policy.folders import holds_policy
from ...rl.reward_model.settings import DistillConfig
from ...rl.reward_model.training import CARD, read
from ...rl.reward_model.training import distill as learn
from ..config import plain_yaml
from ..config.reading import dump, validate
from ..config.schema import ConfigError, RunConfig
from ..report.flywheel import write_report
from ..run.finished import finished_policy
from ..run.folder import copy_warm_start
from ..run.pipeline import train
from ..run.progress import Display
from ..signals import Stop
from . import grading

REWARD = "judge_score"
_BLIND = [{"role": "user", "content": "?"}]


@dataclass(frozen=True)
class Plan:
    """What a flywheel does.

    Attributes:
        rounds: Largest number of rounds.
        rows: Contexts that are graded in each.
        probed: Unseen rows of each probe.
        rubric: The judge's rubric, by name or path.
        candidates: Candidates of each context.
        distilled: How grades are distilled.
    """

    rounds: int = 3
    rows: int = 400
    probed: int = 300
    rubric: str = "explanations"
    candidates: grading.Candidates = field(default_factory=grading.Candidates)
    distilled: DistillConfig = field(default_factory=DistillConfig)


def judged_reward(config: RunConfig) -> str:
    """Name of the run's reward ``judge_score``.

    Raises:
        ConfigError: there is none, or another reward than the objective.
    """
    names = [spec.name for spec in config.rewards if (spec.use or spec.name) == REWARD]
    if names != [config.problem().objective]:
        raise ConfigError(
            f"optimizer.objective={config.problem().objective}: a flywheel maximises one reward {REWARD}; "
            f"name it in rewards, {{name: {REWARD}, params: {{model: judge}}}}, and as the objective"
        )
    return names[0]


def spin(config: RunConfig, plan: Plan, stop: Stop | None = None) -> Path:
    """Do the rounds that are missing.

    Args:
        config: The run that each round trains; the model of its reward is each round's own.

    Returns:
        The report.

    Raises:
        ConfigError: the objective is no distilled judge.
        UngradedError: the judge grades none of the texts that it is asked about.
    """
    name, display = judged_reward(config), Display()
    stop = stop or Stop()
    stop.hint = "go on with the same recrl judge flywheel command"
    start = config.folder / "start"
    if not holds_policy(start / "policy"):
        train(_without(config, name, start), resume="auto", stop=stop)
    stopped: int | None = None
    previous, found = start, [_probe(config, plan, start, "warm", None, display)]
    for number in range(1, plan.rounds + 1):
        folder = config.folder / f"round-{number}"
        which = "warm" if previous == start else "trained"
        _graded(config, plan, previous, which, folder, display)
        _distilled(config, plan, start, folder, number, display)
        settings = _with(config, name, folder)
        if not holds_policy(settings.folder / "warm"):
            copy_warm_start(start, settings.folder)
        if not (settings.folder / "report.md").is_file():
            train(settings, resume="auto", stop=stop)
        found.append(_probe(config, plan, settings.folder, "trained", folder / "judge", display))
        found[-1]["means"]["bounds"] = _bounds(settings.folder)
        if parted(found[-2], found[-1]):
            display.say(
                f"round {number}: the reward rose and the judge's share of good texts fell; the policy of "
                f"round {number - 1} is the last one to use"
            )
            stopped = number
            break
        previous = settings.folder
    means = [one["means"] for one in found]
    write(config.folder / "flywheel.json", json.dumps({"rounds": means, "stopped": stopped}, indent=1))
    return write_report(config.folder, means, stopped)


def parted(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether reward and judge part: the judge's share of texts without a defect falls by an interval below
    zero while the mean of the reward does not fall. Texts that either probe has no grade of tell nothing."""
    both = ~np.isnan(np.array(after["accepted"], dtype=float) - np.array(before["accepted"], dtype=float))
    if not both.any():
        return False
    users = np.array(after["users"])
    fell = paired_difference(np.array(after["accepted"]), np.array(before["accepted"]), users)
    scores = [one["means"].get("score", {}).get("mean") for one in (before, after)]
    return fell.high < 0 and (None in scores or scores[1] >= scores[0])


def _without(config: RunConfig, name: str, folder: Path) -> RunConfig:
    """A run that ends after one step, without the reward that is not there yet: it makes the warm start."""
    tree = plain_yaml.read(dump(config))
    tree["rewards"] = [entry for entry in tree["rewards"] if entry["name"] != name]
    if not tree["rewards"]:
        raise ConfigError(f"rewards: {name} alone; hold something beside it that can be checked")
    tree["optimizer"] |= {"objective": tree["rewards"][0]["name"], "constraints": []}
    tree["train"]["steps"] = 1
    tree["evaluation"] |= {"max_episodes": 8, "answers_per_prompt": 1, "hold": "off", "every": 0}
    return validate({**tree, "output": str(folder)}, "flywheel")


def _with(config: RunConfig, name: str, folder: Path) -> RunConfig:
    """The run of a round, with the round's judge as its reward."""
    tree = plain_yaml.read(dump(config))
    for entry in tree["rewards"]:
        if entry["name"] == name:
            entry["params"] = {**entry.get("params", {}), "model": str((folder / "judge").absolute())}
    return validate({**tree, "output": str(folder / "run")}, "flywheel")


def _graded(config: RunConfig, plan: Plan, run: Path, which: str, folder: Path, display: Display) -> None:
    if (folder / "graded.jsonl").is_file():
        return
    display.say(f"{folder.name}: grading texts of {run.name}")
    settings = config.model_copy(update={"output": run})
    grading.grade(
        settings,
        folder / "graded.jsonl",
        which=which,
        rubric=plan.rubric,
        rows=plan.rows,
        candidates=plan.candidates,
    )


def _distilled(
    config: RunConfig, plan: Plan, start: Path, folder: Path, number: int, display: Display
) -> None:
    """The round's judge, learned from all grades so far, and the one that sees no context."""
    kept = [config.folder / f"round-{i}" / "graded.jsonl" for i in range(1, number + 1)]
    graded = [one for path in kept for one in read(path)]
    blind = [replace(one, prompt=_BLIND) for one in graded]
    _, tokenizer = policy.load(config.policy.at(start / "warm"))
    for name, contexts in (("judge", graded), ("blind", blind)):
        target = folder / name
        if (target / CARD).is_file():
            continue
        about = {"labels": f"grades of {number} rounds", "start": "warm start", "context": name == "judge"}
        with display.stage(f"distilling {name}", plan.distilled.steps) as advance:
            found = learn(
                start / "warm",
                tokenizer,
                contexts,
                plan.distilled,
                about,
                lambda step, loss, say=advance: say(step, f"loss {loss:.3f}"),  # type: ignore[misc]
            )
        grading.keep(found, target)


def _probe(
    config: RunConfig, plan: Plan, run: Path, which: str, judge: Path | None, display: Display
) -> dict[str, Any]:
    """What the judge, and the reward if there is one, say of a policy's own texts on unseen rows."""
    path = run / "probe.json"
    if path.is_file():
        return dict(json.loads(path.read_text()))
    task = tasks.make(config.task, config.data).as_trained(run)
    rows = task.rows("test", plan.probed, unseen=True)
    texts = grading.written(config, task, finished_policy(run, which), rows, 1, display)
    model = make_chat(config.judge) if config.judge is not None else None
    judged = Judge(plan.rubric, catalog=task.resources.get("catalog"), model=model)(rows, texts)
    grading.check_graded(judged)
    values = {"superior": _share(judged, Grade.SUPERIOR), "accepted": _share(judged, Grade.AVERAGE)}
    if judge is not None:
        values["score"] = np.array(JudgeScore(str(judge))([row["prompt"] for row in rows], texts))
    users = np.array([row["user"] for row in rows])
    found = {
        "means": {name: vars(estimate(one, users)) for name, one in values.items()} | _agreed(judge),
        "accepted": values["accepted"].tolist(),
        "superior": values["superior"].tolist(),
        "users": users.tolist(),
        "texts": _some(rows, texts),
    }
    write(path, json.dumps(found))
    display.say(
        f"{run.parent.name}/{run.name}: " + ", ".join(f"{n} {v.mean():.3f}" for n, v in values.items())
    )
    return found


def _share(judged: Sequence[Judgement], least: Grade) -> Values:
    """Whether each text has a grade of at least that; NaN where the grade is missing."""
    return np.array([np.nan if one.grade is None else float(one.grade >= least) for one in judged])


def _agreed(judge: Path | None) -> dict[str, Any]:
    """Shares of held-out pairs that the round's models put in the judge's order."""
    if judge is None:
        return {}
    cards = {name: json.loads((judge.parent / name / CARD).read_text()) for name in ("judge", "blind")}
    return {"agreement": {name: card["agreement"].get("all") for name, card in cards.items()}}


def _bounds(run: Path) -> dict[str, Any]:
    """Slacks of a run's bounds in the texts that its policy shows, by constraint, from its evaluation."""
    populations = json.loads((run / "evaluation.json").read_text())["populations"]
    shown = next(iter(populations.values()))["deployed"]["constraints"]
    return {one["name"]: one["trained"]["slack"] for one in shown}


def _some(rows: Sequence[Row], texts: Sequence[str]) -> list[dict[str, Any]]:
    return [{"user": row["user"], "text": text} for row, text in zip(rows[:20], texts, strict=False)]
