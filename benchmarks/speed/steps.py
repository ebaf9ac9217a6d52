"""The training steps of a worker: its trainer, a turn at a time, and how their parts are timed.

Every kind is timed alike, from outside: the methods ``training_step``, ``_prepare_inputs`` and ``_generate``,
which all of TRL's trainers have, are wrapped on the trainer's instance.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from recrl.rl import policy
from recrl.rl.optimizer.settings import DualConfig
from recrl.rl.trainer.constrained import ConstrainedGRPOTrainer
from recrl.rl.trainer.make import make_trainer
from recrl.rl.trainer.settings import TrainConfig

from ..memory import memory
from . import workload
from .cells import KINDS, Cell
from .messages import READY, STEP, Job, Start, Step

_PARTS = "time/"
# Our trainer counts what lies between two steps as this part, and there a worker waits for its turn.
_REST = "time/other"


def take(job: Job, connection: Connection) -> None:
    """Train for ``job.steps`` steps; each waits for its turn, and is reported when it has been logged."""
    torch.set_num_threads(job.threads)
    trainer = _trainer(job)
    turns = _Turns(job, connection, trainer)
    for name in ("training_step", "_prepare_inputs", "_generate"):
        setattr(trainer, name, turns.timed(name, getattr(trainer, name)))
    trainer.add_callback(turns)
    connection.send((READY, Start(memory("VmRSS"))))
    trainer.train()
    turns.report()


class _Turns(TrainerCallback):
    """Waits for the worker's turn, times the step and reports it."""

    def __init__(self, job: Job, connection: Connection, trainer: GRPOTrainer) -> None:
        self._job, self._connection, self._trainer = job, connection, trainer
        self._seconds: dict[str, float] = defaultdict(float)
        self._began = 0.0
        self._whole: float | None = None
        self._logs: dict[str, float] = {}

    def timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """A method whose seconds count for the current step."""

        def wrapper(*arguments: Any, **options: Any) -> Any:
            started = self._now()
            found = method(*arguments, **options)
            self._seconds[name] += self._now() - started
            return found

        return wrapper

    def report(self) -> None:
        """Send the last step, if there was one."""
        if self._whole is None:
            return
        inputs = self._seconds["_prepare_inputs"]
        step = Step(
            whole=self._whole,
            rollout=self._seconds["_generate"],
            inputs=inputs,
            forward_backward=self._seconds["training_step"] - inputs,
            answer_tokens=self._logs["completions/mean_length"],
            peak=memory("VmHWM"),
            device_peak=torch.cuda.max_memory_allocated() if self._job.device == "cuda" else None,
            full_rows=_full_rows(self._job.cell, self._trainer),
            parts={k: v for k, v in self._logs.items() if k.startswith(_PARTS) and k != _REST},
        )
        self._connection.send((STEP, step))

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.report()
        try:
            self._connection.recv()
        except EOFError:  # the parent wants no more
            raise SystemExit from None
        self._seconds.clear()
        self._began = self._now()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._whole = self._now() - self._began
        control.should_training_stop = state.global_step == self._job.steps

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "completions/mean_length" in logs:  # and not the summary at the end
            self._logs = dict(logs)

    def _now(self) -> float:
        return now(self._job.device)


def _trainer(job: Job) -> GRPOTrainer:
    cell, kind = job.cell, KINDS[job.kind]
    config = policy.PolicyConfig(model=str(job.policy), dtype=workload.DTYPES[job.device])
    model, tokenizer = policy.load(config)
    tags = workload.catalog()
    # One step more than is taken: a trainer that comes to its end writes a checkpoint.
    steps = job.steps + 1
    rows = workload.prompted_rows(tokenizer, tags, steps * cell.groups, cell.prompt, job.seed)
    if not kind.stock:
        engine = workload.engine(tags)
        return make_trainer(
            model,
            tokenizer,
            rows,
            engine,
            workload.problem(engine.ranges),
            config=TrainConfig(
                steps=steps,
                prompts_per_step=cell.groups,
                group_size=cell.group_size,
                max_answer_tokens=cell.answer,
                save_every=steps,
                # These are TRL's defaults; whatever else both have is equal by default.
                learning_rate=GRPOConfig.learning_rate,
                schedule="linear",
                warmup_steps=0,
                **kind.options,
            ),
            rule="lagrangian",
            duals=DualConfig(),
            answer_tokens=cell.answer,
            output=job.output,
            seed=job.seed,
        )
    trainer = GRPOTrainer(
        model,
        workload.stock_functions(tags, cell.group_size),
        args=GRPOConfig(
            output_dir=str(job.output),
            max_steps=steps,
            per_device_train_batch_size=cell.groups * cell.group_size,
            num_generations=cell.group_size,
            max_completion_length=cell.answer,
            bf16=model.dtype == torch.bfloat16,
            use_cpu=job.device == "cpu",
            dataloader_pin_memory=job.device != "cpu",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=job.seed,
            **kind.options,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _full_rows(cell: Cell, trainer: GRPOTrainer) -> str | None:
    if not isinstance(trainer, ConstrainedGRPOTrainer):
        return "TRL's trainer"
    if trainer.sharing.copies(cell.prompt, cell.answer, cell.group_size) > 1:
        return None
    return trainer.sharing.reason or "sharing would not pay"


def now(device: str) -> float:
    """Seconds of the clock, once a GPU has done what it was asked to."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
