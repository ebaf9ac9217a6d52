"""A run from configuration to report: data, warm start, constrained reinforcement learning, evaluation.

The run folder holds ``run.json`` (its marker), ``config.yaml`` (resolved), ``catalog.json``,
``warm_start.jsonl``, ``warm/`` (the policy after the warm start, which is also the KL reference),
``metrics.jsonl``, ``checkpoints/``, ``policy/`` (the trained policy), TensorBoard events,
``evaluation.json``, ``examples.json``, ``report.md`` and ``plots/``; while they last also ``warm_start/``
(its checkpoint) and ``answers/`` (of the evaluation).

A signal may stop it at any time: every stage saves what going on needs, or takes too little time to need it.
"""

import hashlib
import json
import secrets
import shutil
import socket
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from ..envs.sealed import fingerprint, write
from ..rl import checkpoints, policy
from ..rl.checkpoints import CheckpointError
from ..rl.evaluate import Answers, answer, evaluation, sample, test_episodes
from ..rl.kept import Kept
from ..rl.policy import save_policy
from ..rl.reference import describe, reference_multipliers
from ..rl.rollouts.settings import check_served
from ..rl.trainer import ConstrainedGRPOTrainer
from ..rl.training import distributed_state, make_trainer
from ..rl.warmstart import StoppedWarmStart, warm_start
from . import changes, report
from .callbacks import Interrupt, Recorder, StepLog
from .config import ConfigError, RunConfig
from .folder import HEARTBEATS, RunFolder
from .heartbeats import Heartbeats
from .preconditions import check_lengths, check_training
from .processes import Stop
from .progress import Display
from .setup import Setup, prepare_setup

# Seeds of the parts of a run, apart from one another so that changing one part leaves the others alone.
_WARM_START_SEED, _EVALUATION_SEED, _REFERENCE_SEED = 1, 2, 3

# Files of an evaluation under way.
_ANSWERS = "answers"
# Checkpoint of the warm start.
_WARMING = "warm_start"


def train(
    config: RunConfig, *, resume: str | None = None, fresh: bool = False, stop: Stop | None = None
) -> Path:
    """Run everything.

    Args:
        config: The run.
        resume: ``auto`` goes on from the newest whole checkpoint of the run folder, and starts where there is
            none yet; else the folder of a checkpoint.
        fresh: Replace an existing run; it is kept until the new one has its data, policy, rewards and
            servers.
        stop: The signals that the process listens to; by default none.

    Returns:
        The run folder.

    Raises:
        ConfigError: the folder holds a run and neither ``resume`` nor ``fresh`` is given, is in use, or was
            made with other settings.
        CheckpointError: these processes cannot go on from the checkpoint, or one could not be written.
        Interruption: stopped by Ctrl-C or SIGTERM; what going on needs is saved.
    """
    stop = stop or Stop()
    state = distributed_state(config.train.collective_timeout)
    display = Display(state.is_main_process)
    folder = RunFolder(config.folder)
    with ExitStack() as ending:
        found: list[str | None] = [None]
        if state.is_main_process:
            ending.enter_context(folder.locked())
            found = [_open(folder, config, resume, fresh, display)]
        broadcast_object_list(found)
        last = Path(found[0]) if found[0] is not None else None
        stop.hint = f"go on with: recrl train {folder.path / 'config.yaml'} --resume auto"
        _check_shared(folder.path, state)
        beats = Heartbeats(
            folder.path / HEARTBEATS, state.process_index, state.num_processes, config.train.heartbeat
        )
        beats.start()
        ending.callback(beats.close)
        try:
            trainer, setup, tokenizer = _prepared(config, folder, last, state, display, stop, beats)
        except Exception:
            if fresh and state.is_main_process and folder.put_back():
                display.say(f"the run that was in {folder.path} is back")
            raise
        if state.is_main_process:
            folder.settle()
        if trainer is not None:
            _optimise(setup, trainer, last, stop)
            trainer.save_policy(folder.path / "policy")
        elif state.is_main_process:  # stopped behind its last step
            trained, _ = policy.load(config.policy.model_copy(update={"model": str(last)}))
            save_policy(trained, tokenizer, folder.path / "policy")
        if state.is_main_process:
            # From the folder, and whole: under ZeRO-3 each process holds a part, and would load one.
            unset_hf_deepspeed_config()
            _evaluate_run(setup, tokenizer, stop)
        beats.reached("report")
        beats.wait_for("report")
    state.wait_for_everyone()
    if state.is_main_process:
        shutil.rmtree(folder.path / HEARTBEATS, ignore_errors=True)
    return folder.path


def evaluate_again(config: RunConfig, stop: Stop | None = None) -> None:
    """Evaluate a finished run with other evaluation settings, and rewrite its report.

    Raises:
        ConfigError: the run folder is in use.
        Interruption: stopped by Ctrl-C or SIGTERM; the answers so far are kept.
    """
    stop = stop or Stop()
    stop.hint = "the same command goes on"
    with RunFolder(config.folder).locked():
        setup = prepare_setup(config, Display())
        _, tokenizer = policy.load(config.policy.model_copy(update={"model": str(config.folder / "warm")}))
        _evaluate_run(setup, tokenizer, stop)


