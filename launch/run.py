"""A run from configuration to report: data, warm start, constrained reinforcement learning, evaluation.

The run folder holds ``config.yaml`` (resolved), ``catalog.json``, ``warm_start.jsonl``, ``warm/`` (the
policy after the warm start, which is also the KL reference), ``metrics.jsonl``, ``checkpoints/``,
``policy/`` (the trained policy), TensorBoard events, ``evaluation.json``, ``examples.json``, ``report.md``
and ``plots/``.
"""

import json
import secrets
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from ..envs.prompts import COLUMNS, prompted_rows
from ..envs.task import TagTask, prepare
from ..rewards import RewardEngine
from ..rewards.binding import LIVE
from ..rl import checkpoints, policy
from ..rl.evaluate import Answers, answer, evaluation, sample, test_episodes
from ..rl.lists import line_tokens
from ..rl.preconditions import check_segments
from ..rl.reference import describe, reference_multipliers
from ..rl.trainer import ConstrainedGRPOTrainer
from ..rl.training import distributed_state, make_trainer
from ..rl.warmstart import warm_start
from . import config as configuration
from . import report
from .config import ConfigError, RunConfig
from .preconditions import check_lengths, check_task, check_training
from .processes import EXIT_CODES, stopping
from .progress import Display
from .resources import made

# Seeds of the parts of a run, apart from one another so that changing one part leaves the others alone.
_WARM_START_SEED, _EVALUATION_SEED, _REFERENCE_SEED = 1, 2, 3


# Where a run that a signal stopped says by which; a launcher reads it, which sees of its processes only that
# they failed.
STOPPED = "stopped"


class InterruptedRunError(Exception):
    """The run was stopped by a signal after saving a checkpoint.

    Attributes:
        code: For the process to exit with, see ``EXIT_CODES``.
    """

    def __init__(self, message: str, number: signal.Signals) -> None:
        super().__init__(message)
        self.code = EXIT_CODES[number]


