"""Judge-as-a-Reward: candidates of a run are judged, and the grades distilled into a model that scores.

``grade``    candidates of a policy and of the task, judged: a file of graded contexts
``written``  samples of a policy
``distill``  a model that learned the grades

``check_graded``  refuses judgements without any grade
"""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from rich.markup import escape

from ...envs import task as tasks
from ...envs.faults import MendableError
from ...envs.storage.sealed import replace, write
from ...envs.task import Row, Task
from ...rewards.judge.findings import Grade, Judgement, table
from ...rewards.judge.panel import Judge
from ...rl import policy
from ...rl.chat.make import make_chat
from ...rl.decoding.deploy import answer_texts
from ...rl.decoding.forms import answer_room
from ...rl.policy.loading import placed
from ...rl.reward_model.settings import DistillConfig
from ...rl.reward_model.training import CARD, Distilled, read
from ...rl.reward_model.training import distill as learn
from ..config.schema import ConfigError, RunConfig
from ..run.finished import finished_policy
from ..run.progress import Display

_AT_ONCE = 256  # texts that are judged between two lines of progress


class UngradedError(MendableError, RuntimeError):
    """The judge graded nothing of what it was asked about; the message says why and names the fix."""


@dataclass(frozen=True)
class Candidates:
    """How many candidates of each kind a context gets.

    Attributes:
        sampled: Samples of the policy, as in its rollouts.
        taught: Demonstrations of the task for this context.
        borrowed: Demonstrations for other contexts.
    """

    sampled: int = 4
    taught: int = 2
    borrowed: int = 2

    @property
    def total(self) -> int:
        return self.sampled + self.taught + self.borrowed


