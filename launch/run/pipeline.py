"""A run from configuration to report: data, warm start, constrained reinforcement learning, evaluation.

The run folder holds ``run.json`` (its marker), ``config.yaml`` (resolved), ``catalog.json``,
``warm_start.jsonl``, ``warm/`` (the policy after the warm start, which is also the KL reference),
``metrics.jsonl``, ``checkpoints/``, ``validation.jsonl``, ``best/``, ``policy/`` (the trained policy),
TensorBoard events, ``evaluation.json``, ``examples.json``, ``report.md`` and ``plots/``; while they last also
``warm_start/`` (its checkpoint) and ``answers/`` (of the evaluation).

A signal may stop it at any time: every stage saves what going on needs, or takes too little time to need it.
"""

import secrets
import shutil
import socket
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from transformers import PreTrainedTokenizerBase
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from ...rl import policy
from ...rl.distributed import checkpoints
from ...rl.distributed.checkpoints import CheckpointError
from ...rl.policy.folders import holds_policy
from ...rl.policy.loading import merge
from ...rl.rollouts.make import check_served
from ...rl.trainer.constrained import ConstrainedGRPOTrainer
from ...rl.trainer.make import distributed_state
from ..config import changes
from ..config.schema import ConfigError, RunConfig
from ..signals import Stop
from .folder import HEARTBEATS, RunFolder
from .heartbeats import Heartbeats
from .preconditions import check_machine, check_training
from .probe import probe
from .progress import Display
from .setup import Setup, prepare_setup
from .stages import Policy, chosen_policy, evaluate_run, optimise, reference_start, trainer_of, warmed
from .validation import over_patience


def train(
    config: RunConfig, *, resume: str | None = None, fresh: bool = False, stop: Stop | None = None
) -> Path:
    """Run all stages.

    Args:
        config: The run.
        resume: ``auto`` goes on from the newest whole checkpoint of the run folder, and starts where there is
            none yet; else the folder of a checkpoint.
        fresh: Replace an existing run, kept until the new one has its data, policy, rewards and servers.
        stop: The signals that the process listens to; by default none.

    Returns:
        The run folder.

    Raises:
        ConfigError: the folder holds a run and neither ``resume`` nor ``fresh`` is given, is in use, or was
            made with other settings; or the machine cannot do what the configuration asks for.
        CheckpointError: these processes cannot go on from the checkpoint, or one could not be written.
        Interruption: stopped by Ctrl-C or SIGTERM; what going on needs is saved.
    """
    stop = stop or Stop()
    state = distributed_state(config.train.collective_timeout)
    check_machine(config)
    display = Display(state.is_main_process)
    folder = RunFolder(config.folder)
    with ExitStack() as ending:
        found: list[str | None] = [None]
        named: list[Policy] = []
        if state.is_main_process:
            folder.refuse_strangers()
            ending.enter_context(folder.locked())
            checkpoint, named = _open(folder, config, resume, fresh, display)
            found = [checkpoint]
        broadcast_object_list(found)
        last = Path(found[0]) if found[0] is not None else None
        # Whoever trains as a part of something larger has said already what goes on.
        stop.hint = stop.hint or f"go on with: recrl train {folder.path / 'config.yaml'} --resume auto"
        _check_shared(folder.path, state)
        beats = Heartbeats(
            folder.path / HEARTBEATS, state.process_index, state.num_processes, config.train.heartbeat
        )
        beats.start()
        ending.callback(beats.close)
        try:
            trainer, setup, tokenizer = _prepared(config, folder, last, named, state, display, stop, beats)
        except Exception:
            if fresh and state.is_main_process and folder.put_back():
                display.say(f"the run that was in {folder.path} is back")
            raise
        if state.is_main_process:
            folder.settle()
        if trainer is not None:
            optimise(setup, trainer, tokenizer, last, stop)
            if not config.evaluation.every:
                trainer.save_policy(folder.path / "policy")
        if state.is_main_process:
            # From the folder, and whole: under ZeRO-3 each process holds a part, and would load one.
            unset_hf_deepspeed_config()
            if trainer is None or config.evaluation.every:
                chosen_policy(setup, tokenizer, last)
            if config.policy.lora is not None and config.policy.lora.merge:
                merge(folder.path / "policy", config.policy)
            evaluate_run(setup, tokenizer, stop)
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
        probe(setup)
        _, tokenizer = policy.load(config.policy.at(config.folder / "warm"))
        evaluate_run(setup, tokenizer, stop)


def _open(
    folder: RunFolder, config: RunConfig, resume: str | None, fresh: bool, display: Display
) -> tuple[str | None, list[Policy]]:
    """Make the run folder ready, after all refusals.

    Returns:
        Checkpoint to go on from, and the model that the configuration names: what is wrong with that is found
        before the data are prepared. Nothing where the run has its policy, or makes it of the data.
    """
    folder.refuse(resume, fresh)
    last = _checkpoint(folder.path, resume)
    if resume is not None:
        _compare(folder, config, resume, last, display)
    check_served(config.rollout, folder.path)
    named = []
    if config.policy.model != "tiny" and (fresh or not holds_policy(folder.path / "warm")):
        named = [policy.load(config.policy, seed=config.seed)]
    folder.sweep()
    checkpoints.tidy(folder.path / "checkpoints")
    if fresh:
        folder.set_aside()
    if not folder.has_run():
        folder.open(config, _about())
    if last is not None:
        display.say(f"going on from {last}")
    return None if last is None else str(last), named


def _about() -> dict[str, Any]:
    """Content of the marker of a new run."""
    return {"recrl": version("recrl"), "started": time.strftime("%F %T%z"), "data": None}


def _checkpoint(folder: Path, resume: str | None) -> Path | None:
    """Checkpoint to go on from."""
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
    named: list[Policy],
    state: PartialState,
    display: Display,
    stop: Stop,
    beats: Heartbeats,
) -> tuple[ConstrainedGRPOTrainer | None, Setup, PreTrainedTokenizerBase]:
    """Data, rewards, policy and servers of a run; no trainer where nothing is left to train."""
    beats.wait_for("data")  # the first process builds the tables
    setup = prepare_setup(config, display)
    check_training(config, setup.task.count("train"), state.num_processes)
    if state.is_main_process:
        _same_data(folder, config, setup)
        probe(setup)
    beats.reached("data")
    model, tokenizer = warmed(setup, state, stop, beats, named)
    if last is not None and (
        checkpoints.read(last).step >= config.train.steps
        or (config.evaluation.every and over_patience(folder.path, config.evaluation))
    ):
        return None, setup, tokenizer
    trainer = trainer_of(setup, model, tokenizer)
    if last is None and config.optimizer.reference.prompts:
        trainer.duals.start_from(reference_start(setup, model, tokenizer, state))
    return trainer, setup, tokenizer


def _same_data(folder: RunFolder, config: RunConfig, setup: Setup) -> None:
    """Check that the tables are those that the run began with; note them and the settings in its folder.

    Raises:
        ConfigError: the tables changed, though their settings did not.
    """
    about = folder.saved() or _about()
    known, now = about.get("data"), setup.task.fingerprint
    if known not in (None, now):
        source = f"data.source={config.data.source}" if setup.task.data is not None else "what the task reads"
        raise ConfigError(
            f"{source} has changed since {folder.path} began (tables {known}, now "
            f"{now}); restore it, or start anew with --fresh or another output=..."
        )
    folder.open(config, {**about, "data": now})


def _check_shared(folder: Path, state: PartialState) -> None:
    """Check that all processes see the same run folder.

    Raises:
        ConfigError: a process does not.
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