@dataclass(frozen=True)
class Setup:
    """What every stage of a run shares."""

    config: RunConfig
    folder: Path
    task: TagTask
    engine: RewardEngine
    embeddings: npt.NDArray[np.float32] | None
    display: Display

    def rows(self, episodes: pl.DataFrame) -> list[dict[str, Any]]:
        return prompted_rows(
            episodes, self.task.catalog, self.config.task.slots, self.config.task.max_history
        )

    @cached_property
    def training_rows(self) -> list[dict[str, Any]]:
        """Read by the warm start and by the trainer."""
        episodes, limit = self.task.split("train"), self.config.task.max_train_episodes
        if limit is not None and limit < episodes.height:
            episodes = episodes[np.linspace(0, episodes.height - 1, limit).round().astype(int)]
        return self.rows(episodes)

    def answer_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Room for an answer that is half as long again as an average one."""
        mean = np.mean([len(tokens) for tokens in line_tokens(tokenizer, self.task.catalog)])
        return int(np.ceil(1.5 * self.config.task.slots * mean)) + 1


def train(config: RunConfig, *, resume: str | None = None, fresh: bool = False) -> Path:
    """Run everything.

    Args:
        config: The run.
        resume: ``auto`` goes on from the newest whole checkpoint of the run folder, and starts where there is
            none yet; else the folder of a checkpoint.
        fresh: Delete an existing run folder first.

    Returns:
        The run folder.

    Raises:
        ConfigError: the folder holds a run and neither ``resume`` nor ``fresh`` is given.
        CheckpointError: these processes cannot go on from the checkpoint, or one could not be written.
        InterruptedRunError: stopped by Ctrl-C or SIGTERM; the checkpoint is written.
    """
    state = distributed_state()
    display = Display(state.is_main_process)
    folder = config.folder
    with state.main_process_first():
        if state.is_main_process:
            _open_folder(config, folder, resume, fresh)
        setup = prepare_setup(config, display)
        check_training(config, setup.task.split("train").height, state.num_processes)
    _check_shared(folder, state)
    model, tokenizer = _warmed(setup, state)
    last = _checkpoint(folder, resume, state)
    if last is not None:
        display.say(f"going on from {last}")
    if last is None or checkpoints.read(last).step < config.train.steps:
        trainer = _trainer(setup, model, tokenizer)
        if last is None and config.optimizer.reference.prompts:
            trainer.duals.start_from(_reference_multipliers(setup, model, tokenizer, state))
        _optimise(setup, trainer, last)
        trainer.save_model(str(folder / "policy"))
    elif state.is_main_process:  # stopped behind its last step
        trained, _ = policy.load(config.policy.model_copy(update={"model": str(last)}))
        trained.save_pretrained(folder / "policy")
        tokenizer.save_pretrained(folder / "policy")
    if state.is_main_process:
        # From the folder, and whole: under ZeRO-3 each process holds a part, and would load one.
        unset_hf_deepspeed_config()
        evaluate(setup, {"warm start": folder / "warm", "trained": folder / "policy"}, tokenizer)
        report.write(folder)
        display.say(f"report: {folder / 'report.md'}")
    state.wait_for_everyone()
    return folder


def _optimise(setup: Setup, trainer: ConstrainedGRPOTrainer, last: Path | None) -> None:
    """Reinforcement learning, from a checkpoint or from the warm start."""
    config, folder = setup.config, setup.folder
    interrupt = _Interrupt(trainer)
    trainer.add_callback(interrupt)
    first = checkpoints.read(last).step if last is not None else 0
    try:
        with (
            setup.display.stage("reinforcement learning", config.train.steps) as advance,
            interrupt.listening(),
        ):
            trainer.add_callback(_Recorder(trainer, folder / "metrics.jsonl", advance, first))
            trainer.train(resume_from_checkpoint=str(last) if last is not None else None)
    finally:
        if trainer.rollouts is not None:
            trainer.rollouts.close()
    if interrupt.agreed is not None:
        if trainer.accelerator.is_main_process:
            (folder / STOPPED).write_text(interrupt.agreed.name)
        raise InterruptedRunError(
            f"{interrupt.agreed.name}: stopped after step {trainer.state.global_step}; "
            f"go on with: recrl train {folder / 'config.yaml'} --resume auto",
            interrupt.agreed,
        )


def prepare_setup(config: RunConfig, display: Display) -> Setup:
    """Data and rewards of a run."""
    task = prepare(config.data)
    check_task(config, task)
    episodes = task.split("train")
    try:
        check_segments(config.problem(), COLUMNS, episodes.__getitem__)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    resources: dict[str, Any] = {
        "catalog": task.catalog,
        "slots": config.task.slots,
        **dict.fromkeys(LIVE),
    }
    resources |= made(config, task)
    engine = RewardEngine(config.rewards, resources=resources, columns=[*COLUMNS, "completion_ids"])
    return Setup(config, config.folder, task, engine, resources.get("encoder"), display)


def evaluate(setup: Setup, policies: dict[str, Path], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Answer the test episodes with the policy of every folder; write ``evaluation.json`` and
    ``examples.json``."""
    config, task = setup.config, setup.task
    episodes = test_episodes(task, config.evaluation)
    rows = setup.rows(episodes)
    sampling = config.train.sampling(tokenizer, setup.answer_tokens(tokenizer))
    answers: dict[str, Answers] = {}
    for name, path in policies.items():
        model, _ = policy.load(config.policy.model_copy(update={"model": str(path)}))
        with setup.display.stage(f"evaluating the {name} policy", 2 * len(rows)) as advance:

            def on_batch(stage: str, done: int, advance: Any = advance) -> None:
                advance(done + (len(rows) if stage == "deployed" else 0))

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
                on_batch=on_batch,
            )
    result = evaluation(
        task,
        episodes,
        answers,
        config.problem(),
        config.novelty_floor,
        setup.embeddings,
        config.evaluation.decoding,
    )
    (setup.folder / "evaluation.json").write_text(json.dumps(result, indent=1))
    examples = report.examples(task, episodes, rows, answers)
    (setup.folder / "examples.json").write_text(json.dumps(examples, indent=1, ensure_ascii=False))
    return result


def _open_folder(config: RunConfig, folder: Path, resume: str | None, fresh: bool) -> None:
    # A start that was refused leaves nothing but its configuration.
    exists = folder.is_dir() and {path.name for path in folder.iterdir()} > {"config.yaml"}
    if resume is not None and fresh:
        raise ConfigError(f"--resume {resume} goes on with a run and --fresh deletes it; give one of them")
    if resume not in (None, "auto") and not Path(resume).is_dir():
        raise ConfigError(f"--resume {resume}: no such folder; give a checkpoint, or auto for the newest one")
    if exists and resume is None and not fresh:
        raise ConfigError(
            f"{folder} holds a run already; go on with --resume auto, replace it with --fresh, "
            "or choose another output=..."
        )
    if exists and fresh:
        shutil.rmtree(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"output={folder} cannot be made: {error.strerror}; choose another folder"
        ) from error
    (folder / STOPPED).unlink(missing_ok=True)
    (folder / "config.yaml").write_text(configuration.dump(config))