def grade(
    config: RunConfig,
    output: Path,
    *,
    which: str,
    rubric: str,
    rows: int,
    candidates: Candidates,
    votes: int = 1,
) -> None:
    """Judge candidates of training contexts; write them with their grades, and the judgements beside them.

    Args:
        config: The run, its ``output`` the run's folder; its section ``judge`` is the model that dimensions
            of the rubric ask.
        output: JSONL file of graded contexts; the judgements get its name with ``.parquet``.
        which: ``trained`` or ``warm``.
        rubric: Rubric by name or path.
        rows: Number of contexts, spread evenly over the training rows.

    Raises:
        ConfigError, RubricError: no such policy or rubric, or nothing to grade.
        UngradedError: every grade is missing; nothing is written.
    """
    if candidates.total < 2:
        raise ConfigError(
            f"--sampled {candidates.sampled}, --taught {candidates.taught} and --borrowed "
            f"{candidates.borrowed} are {candidates.total} candidates; two are the least that can be compared"
        )
    folder, display = finished_policy(config.folder, which), Display()
    model = make_chat(config.judge) if config.judge is not None else None
    task = tasks.make(config.task, config.data).as_trained(config.folder)
    judge = Judge(rubric, catalog=task.resources.get("catalog"), model=model, votes=votes, seed=config.seed)
    chosen = task.rows("train", rows)
    texts = _candidates(config, task, folder, chosen, candidates, display)
    asked = [row for row in chosen for _ in range(candidates.total)]
    judged: list[Judgement] = []
    with display.stage("judging", len(asked)) as advance:
        for first in range(0, len(asked), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            judged += judge(asked[part], texts[part])
            advance(len(judged))
    check_graded(judged)
    lines = []
    for number, row in enumerate(chosen):
        part = slice(number * candidates.total, (number + 1) * candidates.total)
        grades = [None if one.grade is None else int(one.grade) for one in judged[part]]
        context = {"prompt": row["prompt"], "texts": texts[part], "grades": grades, "user": row["user"]}
        lines.append(json.dumps(context) + "\n")
    output.parent.mkdir(parents=True, exist_ok=True)
    table(judged).write_parquet(output.with_suffix(".parquet"))
    write(output, "".join(lines))
    counts = Counter("missing" if one.grade is None else Grade(one.grade).name.lower() for one in judged)
    display.say(
        f"written: {escape(str(output))}; " + ", ".join(f"{n:,} {name}" for name, n in counts.items())
    )


def check_graded(judged: Sequence[Judgement]) -> None:
    """Check that at least one text has a grade.

    Raises:
        UngradedError: none has.
    """
    if any(one.grade is not None for one in judged):
        return
    why = Counter(one.missing for each in judged for one in each.findings if one.verdict is None)
    reasons = ", ".join(f"{reason} ({count:,})" for reason, count in why.most_common(3))
    raise UngradedError(
        f"the judge graded none of {len(judged):,} texts; its verdicts are missing: {reasons}; see to the "
        "model of the section judge, or to the rubric's checkers, then start the same command again"
    )


def _candidates(
    config: RunConfig,
    task: Task,
    folder: Path,
    rows: Sequence[Row],
    candidates: Candidates,
    display: Display,
) -> list[str]:
    """Texts of every context, those of one next to each other."""
    rng = np.random.default_rng(config.seed)
    sampled: list[str] = []
    if candidates.sampled:
        sampled = written(config, task, folder, rows, candidates.sampled, display)
    taught = [task.demonstration(row, False, rng) for row in rows for _ in range(candidates.taught)]
    others = rng.integers(1, max(2, len(rows)), (len(rows), candidates.borrowed))
    borrowed = [
        task.demonstration(rows[(number + int(step)) % len(rows)], False, rng)
        for number, steps in enumerate(others)
        for step in steps
    ]
    kinds = ((sampled, candidates.sampled), (taught, candidates.taught), (borrowed, candidates.borrowed))
    return list(
        chain.from_iterable(
            chain.from_iterable(texts[n * count : (n + 1) * count] for texts, count in kinds)
            for n in range(len(rows))
        )
    )


def written(
    config: RunConfig, task: Task, folder: Path, rows: Sequence[Row], copies: int, display: Display
) -> list[str]:
    """``copies`` samples of a policy for each row, as in its rollouts, those of a row next to each other.

    Args:
        folder: Folder of the policy.
    """
    model, tokenizer = policy.load(config.policy.at(folder), seed=config.seed)
    model = placed(model, config.policy).eval()
    sampling = config.train.sampling(tokenizer, answer_room(task.form, tokenizer))
    with torch.random.fork_rng(), display.stage("answering", len(rows)) as advance:
        torch.manual_seed(config.seed)
        return answer_texts(
            model,
            tokenizer,
            [row["prompt"] for row in rows],
            sampling,
            copies=copies,
            batch_size=config.evaluation.batch_size,
            on_batch=advance,
        )


def distill(run: RunConfig, graded: Path, output: Path, config: DistillConfig, *, which: str) -> None:
    """Train a model to score as the grades say; write a folder for the reward ``judge_score``.

    Args:
        run: The run whose policy is the start, its ``output`` the run's folder.
        graded: File of :func:`grade`.
        output: Folder to write.

    Raises:
        ConfigError, DistillError: nothing to start from or to learn, or the folder holds something else.
    """
    if output.exists() and not (output / CARD).is_file():
        raise ConfigError(f"--output {output}: holds no distilled judge; choose another folder")
    folder, display = finished_policy(run.folder, which), Display()
    contexts = read(graded)
    start = run.policy.at(folder)
    _, tokenizer = policy.load(start)
    about = {"labels": f"grades of {graded.name}", "start": f"{run.name}/{folder.name}"}
    with display.stage("distilling", config.steps) as advance:
        found = learn(
            folder, tokenizer, contexts, config, about, lambda step, loss: advance(step, f"loss {loss:.3f}")
        )
    keep(found, output)
    for name, one in found.card["agreement"].items():
        display.say(f"pairs {name}: {one['share']:.3f} in the judge's order, of {one['pairs']:,} held out")
    display.say(
        f"written: {escape(str(output))}; use it as {{name: judge_score, params: {{model: {output}}}}}"
    )


def keep(found: Distilled, folder: Path) -> None:
    """Write a distilled judge, whole or not at all."""
    aside = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    found.save(aside)
    replace(aside, folder)
