"""The benchmark of judges: a suite, the judges, and their figures."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from rich.markup import escape

from ...envs.chat.models import ChatModel
from ...envs.storage import sealed
from ...rewards.judge.findings import table
from ...rewards.judge.panel import Judge
from ...rewards.judge.suite.pairs import Item, Pair, items
from ...rl.chat.make import make_chat
from ...rl.reward_model.settings import DistillConfig
from ..config.schema import ConfigError, RunConfig
from ..run.progress import Display
from . import labels, measure, opponents, report, verdicts
from .suites import Suite, suite

RESULT, JUDGEMENTS, FINDINGS, TEXTS = "judge.json", "judgements.parquet", "findings.parquet", "items.parquet"


@dataclass(frozen=True)
class Plan:
    """What is benchmarked.

    Attributes:
        pairs, seed: Of the suite, see :func:`recrl.rewards.judge.suite.build.build`.
        rubric: Rubric of the agent judge, by name or path; None for the shipped one of such texts.
        votes: Questions of each kind to a model.
        asked: Number of items that the single prompt is asked about; None for all.
        steps: Steps of the one-pass model's training; 0 for none.
        start: Folder of a policy that it starts from; None for random weights.
        ratings: Files of people's answers.
    """

    pairs: int = 2000
    seed: int = 0
    rubric: str | None = None
    votes: int = 1
    asked: int | None = None
    steps: int = 600
    start: Path | None = None
    ratings: tuple[Path, ...] = ()


def run(config: RunConfig, plan: Plan, output: Path, replay: Path | None, display: Display) -> Path:
    """Judge, or read what was judged, and write figures and report; the path of the report.

    Raises:
        ConfigError, SuiteError, RubricError: something cannot be used; the message names the fix.
    """
    if replay is not None and not replay.is_file():
        raise ConfigError(f"--replay {replay}: no such file; recrl judge bench writes {JUDGEMENTS}")
    model = make_chat(config.judge) if config.judge is not None and replay is None else None
    with display.stage("suite", 1) as advance:
        tested = suite(config, plan.pairs, plan.seed)
        advance(1)
    shown = items(tested.pairs)
    ratings = labels.read(plan.ratings, shown)
    output.mkdir(parents=True, exist_ok=True)
    if replay is None:
        judges = _judged(config, plan, tested, shown, model, output, display)
        verdicts.save(output / JUDGEMENTS, shown, judges)
        _texts(shown).write_parquet(output / TEXTS)
    else:
        judges = verdicts.load(replay, shown)
    columns = measure.Table(shown, tested.held_out, plan.seed)
    with display.stage("figures", len(judges)) as advance:
        found = measure.compared(columns, judges)
        advance(len(judges))
    result = {
        "config": config.name,
        "pairs": plan.pairs,
        "seed": plan.seed,
        "rubric": plan.rubric or tested.kind,
        "suite": _counts(tested.pairs),
        "context-blind": {family: round(value, 4) for family, value in tested.blind.items()},
        **found,
        "human": labels.agreement(ratings, columns, judges),
    }
    sealed.write(output / RESULT, json.dumps(result, indent=1))
    path = report.write(output, result)
    display.say(f"human agreement: {labels.line(result['human'])}")
    display.say(f"report: {escape(str(path))}")
    return path


def _judged(
    config: RunConfig,
    plan: Plan,
    tested: Suite,
    shown: Sequence[Item],
    model: ChatModel | None,
    output: Path,
    display: Display,
) -> list[verdicts.Verdicts]:
    rubric = plan.rubric or tested.kind
    judge = Judge(
        rubric,
        kind=tested.kind,
        catalog=tested.task.catalog,
        model=model,
        votes=plan.votes,
        seed=plan.seed,
    )
    rows, texts = [one.row for one in shown], [one.text for one in shown]
    with display.stage("agent judge", 2) as advance:
        began = time.perf_counter()
        found = judge(rows, texts)
        seconds = time.perf_counter() - began
        advance(1)
        again = judge(rows[::-1], texts[::-1])[::-1]
        advance(2)
    table(found).write_parquet(output / FINDINGS)
    by = sorted({one.by.partition(":")[0] for one in judge.rubric.dimensions.values()})
    notes = f"rubric {rubric}, version {judge.rubric.version}, by {', '.join(by)}; {seconds:.1f} s for all"
    judges = [verdicts.Verdicts.judged("agent judge", found, again, notes=notes)]
    if plan.steps:
        from .one_pass import one_pass

        settings = DistillConfig(steps=plan.steps, seed=plan.seed, loss="point_wise", learning_rate=1e-3)
        with display.stage("one pass", plan.steps) as advance:
            judges.append(
                one_pass(
                    config,
                    tested.task,
                    tested.pairs,
                    shown,
                    settings,
                    plan.start,
                    lambda step, loss: advance(step),
                )
            )
    if model is not None:
        asked = _spread(tested.pairs, plan.asked)
        with display.stage("single prompt", 1) as advance:
            judges.append(opponents.single_prompt(model, shown, asked))
            advance(1)
    return [*judges, *opponents.simple(shown)]


def _spread(pairs: Sequence[Pair], asked: int | None) -> list[int]:
    """Numbers of items, both sides of pairs that are not for training: all, or so many of those with a
    defect of held-out families or by held-out authors, in turns of these two, of families and of authors."""
    if asked is None:
        chosen = [number for number, pair in enumerate(pairs) if pair.part != "training"]
    else:
        able = {
            number: pair
            for number, pair in enumerate(pairs)
            if pair.part in ("families", "authors") and pair.kind == "defect"
        }
        chosen, taken = [], Counter[tuple[str, ...]]()

        def before(number: int) -> tuple[int, ...]:
            of = able[number]
            return taken[of.part,], taken[of.part, of.family], taken[of.part, "", of.author]

        while able and len(chosen) < max(1, asked // 2):
            number = min(able, key=before)
            of = able.pop(number)
            taken.update([(of.part,), (of.part, of.family), (of.part, "", of.author)])
            chosen.append(number)
    return [2 * number + side for number in sorted(chosen) for side in (0, 1)]


def _counts(pairs: Sequence[Pair]) -> dict[str, dict[str, int]]:
    """Number of pairs by family and part."""
    found: dict[str, dict[str, int]] = {}
    for pair in pairs:
        name = pair.family if pair.kind == "defect" else pair.kind
        of = found.setdefault(name, {})
        of[pair.part] = of.get(pair.part, 0) + 1
    return found


def _texts(shown: Sequence[Item]) -> pl.DataFrame:
    """Every item with what the suite knows of it."""
    return pl.DataFrame(
        {
            "item": range(len(shown)),
            "pair": [one.number for one in shown],
            **{
                name: [getattr(one.pair, name) for one in shown]
                for name in ("kind", "family", "author", "part", "household")
            },
            "bad": [one.bad for one in shown],
            "text": [one.text for one in shown],
        }
    )