def _check_shared(folder: Path, state: PartialState) -> None:
    """All processes see the same run folder.

    Raises:
        ConfigError: one of them does not.
    """
    word = broadcast_object_list([secrets.token_hex(8)])[0]
    mark = folder / f".seen-{word}"
    if state.is_main_process:
        mark.touch()
    state.wait_for_everyone()
    blind = [name for name in gather_object([None if mark.exists() else socket.gethostname()]) if name]
    if state.is_main_process:
        mark.unlink()
    if blind:
        raise ConfigError(
            f"output={folder} of the first process is not seen from {', '.join(sorted(set(blind)))}; put "
            "the run on a file system that all machines share"
        )


def _checkpoint(folder: Path, resume: str | None, state: PartialState) -> Path | None:
    """Where to go on; the first process looks."""
    found: list[str | None] = [None]
    if state.is_main_process and resume is not None:
        chosen = checkpoints.newest(folder / "checkpoints") if resume == "auto" else Path(resume)
        found = [str(chosen) if chosen is not None else None]
    broadcast_object_list(found)
    return Path(found[0]) if found[0] is not None else None


def _warmed(setup: Setup, state: PartialState) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
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
        steps = config.warm_start.steps
        if steps:
            log = (setup.folder / "warm_start.jsonl").open("w")
            with log, setup.display.stage("warm start", steps) as advance:

                def on_step(step: int, loss: float) -> None:
                    log.write(json.dumps({"step": step, "loss": loss}) + "\n")
                    advance(step, f"loss {loss:.3f}")

                warm_start(
                    model,
                    tokenizer,
                    rows,
                    setup.task.catalog,
                    config.task.slots,
                    config.warm_start,
                    config.seed + _WARM_START_SEED,
                    on_step,
                )
        # Written aside and renamed, so that a killed save is not taken for a warm start.
        partial = warm.with_suffix(".partial")
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.rename(warm)
    state.wait_for_everyone()
    set_seed(config.seed)
    return policy.load(config.policy.model_copy(update={"model": str(warm)}))


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


class _Recorder(TrainerCallback):
    """Appends every log to ``metrics.jsonl`` and moves the display.

    Steps after a resumed checkpoint are written anew.
    """

    def __init__(self, trainer: ConstrainedGRPOTrainer, path: Path, advance: Any, first_step: int) -> None:
        self.trainer, self.path, self.advance = trainer, path, advance
        if trainer.accelerator.is_main_process and path.exists():
            # Its last line may be half a line, of a run that was killed.
            whole = path.read_text().splitlines(keepends=True)
            kept = [line for line in whole if line.endswith("\n") and json.loads(line)["step"] <= first_step]
            path.write_text("".join(kept))

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if not state.is_world_process_zero or not logs or "objective" not in logs:
            return
        rows = self.trainer.duals.report()
        statuses = {f"constraint/{row.name}/status": row.status for row in rows}
        for row in rows:
            if row.status == "infeasible_suspected":
                statuses[f"constraint/{row.name}/explanation"] = row.explanation()
        with self.path.open("a") as stream:
            stream.write(json.dumps({"step": state.global_step, **logs, **statuses}) + "\n")
        # None where no answer of the batch has a score.
        objective = "no score" if logs["objective"] is None else f"{logs['objective']:.3f}"
        self.advance(state.global_step, f"{self.trainer.problem.objective} {objective}", tuple(rows))


class _Interrupt(TrainerCallback):
    """Ctrl-C or SIGTERM: finish the step, write a checkpoint, stop. A second Ctrl-C stops at once.

    Attributes:
        agreed: The signal that all processes stop for, at the same step, whichever got it.
    """

    def __init__(self, trainer: ConstrainedGRPOTrainer) -> None:
        self.trainer = trainer
        self.agreed: signal.Signals | None = None
        self._received = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        def receive(number: int, _: Any) -> None:
            # A launcher that gets Ctrl-C as well sends SIGTERM behind it: that is no second wish.
            if number == self._received == signal.SIGINT:
                raise KeyboardInterrupt
            self._received = self._received or number

        with stopping(receive):
            yield

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        accelerator = self.trainer.accelerator
        received = torch.tensor([self._received], device=accelerator.device)
        number = int(accelerator.gather(received).max())
        if number:
            self.agreed = signal.Signals(number)
            control.should_save = control.should_training_stop = True
