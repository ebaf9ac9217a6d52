"""Validation while a run trains: every so many steps the policy answers the validation split.

``validation.jsonl``  one line for each validation
``best/step-N/``      the best policy so far, which in the end is the run's
"""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedTokenizerBase, TrainerCallback

from ...rl import policy
from ...rl.distributed.processes import unsharded
from ...rl.evaluation.settings import EvaluationConfig
from ...rl.evaluation.validation import merit, validated
from ...rl.policy.loading import placed
from ...rl.trainer.constrained import ConstrainedGRPOTrainer
from .callbacks import StepLog, read_steps
from .setup import Setup

LOG, BEST = "validation.jsonl", "best"
# Seed of the sampled answers, apart from those of other parts of a run.
_SEED = 4


class Validation(TrainerCallback):
    """Validates the policy every ``evaluation.every`` steps and after the last one.

    Args:
        first: Number of steps of the checkpoint that a run goes on from; what came later is made again.
    """

    def __init__(
        self, setup: Setup, trainer: ConstrainedGRPOTrainer, tokenizer: PreTrainedTokenizerBase, first: int
    ) -> None:
        self._setup, self._trainer, self._tokenizer = setup, trainer, tokenizer
        self._log = StepLog(setup.folder / LOG)
        self._rows = setup.task.rows("validation", setup.config.evaluation.validation_episodes)
        self._best: Mapping[str, Any] | None = None
        if trainer.accelerator.is_main_process:
            self._log.begin(first + 1)
            found = read_steps(setup.folder / LOG)
            # Two are there if the process was killed between them.
            steps = {step for path in _kept(setup.folder) if (step := _step(path)) <= first}
            self._keep(max((one for one in found if one["step"] in steps), key=merit, default=None))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Validate, and stop where the last ``evaluation.patience`` validations brought nothing better."""
        config, step = self._setup.config.evaluation, state.global_step
        if step % config.every and step != state.max_steps:
            return
        self._trainer.save_policy(_folder(self._setup.folder, step))
        if self._trainer.accelerator.is_main_process:
            found = self._validate(step)
            figures = {f"validation/{name}": one["mean"] for name, one in found["metrics"].items()}
            figures |= {f"validation/slack/{name}": one["mean"] for name, one in found["constraints"].items()}
            # Not by the log of the trainer, which is still to come and would lose the figures of the step.
            due = control.should_log
            self._trainer.callback_handler.on_log(args, state, control, figures)
            control.should_log = due
        over = broadcast_object_list([over_patience(self._setup.folder, config)])[0]
        if over and step < state.max_steps:
            control.should_save = control.should_training_stop = True

    def _validate(self, step: int) -> dict[str, Any]:
        setup, started = self._setup, time.perf_counter()
        config = setup.config
        # The training goes on as without a validation.
        with torch.random.fork_rng(), unsharded():
            model, _ = policy.load(config.policy.at(_folder(setup.folder, step)))
            model = placed(model, config.policy)
            found = validated(
                model,
                self._tokenizer,
                setup.task,
                self._rows,
                setup.engine,
                config.problem(),
                config.train.sampling(self._tokenizer, setup.answer_tokens(self._tokenizer)),
                config.evaluation,
                config.seed + _SEED,
            )
        found = {"episodes": len(self._rows), **found, "seconds": time.perf_counter() - started}
        self._log.append(step, found)
        self._log.sync()
        found = {"step": step, **found}
        chosen = found if self._best is None or merit(found) > merit(self._best) else self._best
        self._keep(chosen)
        setup.display.say(f"validation after step {_told(found)}; best: step {chosen['step']}")
        return found

    def _keep(self, chosen: Mapping[str, Any] | None) -> None:
        """Make one validation the best, and remove the policies of all others."""
        self._best = chosen
        for folder in _kept(self._setup.folder):
            if chosen is None or _step(folder) != chosen["step"]:
                shutil.rmtree(folder)


def best_policy(folder: Path) -> Path | None:
    """Folder of the best policy of a run; None where none was validated."""
    return max(_kept(folder), key=_step, default=None)


def over_patience(folder: Path, config: EvaluationConfig) -> bool:
    """Whether the last ``evaluation.patience`` validations of a run brought nothing better; never with 0."""
    chosen = best_policy(folder)
    if chosen is None or not config.patience:
        return False
    return sum(one["step"] > _step(chosen) for one in read_steps(folder / LOG)) >= config.patience


def _kept(folder: Path) -> list[Path]:
    return list((folder / BEST).glob("step-*"))


def _step(policy: Path) -> int:
    return int(policy.name.removeprefix("step-"))


def _folder(run: Path, step: int) -> Path:
    return run / BEST / f"step-{step}"


def _told(found: Mapping[str, Any]) -> str:
    """One validation in a line."""
    missed = [name for name, slack in found["constraints"].items() if slack["high"] < 0]
    bounds = f"{' and '.join(missed)} missed" if missed else "bounds met"
    value = found["metrics"][found["headline"]]["mean"]
    return f"{found['step']}: {found['headline']} {value:.4f}, {bounds}"