def _open(
    folder: RunFolder, config: RunConfig, resume: str | None, fresh: bool, display: Display
) -> str | None:
    """Make the run folder ready; where to go on. Nothing is written before all that can be refused is."""
    folder.refuse(resume, fresh)
    last = _checkpoint(folder.path, resume)
    if resume is not None:
        _compare(folder, config, resume, last, display)
    check_served(config.rollout, folder.path)
    folder.sweep()
    checkpoints.tidy(folder.path / "checkpoints")
    if fresh:
        folder.set_aside()
    if not folder.has_run():
        folder.open(config, _about())
    if last is not None:
        display.say(f"going on from {last}")
    return None if last is None else str(last)


def _about() -> dict[str, Any]:
    """What the marker of a new run says."""
    return {"recrl": version("recrl"), "started": time.strftime("%F %T%z"), "data": None}


def _checkpoint(folder: Path, resume: str | None) -> Path | None:
    """Where to go on."""
    if resume is None:
        return None
    if resume == "auto":
        return checkpoints.newest(folder / "checkpoints")
    if not Path(resume).is_dir():
        raise ConfigError(f"--resume {resume}: no such folder; give a checkpoint, or auto for the newest one")
    if (why := checkpoints.fault(Path(resume))) is not None:
        raise CheckpointError(
            f"{resume} cannot be gone on from: {why}. --resume auto takes the newest whole one"
        )
    return Path(resume)


def _compare(folder: RunFolder, config: RunConfig, resume: str, last: Path | None, display: Display) -> None:
    """Refuse to go on with a run under settings that it was not made with; say what else is new."""
    origins = {folder.path / "config.yaml"} if folder.has_run() else set()
    if last is not None and resume != "auto":
        origins.add(last.absolute().parents[1] / "config.yaml")
    said: dict[str, None] = {}
    for saved in sorted(origins):
        if saved.is_file():
            said |= dict.fromkeys(changes.compare(saved, config, str(last or folder.path)))
    if last is not None and (done := checkpoints.read(last).step) > config.train.steps:
        raise ConfigError(
            f"train.steps={config.train.steps}, but {last} was trained for {done} steps already; ask for "
            f"{done} or more, or name an earlier checkpoint with --resume"
        )
    if said:
        display.say(f"with changed settings: {', '.join(said)}")


def _prepared(
    config: RunConfig,
    folder: RunFolder,
    last: Path | None,
    state: PartialState,
    display: Display,
    stop: Stop,
    beats: Heartbeats,
) -> tuple[ConstrainedGRPOTrainer | None, Setup, PreTrainedTokenizerBase]:
    """Data, rewards, policy and servers of a run; no trainer where nothing is left to train."""
    beats.wait_for("data")  # the first process builds the tables
    setup = prepare_setup(config, display)
    check_training(config, setup.task.split("train").height, state.num_processes)
    if state.is_main_process:
        _same_data(folder, config, setup)
    beats.reached("data")
    model, tokenizer = _warmed(setup, state, stop, beats)
    if last is not None and checkpoints.read(last).step >= config.train.steps:
        return None, setup, tokenizer
    trainer = _trainer(setup, model, tokenizer)
    if last is None and config.optimizer.reference.prompts:
        trainer.duals.start_from(_reference_multipliers(setup, model, tokenizer, state))
    return trainer, setup, tokenizer


def _same_data(folder: RunFolder, config: RunConfig, setup: Setup) -> None:
    """The tables are those that the run began with; from now on the folder says which and with what settings.

    Raises:
        ConfigError: they changed, though their settings did not.
    """
    about = folder.saved() or _about()
    known, now = about.get("data"), setup.task.fingerprint
    if known not in (None, now):
        raise ConfigError(
            f"data.source={config.data.source} has changed since {folder.path} began (tables {known}, now "
            f"{now}); restore it, or start anew with --fresh or another output=..."
        )
    folder.open(config, {**about, "data": now})


def _optimise(setup: Setup, trainer: ConstrainedGRPOTrainer, last: Path | None, stop: Stop) -> None:
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
            trainer.train(resume_from_checkpoint=str(last) if last is not None else None)
    finally:
        if trainer.rollouts is not None:
            trainer.rollouts.close()
    if interrupt.agreed is not None:
        stop.received = interrupt.agreed
        stop.check(f"after step {trainer.state.global_step}")


