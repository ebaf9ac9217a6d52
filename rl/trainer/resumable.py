"""``ResumableGRPOTrainer``: TRL's GRPO whose interrupted and resumed runs equal the uninterrupted one.

These private steps of TRL 1.16 and transformers are extended:

``_get_train_sampler``             an epoch has the order that it has in an uninterrupted run
``_save_checkpoint``               written aside, renamed when whole: :mod:`recrl.rl.distributed.checkpoints`
``_get_output_dir``                leads aside meanwhile
``_prepare_for_training``          ``_restore`` fills what was prepared, and what each rank knows
``_load_from_checkpoint``          reads weights, of adapters too: no code in a file runs
``_load_rng_state``                reads random states: no code in a file runs

Beyond what transformers saves (weights, optimiser, scheduler, random states) a checkpoint holds for each rank
the number of micro-steps and, where a generation batch serves several optimiser steps, that batch.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, broadcast_object_list, gather_object, send_to_device
from torch.utils.data import Sampler
from transformers.integrations.deepspeed import deepspeed_load_checkpoint
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import RepeatSampler

from ...envs.storage import sealed, states
from ..distributed import checkpoints
from ..distributed.checkpoints import ASIDE, CheckpointError, Manifest, reading
from ..policy import adapters
from ..policy.loading import save_policy
from .averaging import WeightAverage

logger = logging.getLogger(__name__)


class ResumableGRPOTrainer(GRPOTrainer):
    """TRL's trainer with exact resumes.

    Subclasses extend ``rank_state`` and ``load_rank_state``, and ``save_shared`` and ``load_shared``.
    """

    # Types that TRL's attributes have after its constructor; it declares them wider.
    args: GRPOConfig
    model: torch.nn.Module
    num_generations: int
    num_generations_eval: int
    _buffered_inputs: Any

    _aside: Path | None = None
    average: WeightAverage | None = None

    def average_weights(self, share: float) -> None:
        """Average the weights over the last steps, for :meth:`save_policy`.

        Args:
            share: Share of the steps, 0 to 1; 0 keeps the last weights.

        Raises:
            ValueError: FSDP shards the policy.
        """
        if not share:
            return
        if self.is_fsdp_enabled:
            raise ValueError(
                f"train.average={share} cannot read a policy that FSDP shards; train with DeepSpeed ZeRO or "
                "DDP, or set train.average=0"
            )
        self.average = WeightAverage(share, self.accelerator)
        self.add_callback(self.average)

    def rank_state(self) -> dict[str, Any]:
        """State that this rank alone knows, of types that :mod:`recrl.envs.storage.states` writes."""
        reused = self._step % self._micro_steps_per_generation != 0
        return {
            "micro_step": self._step,
            "batch": self._buffered_inputs if reused else None,
            "beta": self.beta,
        }

    def load_rank_state(self, state: dict[str, Any], manifest: Manifest) -> None:
        """Restore ``rank_state``.

        Args:
            state: State of this rank; of one of theirs if another number of processes wrote the checkpoint.
        """
        # TRL counts micro-steps from 0 after a resume, and would take the wrong part of a batch.
        self._step = state["micro_step"]
        self.beta = state["beta"]
        if state["batch"] is None:
            return
        if manifest.processes == self.accelerator.num_processes:
            self._buffered_inputs = send_to_device(state["batch"], self.accelerator.device)
        else:
            logger.warning(
                "%d processes wrote the checkpoint in the middle of a generation batch; %d sample it anew",
                manifest.processes,
                self.accelerator.num_processes,
            )

    def save_shared(self, folder: Path) -> None:
        """Write the state that all ranks share; called on the first one."""
        if self.average is not None:
            self.average.save(folder)

    def load_shared(self, folder: Path) -> None:
        """Restore the state that all ranks share, on every rank."""
        if self.average is not None:
            self.average.load(folder)

    def save_policy(self, folder: Path) -> None:
        """Write the policy as :func:`recrl.rl.policy.loading.save_policy` does; called on every rank.

        Its weights are the average, once there is one.
        """
        shared = self.strategy in ("zero3", "fsdp")
        weights = self.accelerator.get_state_dict(self.model_wrapped) if shared else None
        if self.args.should_save:
            model: Any = self.accelerator.unwrap_model(self.model)
            tokenizer: Any = self.processing_class
            if self.average is not None and self.average.steps:
                weights = self.average.replace(model, weights or model.state_dict())
            save_policy(model, tokenizer, folder, weights)
        self.accelerator.wait_for_everyone()

    def train(self, resume_from_checkpoint: str | bool | None = None, *arguments: Any, **options: Any) -> Any:
        """Train.

        Args:
            resume_from_checkpoint: Folder of a checkpoint; True is the newest whole one.

        Raises:
            CheckpointError: these processes cannot go on from it, or one could not be written.
        """
        chosen: Any = resume_from_checkpoint or None
        if chosen is True:
            chosen = checkpoints.newest(Path(str(self.args.output_dir)))
            if chosen is None:
                raise CheckpointError(f"{self.args.output_dir} holds no whole checkpoint; start without one")
        if self.args.should_save:
            checkpoints.tidy(Path(str(self.args.output_dir)))
        if chosen is not None:
            checkpoints.check(Path(chosen), self.accelerator.num_processes, self.strategy)
            chosen = str(chosen)
        return super().train(chosen, *arguments, **options)

    @property
    def strategy(self) -> str:
        """How processes share the work, see :class:`recrl.rl.distributed.checkpoints.Manifest`."""
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            plugin: Any = self.accelerator.state.deepspeed_plugin
            return f"zero{plugin.zero_stage}"
        return "fsdp" if self.is_fsdp_enabled else "replicated"

    @property
    def _micro_steps_per_generation(self) -> int:
        return (self.args.steps_per_generation or 1) * self.num_iterations

    def _get_train_sampler(self, *arguments: Any) -> Any:
        sampler = super()._get_train_sampler(*arguments)
        assert isinstance(sampler, RepeatSampler), "TRL 1.16 samples groups with it"
        batches = max(sampler.num_samples // sampler.batch_size, 1)
        return _SameOrder(sampler, lambda: self._step // self._micro_steps_per_generation // batches)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._aside) if self._aside is not None else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        started, run = time.perf_counter(), Path(self._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        aside = run / ASIDE
        try:
            self.accelerator.wait_for_everyone()
            self._aside = aside
            super()._save_checkpoint(model, trial)
            written = aside / name
            states.write(self.rank_state(), written / _rank_file(self.accelerator.process_index))
            if self.args.should_save:
                best = self.state.best_model_checkpoint
                if best is not None and Path(best).parent == aside:
                    self.state.best_model_checkpoint = str(run / name)
                    self.state.save_to_json(str(written / TRAINER_STATE_NAME))
                self.save_shared(written)
            self._publish(written, run / name, started)
        except Exception as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise CheckpointError(_explain(run, name, error)) from error
        finally:
            self._aside = None
        if self.args.should_save:
            rotate_checkpoints(str(run), self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    def _publish(self, written: Path, checkpoint: Path, started: float) -> None:
        """Every rank reads its share of the files once more; the first one gives the name."""
        self.accelerator.wait_for_everyone()
        names = broadcast_object_list([sealed.files(written)])[0]
        share = names[self.accelerator.process_index :: self.accelerator.num_processes]
        found = gather_object([sealed.seal(written, share)])
        if not self.args.should_save:
            return
        manifest = Manifest(
            step=self.state.global_step,
            processes=self.accelerator.num_processes,
            strategy=self.strategy,
            seconds=round(time.perf_counter() - started, 3),
            files={name: part[name] for part in found for name in sorted(part)},
        )
        checkpoints.publish(written, checkpoint, manifest)
        written.parent.rmdir()

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any
    ) -> tuple[Any, Any]:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        if resume_from_checkpoint is not None:
            self._restore(Path(resume_from_checkpoint))
        return prepared

    def _restore(self, folder: Path) -> None:
        """Restore what transformers would here, with an error for each part, and what it does not know."""
        manifest, name = checkpoints.read(folder), str(folder)
        if self.is_deepspeed_enabled:
            with reading(folder, "shards (global_step*)"):
                # Adapters come without the weights that they adapt.
                strict = not adapters.has_adapters(self.model)
                deepspeed_load_checkpoint(self.model_wrapped, name, load_module_strict=strict)
        elif self.is_fsdp_enabled:
            self._load_from_checkpoint(name, self.model_wrapped)
        with reading(folder, "optimizer.pt, scheduler.pt"):
            self._load_optimizer_and_scheduler(name)
        with reading(folder, "scaler.pt"):
            self._load_scaler(name)
        with reading(folder, "what all processes know"):
            self.load_shared(folder)
        with reading(folder, "what a process knows"):
            state = _rank_state(folder, self.accelerator.process_index % manifest.processes)
            self.load_rank_state(state, manifest)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        policy: Any = self.model if model is None else model
        with reading(resume_from_checkpoint, "weights"):
            # If a reference is kept beside the adapters, transformers would read that alone.
            if adapters.has_adapters(policy):
                adapters.restore(policy, Path(resume_from_checkpoint))
            else:
                super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading(checkpoint, "random states (rng_state*.pth)"):
            super()._load_rng_state(checkpoint)


class _SameOrder(Sampler[int]):
    """TRL's order of the prompts, unchanged in the epoch in which a resumed run starts.

    TRL draws one order an epoch from a generator, which a resumed run would start anew.

    Args:
        epoch: Function that gives the number of the epoch that is about to begin.
    """

    def __init__(self, sampler: RepeatSampler, epoch: Callable[[], int]) -> None:
        self.sampler, self.epoch = sampler, epoch

    def __iter__(self) -> Iterator[int]:
        if self.sampler.shuffle and self.sampler.seed is not None:
            self.sampler.generator.manual_seed(self.sampler.seed)
            for _ in range(self.epoch()):
                torch.randperm(self.sampler.num_samples, generator=self.sampler.generator)
        yield from self.sampler

    def __len__(self) -> int:
        return len(self.sampler)


def _rank_file(rank: int) -> str:
    return f"trainer-rank{rank}"


def _rank_state(folder: Path, rank: int) -> Any:
    """State of a rank in a checkpoint; earlier versions wrote it by torch."""
    stem = folder / _rank_file(rank)
    earlier = stem.with_name(f"{stem.name}.pt")
    if earlier.is_file():
        return torch.load(earlier, map_location="cpu", weights_only=True)
    return states.read(stem)


def _explain(run: Path, name: str, error: Exception) -> str:
    free, said = shutil.disk_usage(run).free / 2**30, " ".join(str(error).split())
    kept = sorted(path.name for path in run.glob(f"{PREFIX_CHECKPOINT_DIR}-*"))
    return (
        f"{run / name} could not be written: {type(error).__name__}: {said}. {free:.2f} GiB are free there. "
        f"Whole checkpoints are left as they were ({', '.join(kept) or 'none yet'}); make room, and go on "
        "with --resume auto"
    )
