"""The stages of a run: warm start, reference samples, training, evaluation."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, set_seed
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...envs.statistics import Values
from ...envs.storage.sealed import fingerprint, write
from ...envs.task import Lines, Row, Task, evenly
from ...rl import policy
from ...rl.decoding.kept import Kept
from ...rl.distributed import checkpoints
from ...rl.evaluation.answers import Answers, answer, sample, scored, test_rows
from ...rl.evaluation.ranking import priced_ranking
from ...rl.evaluation.tables import evaluation
from ...rl.optimizer.start import describe, reference_multipliers
from ...rl.policy.folders import holds_policy
from ...rl.policy.loading import placed, save_policy
from ...rl.policy.resuming import StoppedTraining
from ...rl.policy.warmstart import warm_start
from ...rl.trainer.averaging import WeightAverage
from ...rl.trainer.constrained import ConstrainedGRPOTrainer
from ...rl.trainer.make import make_trainer
from ..report import tensorboard
from ..report import write as report
from ..report.summary import FACTS
from ..signals import Stop
from .callbacks import Interrupt, Recorder, StepLog
from .folder import keep_earlier
from .heartbeats import Heartbeats
from .preconditions import check_lengths, check_slots
from .setup import Setup
from .validation import Validation, best_policy

# Seeds of the parts of a run, apart from one another so that changing one part leaves the others alone.
_WARM_START_SEED, _EVALUATION_SEED, _REFERENCE_SEED = 1, 2, 3

# Folder of the files of an evaluation under way.
_ANSWERS = "answers"
# Checkpoint of the warm start.
_WARMING = "warm_start"


Policy = tuple[PreTrainedModel, PreTrainedTokenizerBase]
"""Model and tokenizer."""


def optimise(
    setup: Setup,
    trainer: ConstrainedGRPOTrainer,
    tokenizer: PreTrainedTokenizerBase,
    last: Path | None,
    stop: Stop,
) -> None:
    """Reinforcement learning, from a checkpoint or from the warm start."""
    config, folder = setup.config, setup.folder
    interrupt = Interrupt(trainer, stop)
    trainer.add_callback(interrupt)
    first = checkpoints.read(last).step if last is not None else 0
    try:
        with (
            setup.display.stage("reinforcement learning", config.train.steps) as advance,
            stop.deferred(),
        ):
            trainer.add_callback(Recorder(trainer, folder / "metrics.jsonl", advance, first))
            if config.evaluation.every:
                trainer.add_callback(Validation(setup, trainer, tokenizer, first))
            trainer.train(resume_from_checkpoint=str(last) if last is not None else None)
    finally:
        if trainer.rollouts is not None:
            trainer.rollouts.close()
    if interrupt.agreed is not None:
        stop.received = interrupt.agreed
        stop.check(f"after step {trainer.state.global_step}")


def chosen_policy(setup: Setup, tokenizer: PreTrainedTokenizerBase, last: Path | None) -> None:
    """Write the policy of a run whose training has ended: the best that was validated, else that of its last
    checkpoint."""
    config, folder = setup.config, setup.folder
    if config.evaluation.every and (best := best_policy(folder)) is not None:
        model, _ = policy.load(config.policy.at(best))
    else:
        assert last is not None, "what was neither validated nor saved is still in the trainer"
        model, _ = policy.load(config.policy.at(last))
        if config.train.average:
            WeightAverage.apply(model, last)
    save_policy(model, tokenizer, folder / "policy")


def evaluate_run(setup: Setup, tokenizer: PreTrainedTokenizerBase, stop: Stop) -> None:
    folder = setup.folder
    keep_earlier(folder)
    evaluate(setup, {"warm start": folder / "warm", "trained": folder / "policy"}, tokenizer, stop)
    report.write(folder)
    setup.display.say(f"report: {folder / 'report.md'}")


def evaluate(
    setup: Setup, policies: dict[str, Path], tokenizer: PreTrainedTokenizerBase, stop: Stop | None = None
) -> dict[str, Any]:
    """Answer the test episodes with the policy of every folder; write ``evaluation.json`` and
    ``examples.json``.

    Raises:
        Interruption: a signal came; what was answered until then is in ``answers/``, and is not asked again.
    """
    config, task, stop = setup.config, setup.task, stop or Stop()
    rows = test_rows(task, config.evaluation)
    sampling = config.train.sampling(tokenizer, setup.answer_tokens(tokenizer))
    answers: dict[str, Answers] = {}
    for name, path in policies.items():
        model = placed(policy.load(config.policy.at(path))[0], config.policy)
        identity = json.dumps(
            [
                *(fingerprint(file) for file in sorted(path.glob("*.safetensors"))),
                *(
                    task.fingerprint,
                    config.task.model_dump(mode="json"),
                    config.evaluation.model_dump(),
                    str(sampling),
                ),
                *(config.seed, version("recrl")),
            ]
        )

        def kept(stage: str, name: str = name, identity: str = identity) -> Kept:
            key = hashlib.sha256(identity.encode()).hexdigest()
            return Kept(setup.folder / _ANSWERS / f"{name}, {stage}.json", key, urgent=stop.wished)

        with setup.display.stage(f"evaluating the {name} policy", 2 * len(rows)) as advance:

            def on_batch(stage: str, done: int, advance: Any = advance, name: str = name) -> None:
                if stage in ("sampled", "deployed"):
                    advance(done + (len(rows) if stage == "deployed" else 0))
                else:
                    advance(
                        2 * len(rows) - (stage == "prices" or done < len(rows)), "prices that hold bounds"
                    )
                stop.check(f"while the {name} policy was evaluated")

            with stop.deferred():
                answers[name] = answer(
                    model,
                    tokenizer,
                    task,
                    rows,
                    setup.engine,
                    config.problem(),
                    sampling,
                    config.evaluation,
                    config.seed + _EVALUATION_SEED,
                    kept=kept,
                    on_batch=on_batch,
                )
        stop.check(f"after the {name} policy was evaluated")
    ranking = priced_ranking(
        task,
        rows,
        setup.engine,
        config.problem(),
        config.evaluation,
        tokenizer,
        config.seed + _EVALUATION_SEED,
    )
    result = evaluation(
        task,
        rows,
        answers,
        config.problem(),
        config.floors,
        partial(_scored, setup, rows, tokenizer),
        config.evaluation.decoding,
        ranking,
    )
    write(setup.folder / FACTS, json.dumps(_facts(setup, answers), indent=1))
    examples = _examples(task, rows, answers)
    write(setup.folder / "examples.json", json.dumps(examples, indent=1, ensure_ascii=False))
    write(setup.folder / "evaluation.json", json.dumps(result, indent=1))
    with tensorboard.events(setup.folder, "evaluation", config.train.report_to) as board:
        if board is not None:
            tensorboard.write_evaluation(board, result, examples, type(task), config.train.steps)
    shutil.rmtree(setup.folder / _ANSWERS, ignore_errors=True)
    return result


def _scored(
    setup: Setup, rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> dict[str, Values]:
    """The run's rewards of one answer to every row, by name."""
    scores, _ = scored(rows, texts, tokenizer, setup.engine)
    return {name: scores[:, k].astype(float) for k, name in enumerate(setup.engine.names)}