def _evaluate_run(setup: Setup, tokenizer: PreTrainedTokenizerBase, stop: Stop) -> None:
    folder = setup.folder
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
    episodes = test_episodes(task, config.evaluation)
    rows = setup.rows(episodes)
    sampling = config.train.sampling(tokenizer, setup.answer_tokens(tokenizer))
    answers: dict[str, Answers] = {}
    for name, path in policies.items():
        model, _ = policy.load(config.policy.model_copy(update={"model": str(path)}))
        identity = json.dumps(
            [
                *(fingerprint(file) for file in sorted(path.glob("*.safetensors"))),
                *(task.fingerprint, config.task.model_dump(), config.evaluation.model_dump(), str(sampling)),
                *(config.seed, version("recrl")),
            ]
        )

        def kept(stage: str, name: str = name, identity: str = identity) -> Kept:
            key = hashlib.sha256(identity.encode()).hexdigest()
            return Kept(setup.folder / _ANSWERS / f"{name}, {stage}.json", key, urgent=stop.wished)

        with setup.display.stage(f"evaluating the {name} policy", 2 * len(rows)) as advance:

            def on_batch(stage: str, done: int, advance: Any = advance, name: str = name) -> None:
                advance(done + (len(rows) if stage == "deployed" else 0))
                stop.check(f"while the {name} policy was evaluated")

            with stop.deferred():
                answers[name] = answer(
                    model,
                    tokenizer,
                    rows,
                    task.catalog,
                    setup.engine,
                    config.problem(),
                    config.task.slots,
                    sampling,
                    config.evaluation,
                    config.seed + _EVALUATION_SEED,
                    kept=kept,
                    on_batch=on_batch,
                )
        stop.check(f"after the {name} policy was evaluated")
    result = evaluation(
        task,
        episodes,
        answers,
        config.problem(),
        config.novelty_floor,
        setup.embeddings,
        config.evaluation.decoding,
    )
    examples = report.examples(task, episodes, rows, answers)
    write(setup.folder / "examples.json", json.dumps(examples, indent=1, ensure_ascii=False))
    write(setup.folder / "evaluation.json", json.dumps(result, indent=1))
    shutil.rmtree(setup.folder / _ANSWERS, ignore_errors=True)
    return result


def _check_shared(folder: Path, state: PartialState) -> None:
    """All processes see the same run folder.

    Raises:
        ConfigError: one of them does not.
    """
    word = broadcast_object_list([secrets.token_hex(8)])[0]
    mark = folder / f".seen-{word}"
    try:
        if state.is_main_process:
            mark.touch()
        state.wait_for_everyone()
        blind = [name for name in gather_object([None if mark.exists() else socket.gethostname()]) if name]
    finally:
        if state.is_main_process:
            mark.unlink(missing_ok=True)
    if blind:
        raise ConfigError(
            f"output={folder} of the first process is not seen from {', '.join(sorted(set(blind)))}; put "
            "the run on a file system that all machines share"
        )


def _warmed(
    setup: Setup, state: PartialState, stop: Stop, beats: Heartbeats
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The policy after the warm start: from ``warm/`` when that is there, else made by the first process."""
    config, warm = setup.config, setup.folder / "warm"
    if state.is_main_process and not (warm / "config.json").exists():
        set_seed(config.seed)
        rows = setup.training_rows
        model, tokenizer = policy.load(
            config.policy,
            tags=setup.task.catalog.tags,
            # The first line of a message is its role, as in the chat template.
            texts=["\n".join(f"{m['role']}\n{m['content']}" for m in row["prompt"]) for row in rows[:2000]],
            seed=config.seed,
        )
        check_lengths(config, rows, model, tokenizer, setup.answer_tokens(tokenizer))
        setup.task.catalog.save(setup.folder / "catalog.json")
        if config.warm_start.steps:
            _warm_up(setup, model, tokenizer, stop)
        save_policy(model, tokenizer, warm)
        shutil.rmtree(setup.folder / _WARMING, ignore_errors=True)
    beats.reached("warm")
    beats.wait_for("warm")
    state.wait_for_everyone()
    set_seed(config.seed)
    return policy.load(config.policy.model_copy(update={"model": str(warm)}))


def _warm_up(setup: Setup, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop: Stop) -> None:
    """The supervised steps; a stopped run goes on with them from their own checkpoint."""
    config = setup.config
    log = StepLog(setup.folder / "warm_start.jsonl")
    with setup.display.stage("warm start", config.warm_start.steps) as advance, stop.deferred():

        def on_step(step: int, loss: float) -> None:
            log.append(step, {"loss": loss})
            advance(step, f"loss {loss:.3f}")

        try:
            warm_start(
                model,
                tokenizer,
                setup.training_rows,
                setup.task.catalog,
                config.task.slots,
                config.warm_start,
                config.seed + _WARM_START_SEED,
                on_step,
                checkpoint=setup.folder / _WARMING,
                stop=stop.wished,
            )
        except StoppedWarmStart as stopped:
            stop.check(f"after step {stopped.step} of the warm start")
            raise
    stop.check("after the warm start")


def _trainer(
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
    )


def _reference_multipliers(
    setup: Setup, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, state: PartialState
) -> torch.Tensor:
    """Multipliers from samples of the warm start, zero where they are refused; the first process finds
    them."""
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
