"""Recommendations of a finished run: the policy's answers to users as they are now, under its constraints.

Prices are fitted on the very users that are served, or, of more than ``FITTED_ON``, on so many of them; then
all are answered portion by portion, so memory does not grow with their number. Every answer is noted beside
the output as it comes: after a stop the same command goes on, and asks nothing twice.

``recs.parquet``         one row a user, written when all are answered
``recs.prices.json``     prices, what they attain, who was left out, what was answered by what
``.recs.parquet.asked``  answers so far, while it lasts
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import torch

from ...envs import task as tasks
from ...envs.audience import Audience
from ...envs.storage.sealed import fingerprint, write
from ...envs.task import Lines, Row, Task, evenly
from ...rewards import RewardEngine
from ...rewards.scoring.binding import LIVE
from ...rl.decoding.known import Portion
from ...rl.decoding.writing import Writer
from ...rl.distributed.processes import distributed_state
from ...rl.evaluation.answers import scored
from ...rl.evaluation.asked import Asked
from ...rl.evaluation.bounds import Bounds, Floats
from ...rl.evaluation.deploying import Deploying
from ...rl.evaluation.hold import Priced, holdable
from ...rl.evaluation.serving import Serving
from ...rl.evaluation.spread import Spread, assist
from ...rl.optimizer.constraints import Constraint
from ..config.schema import RunConfig
from ..signals import Stop
from .finished import Request, finished_policy
from .folder import RunFolder
from .preconditions import check_decoding
from .progress import Display
from .resources import RESOURCES, made
from .writing import writer

FITTED_ON = 10_000
"""Users that prices are fitted on at most, and users of a portion."""

_SEED = 5
_POLARS: dict[type, Any] = {str: pl.String, list: pl.List(pl.String), float: pl.Float64}
_SHOWN = 5  # users that a line names
_AT_ONCE = 1000  # users whose options are worth something at once


def recommend(config: RunConfig, request: Request, stop: Stop | None = None) -> Path:
    """Answer users as they are now.

    Args:
        config: The run, its ``output`` the run's folder.
        stop: The signals that the process listens to; by default none.

    Returns:
        Path of the recommendations.

    Raises:
        ConfigError: no such policy, or an output that cannot be.
        TaskError, AudienceError, DataError: these users cannot be answered.
        Interruption: stopped by Ctrl-C or SIGTERM; what was answered until then is not asked again.
    """
    stop = stop or Stop()
    stop.hint = "the same command goes on"
    folder = finished_policy(config.folder, request.which)
    request.check()
    state = distributed_state(config.train.collective_timeout)
    display = Display(state.is_main_process)
    with state.main_process_first():  # it may make the caches of the data
        task = tasks.make(config.task, config.data).as_trained(config.folder)
        audience = task.audience(request.at, request.users)
    say_left_out(audience, display)
    chosen = evenly(len(audience.names), request.limit)
    some = [chosen[i] for i in evenly(len(chosen), FITTED_ON)]
    if not state.is_main_process:
        model, tokenizer = writer(config, folder, task, audience.rows(some))
        assist(Deploying(model, tokenizer, task, config.evaluation, config.seed + _SEED))
        return request.output
    with ExitStack() as ending:
        request.asked.parent.mkdir(parents=True, exist_ok=True)
        ending.enter_context(RunFolder(request.asked).locked())
        if request.fresh:
            for left in request.asked.glob("*.jsonl"):
                left.unlink()
        answering = Recommending(config, task, audience, some, folder, request.asked, display)
        prices = answering.fit()
        aside = request.output.with_name(f".{request.output.name}.writing")
        attained = answering.write(chosen, prices, aside)
        answering.end()
        about = {
            "run": str(config.folder),
            "policy": request.which,
            "recrl": version("recrl"),
            "origin": audience.origin.isoformat() if audience.origin is not None else None,
            "users": len(chosen),
            "left out": {reason: len(names) for reason, names in audience.left_out.items()},
            "decoding": config.evaluation.decoding,
            **prices.as_json(attained),
        }
        write(request.prices, json.dumps(about, indent=1))
        aside.replace(request.output)  # last: whoever sees it has all
        shutil.rmtree(request.asked, ignore_errors=True)
    _say_prices(prices, attained, display)
    display.say(f"{len(chosen):,} users: {request.output}, prices: {request.prices}")
    return request.output


@dataclass(frozen=True)
class Prices:
    """Prices of the constraints that can be held, and why the others cannot."""

    priced: list[Priced]
    why_not: dict[str, str]
    fitted_on: int
    candidates: int

    def as_json(self, attained: Floats) -> dict[str, Any]:
        found = zip(self.priced, attained.tolist(), strict=True)
        chosen = any(one.choice is not None for one in self.priced)
        return {
            "prices fitted on users": self.fitted_on,
            **({"candidates": self.candidates} if chosen else {}),
            "prices": [{**asdict(one), "attained": mean} for one, mean in found],
            "not held": self.why_not,
        }


class Recommending:
    """A policy that answers an audience.

    Args:
        fitted: Numbers of the users that prices are fitted on.
        folder: Folder of the policy.
        asked: Folder of the answers until all are there.
    """

    def __init__(
        self,
        config: RunConfig,
        task: Task,
        audience: Audience,
        fitted: Sequence[int],
        folder: Path,
        asked: Path,
        display: Display,
    ) -> None:
        self._task, self._audience, self._display = task, audience, display
        # Whoever deploys a policy fits prices on those it is shown to.
        self._config = config.evaluation.model_copy(update={"fit": "population"})
        self._unknown = {*task.outcomes, *task.names} - {*audience.columns}
        self._problem = config.problem()
        self._fitted = audience.rows(fitted)
        check_decoding(config, task, self._fitted)
        self._constraints, self._why_not = self._holdable(config)
        self._problem = replace(self._problem, constraints=tuple(self._constraints))
        self._engine = self._held_rewards(config)
        model, self._tokenizer = writer(config, folder, task, self._fitted)
        weights = [fingerprint(file) for file in sorted(folder.glob("*.safetensors"))]
        identity = [
            *(weights, config.policy.dtype, self._config.decoding, config.seed, version("recrl")),
            *(["vllm"] if isinstance(model, Writer) else []),
            hashlib.sha256(repr(task.form).encode()).hexdigest(),
        ]
        kind = Spread if distributed_state().num_processes > 1 else Asked
        self._answering = kind(
            *(model, self._tokenizer, task, self._config, config.seed + _SEED),
            watch=self._look,
            folder=asked,
            identity=json.dumps(identity),
        )

    def end(self) -> None:
        """Nothing more is asked."""
        if isinstance(self._answering, Spread):
            self._answering.end()

    def fit(self) -> Prices:
        """The smallest prices that meet the bounds."""
        rows, candidates = self._fitted, self._config.candidates
        if not self._constraints:
            return Prices([], self._why_not, len(rows), candidates)
        served = self._serving(rows).answers(self._constraints)
        return Prices(served.priced, self._why_not | served.why_not, len(rows), candidates)

    def _serving(self, rows: Sequence[Row]) -> Serving:
        given = (self._answering, self._scored, self._task, self._engine, self._problem, self._config)
        return Serving(*given, rows, rows)

    def answers(self, rows: Sequence[Row], priced: Sequence[Priced]) -> list[str]:
        """Answers to rows under prices that were fitted before."""
        return self._serving(rows).under(priced).texts

    def portions(self, numbers: Sequence[int], prices: Prices) -> Iterator[Portion]:
        """Prompts of users as token ids, what prices of lines add to each option, and what is barred."""
        coder: Any = self._tokenizer
        options = len(cast(Lines, self._task.form).options)
        for first in range(0, len(numbers), _AT_ONCE):
            rows = self._audience.rows(numbers[first : first + _AT_ONCE])
            asked = [row["prompt"] for row in rows]
            prompts = coder.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)
            favours = self._serving(rows).favours(prices.priced)
            worth = torch.zeros(len(rows), options)
            if favours is not None:
                worth = favours(0, len(rows))[:, 0]
            yield prompts["input_ids"], worth, [self._task.barred(row) for row in rows]

    def write(self, numbers: Sequence[int], prices: Prices, path: Path) -> Floats:
        """Answer users and write a table; return the means of the constrained rewards over them."""
        of = {constraint.name: constraint for constraint in self._constraints}
        held = [of[one.name] for one in prices.priced]
        sums, counts = np.zeros(len(held)), np.zeros(len(held))
        writer = None
        with self._display.stage("recommending", len(numbers)) as advance:
            for first in range(0, len(numbers), FITTED_ON):
                some = numbers[first : first + FITTED_ON]

                @contextmanager
                def watch(stage: str, count: int, first: int = first) -> Iterator[Callable[[int], None]]:
                    yield lambda done: advance(first + done)

                self._answering.watch = watch
                rows = self._audience.rows(some)
                drawn = self._serving(rows).under(prices.priced)
                if held:
                    bounds = Bounds(self._engine.names, self._problem, held, rows)
                    values = bounds.values(self._scored(rows, drawn.texts, 1))[:, 0]
                    sums += np.nansum(values, axis=0)
                    counts += np.isfinite(values).sum(axis=0)
                table = self._table(some, rows, drawn.texts, drawn.logprobs[:, 0]).to_arrow(
                    compat_level=pl.CompatLevel.oldest()
                )
                writer = writer or pq.ParquetWriter(path, table.schema)
                writer.write_table(table)
                advance(first + len(some))
        assert writer is not None, "an audience has somebody"
        writer.close()
        return np.divide(sums, counts, out=np.full(len(held), np.nan), where=counts > 0)

    def _table(
        self, numbers: Sequence[int], rows: Sequence[Row], texts: Sequence[str], logprobs: Floats
    ) -> pl.DataFrame:
        told = [self._task.recommendation(row, text) for row, text in zip(rows, texts, strict=True)]
        columns = {
            name: pl.Series([one[name] for one in told], dtype=_POLARS[type(value)])
            for name, value in told[0].items()
        }
        return pl.DataFrame(
            {
                "user": pl.Series([self._audience.names[i] for i in numbers], dtype=pl.String),
                **columns,
                "logprob": logprobs,
                "prompt": [_digest(row["prompt"]) for row in rows],
                "origin": pl.Series([self._audience.origin] * len(rows), dtype=pl.Date),
            }
        )

    def _scored(self, rows: Sequence[Row], texts: Sequence[str], copies: int) -> Any:
        return scored(rows, texts, self._tokenizer, self._engine, copies)[0]

    @contextmanager
    def _look(self, stage: str, count: int) -> Iterator[Callable[[int], None]]:
        words = {"prices": "fitting prices", "priced": "answers"}.get(stage, stage)
        with self._display.stage(words, count) as advance:
            yield advance

    def _holdable(self, config: RunConfig) -> tuple[list[Constraint], dict[str, str]]:
        """Constraints that prices can hold now; asks no reward, so nothing that rewards read is made."""
        if self._config.hold == "off":
            why = "evaluation.hold=off"
            return [], {constraint.name: why for constraint in self._problem.constraints}
        resources = dict.fromkeys((*RESOURCES, *LIVE)) | self._task.resources
        engine = self._made(config, resources, self._task.names)
        return holdable(self._task, engine, self._problem, self._config, self._fitted, self._unknown)

    def _held_rewards(self, config: RunConfig) -> RewardEngine:
        """Rewards of those constraints alone: others may read an outcome, or what is costly to make."""
        specs = {spec.name: spec for spec in config.rewards}
        needed = {constraint.reward for constraint in self._constraints}
        needed |= {part for name in needed for part in specs[name].sum or ()}
        held = config.model_copy(
            update={"rewards": tuple(spec for spec in config.rewards if spec.name in needed)}
        )
        resources = {**self._task.resources, **made(held, self._task), **dict.fromkeys(LIVE)}
        return self._made(held, resources, self._audience.columns)

    def _made(self, config: RunConfig, resources: dict[str, Any], columns: Any) -> RewardEngine:
        return RewardEngine(
            config.rewards,
            resources=resources,
            columns=[*columns, "completion_ids"],
            derive={"answers": self._task.parse},
        )


def _digest(prompt: Any) -> str:
    """Fingerprint of a prompt, by which it is known which data an answer saw."""
    return hashlib.sha256(json.dumps(prompt, ensure_ascii=False).encode()).hexdigest()[:16]


def say_left_out(audience: Audience, display: Display) -> None:
    for reason, names in audience.left_out.items():
        more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
        named = ", ".join(names[:_SHOWN])
        display.say(f"left out, {reason}: {len(names):,} users: {named}{more}")


def _say_prices(prices: Prices, attained: Floats, display: Display) -> None:
    for one, mean in zip(prices.priced, attained.tolist(), strict=True):
        paid = {"price of a line": one.price, "price in the choice": one.choice}
        told = ", ".join(f"{what} {price:.3g}" for what, price in paid.items() if price is not None)
        verdict = "met" if one.met else "cannot be met: that is the best that prices attain"
        display.say(f"{one.name}: mean {mean:.3f} ({one.free:.3f} without prices), {told}; {verdict}")
    for name, why in prices.why_not.items():
        display.say(f"not held: {name}: {why}")