def _facts(setup: Setup, answers: Mapping[str, Answers]) -> dict[str, Any]:
    """What the first lines of a report tell, see :data:`recrl.launch.report.summary.FACTS`."""
    task, limit = setup.task, setup.config.task.max_train_episodes
    episodes = task.count("train")
    form, valid = task.form, {}
    if isinstance(form, Lines):
        for name, given in answers.items():
            named = [_names_option(parsed, form) for parsed in task.parse(given.sampled)]
            valid[name] = float(np.mean(named))
    sampled = max((len(given.sampled) for given in answers.values()), default=0)
    return {"episodes": min(episodes, limit or episodes), "answers": sampled, "valid": valid}


def _names_option(parsed: Any, form: Lines) -> bool:
    """Whether an answer, as the task reads it, names an option at all."""
    if isinstance(parsed, str):
        return not set(form.options).isdisjoint(line.strip() for line in parsed.splitlines())
    return bool(getattr(parsed, "valid", True))


def _examples(task: Task, rows: Sequence[Row], answers: Mapping[str, Answers]) -> list[dict[str, Any]]:
    """Some rows, evenly spread, with every policy's deployed answer and one sampled answer."""
    return [
        task.example(
            rows[i],
            {name: given.deployed[i] for name, given in answers.items()},
            {name: given.sampled[i] for name, given in answers.items()},
        )
        for i in evenly(len(rows), task.examples)
    ]


def warmed(setup: Setup, state: PartialState, stop: Stop, beats: Heartbeats, named: list[Policy]) -> Policy:
    """The policy after the warm start: from ``warm/`` when that is there, else made by the first process.

    Args:
        named: Model that the configuration names, if it was loaded. It is taken out of the list, so that
            nothing holds it in memory behind the warm start.
    """
    config, warm = setup.config, setup.folder / "warm"
    if state.is_main_process and not holds_policy(warm):
        set_seed(config.seed)
        rows = setup.training_rows
        model, tokenizer = (
            named.pop()
            if named
            else policy.load(
                config.policy,
                options=form.options if isinstance(form := setup.task.form, Lines) else (),
                terms=setup.task.terms,
                texts=setup.task.corpus(rows[:2000]),
                seed=config.seed,
            )
        )
        check_slots(config, rows, model)
        check_lengths(config, rows, model, tokenizer, setup.answer_tokens(tokenizer))
        setup.task.save(setup.folder)
        if config.warm_start.steps:
            _warm_up(setup, placed(model, config.policy), tokenizer, stop)
        save_policy(model, tokenizer, warm)
        shutil.rmtree(setup.folder / _WARMING, ignore_errors=True)
        del model, tokenizer
    beats.reached("warm")
    beats.wait_for("warm")
    state.wait_for_everyone()
    set_seed(config.seed)
    return policy.load(config.policy.at(warm))


def _warm_up(setup: Setup, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop: Stop) -> None:
    """The supervised steps; a stopped run goes on with them from their own checkpoint."""
    config = setup.config
    log = StepLog(setup.folder / "warm_start.jsonl")
    with (
        setup.display.stage("warm start", config.warm_start.steps) as advance,
        tensorboard.events(setup.folder, "warm_start", config.train.report_to) as board,
        stop.deferred(),
    ):

        def on_step(step: int, loss: float) -> None:
            log.append(step, {"loss": loss})
            if board is not None:
                board.add_scalar("warm_start/loss", loss, step)
            advance(step, f"loss {loss:.3f}")

        try:
            warm_start(
                model,
                tokenizer,
                setup.training_rows,
                setup.task,
                config.warm_start,
                config.seed + _WARM_START_SEED,
                on_step,
                checkpoint=setup.folder / _WARMING,
                stop=stop.wished,
            )
        except StoppedTraining as stopped:
            stop.check(f"after step {stopped.step} of the warm start")
            raise
    stop.check("after the warm start")


def trainer_of(
    setup: Setup, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> ConstrainedGRPOTrainer:
    config = setup.config
    return make_trainer(
        model,
        tokenizer,
        setup.training_rows,
        setup.engine,
        config.problem(),
        config=config.train,
        rule=config.optimizer.rule,
        duals=config.optimizer.duals,
        credit=config.optimizer.credit,
        gradient_conflict_every=config.optimizer.gradient_conflict_every,
        rollout=config.rollout,
        answer_tokens=setup.answer_tokens(tokenizer),
        output=setup.folder / "checkpoints",
        seed=config.seed,
        name=config.name,
        trust_remote_code=config.policy.trust_remote_code,
    )


def reference_start(
    setup: Setup, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, state: PartialState
) -> torch.Tensor:
    """Multipliers that the first process finds from samples of the warm start; zero where refused."""
    config, problem = setup.config, setup.config.problem()
    settings = config.optimizer.reference
    found: list[list[float]] = [[0.0] * len(problem.constraints)]
    if state.is_main_process:
        rows = setup.training_rows
        chosen = np.linspace(0, len(rows) - 1, min(settings.prompts, len(rows))).round().astype(int)
        with setup.display.stage("sampling the reference", len(chosen)) as advance:
            scores, _ = sample(
                model,
                tokenizer,
                [rows[i] for i in chosen],
                setup.engine,
                problem,
                config.train.sampling(tokenizer, setup.answer_tokens(tokenizer)),
                copies=settings.answers,
                batch_size=config.evaluation.batch_size,
                seed=config.seed + _REFERENCE_SEED,
                on_batch=advance,
            )
        kl = config.train.kl if settings.kl is None else settings.kl
        lam_max = config.optimizer.duals.lam_max
        start = reference_multipliers(
            problem, problem.declared_units(), torch.from_numpy(scores), kl, lam_max
        )
        setup.display.say(describe(start, problem))
        if start.accepted:
            found = [start.multipliers.tolist()]
        else:
            setup.display.say("refused: the multipliers start at zero")
    broadcast_object_list(found)
    return torch.tensor(found[0], dtype=torch.float64)
