"""``SharedPrefixGRPOTrainer``: TRL's GRPO that reads each prompt once and says where the time goes.

These private steps of TRL 1.16 are replaced:

``_get_per_token_logps_and_entropies``  reads each prompt once for all its completions
                                        (:mod:`recrl.rl.prefix.packing`)
``_generate_single_turn``               prefills each prompt once (:mod:`recrl.rl.decoding.generate`), or asks
                                        a rollout engine (:mod:`recrl.rl.rollouts`)
``_prepare_inputs``                     shuffles groups, not samples
``_tokenize_prompts``                   tokenises each prompt once
``_get_dataloader``                     leaves the rows where they are
``create_model_from_path``              loads the reference whole (:mod:`recrl.rl.trainer.references`)

``_generate``, ``_calculate_rewards`` and ``training_step`` are only timed (:mod:`recrl.rl.trainer.timing`).
``tests/rl/prefix/test_sharing.py`` holds them against the installed TRL.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import DataLoaderShard
from accelerate.utils import gather
from datasets import Dataset, IterableDataset
from torch import Tensor
from transformers import PreTrainedModel
from trl import GRPOConfig
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import split_tensor_dict

from ..decoding.generate import generate
from ..optimizer.groups import permute_groups
from ..prefix import attention
from ..prefix.packing import backbone, score, without_adapters
from ..prefix.settings import Kernel, PrefixSharing
from ..prefix.sharing import Sharing, attempt, disagreement, precision
from ..rollouts.asking import RolloutClient
from ..rollouts.base import RolloutEngine
from ..sampling import Sampling
from . import references
from .preconditions import check_groups, check_lengths
from .resumable import ResumableGRPOTrainer
from .timing import Part, StepClock

logger = logging.getLogger(__name__)


class SharedPrefixGRPOTrainer(ResumableGRPOTrainer):
    """TRL's trainer with TRL's results, sooner.

    Args:
        prefix_sharing: Whether each prompt is read once per group, in rollouts and in forward passes:
            ``auto`` where it pays, ``on`` wherever it is exact, ``off`` never.
        prefix_attention: Attention of a packed row, see :class:`recrl.rl.prefix.layouts.Packed`.
        rollouts: Engine that samples the answers instead of the trainer; it is handed the weights whenever
            they have changed.
        correct_rollouts: Whether to weigh tokens by how much likelier the policy finds them than the engine
            did (TRL's ``vllm_importance_sampling_*`` settings).
        model, reward_funcs, args, train_dataset, trls, options: Parameters of TRL.

    Attributes:
        sharing: Whether prompts are shared, and why not.
        clock: Seconds of each part of a step; logged as ``time/*``.

    Raises:
        ValueError: groups would straddle ranks, or a prompt does not fit the model's window.
    """

    _sharing_checked = True  # until the constructor has found a policy to try it on

    def __init__(
        self,
        model: str | PreTrainedModel,
        reward_funcs: Any = None,
        args: GRPOConfig | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        *trls: Any,
        prefix_sharing: PrefixSharing = "auto",
        prefix_attention: Kernel = "split",
        rollouts: RolloutEngine | None = None,
        correct_rollouts: bool = False,
        **options: Any,
    ) -> None:
        args = args or default_arguments(model)
        check_groups(args)
        if rollouts is not None and (options.get("tools") or options.get("environment_factory")):
            raise ValueError(
                "rollout.engine answers in one turn; leave tools and environment_factory out, or leave the "
                "rollouts to TRL (rollout.engine=transformers)"
            )
        with references.loaded_like(model):
            super().__init__(model, reward_funcs, args, train_dataset, *trls, **options)
        policy = without_adapters(self.accelerator.unwrap_model(self.model))
        if not self._is_vlm:
            check_lengths(self.args, train_dataset, policy, self._tokenizer)
        self.sharing = Sharing(policy, prefix_sharing, prefix_attention)
        if self.ref_model is not None and self.sharing.reason is None:
            attention.install(self.accelerator.unwrap_model(self.ref_model))
        self._sharing_checked = False
        self.rollouts = rollouts
        self._client = None if rollouts is None else RolloutClient(rollouts, self.model, self.accelerator)
        if rollouts is not None and correct_rollouts:
            # TRL corrects, and logs, what it takes for its own vLLM.
            self.use_vllm, self.vllm_mode = True, "server"
        self.clock = StepClock(self._metrics)
        self.add_callback(self.clock)

    def timed(self, part: Part) -> AbstractContextManager[None]:
        """Count what runs inside as a part of a training step; an evaluation is not counted, nor what a
        trainer does before its constructor has ended."""
        counted = self.model.training and hasattr(self, "clock")
        return self.clock.part(part) if counted else nullcontext()

    def _calculate_rewards(self, *arguments: Any) -> Tensor:
        with self.timed("rewards"):
            return super()._calculate_rewards(*arguments)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **multimodal: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        with nullcontext() if torch.is_grad_enabled() else self.timed("old_and_reference"):
            if (
                compute_aux_loss
                or not self.sharing.understood
                or any(value is not None for value in multimodal.values())
            ):
                return super()._get_per_token_logps_and_entropies(
                    model,
                    input_ids,
                    attention_mask,
                    logits_to_keep,
                    batch_size=batch_size,
                    compute_entropy=compute_entropy,
                    compute_aux_loss=compute_aux_loss,
                    **multimodal,
                )
            width = input_ids.shape[1] - logits_to_keep
            group = self.num_generations if self.model.training else self.num_generations_eval
            # A micro-batch may hold a part of a group only; every rank makes as many forward passes as the
            # others.
            neighbours = math.gcd(batch_size or len(input_ids), len(input_ids), group)
            copies = self.sharing.copies(width, logits_to_keep, neighbours)
            found = [
                self._score(model, ids, mask, width, copies)
                for ids, mask in zip(
                    input_ids.split(batch_size or len(input_ids)),
                    attention_mask.split(batch_size or len(input_ids)),
                    strict=True,
                )
            ]
            entropies = torch.cat([entropy for _, entropy in found]) if compute_entropy else None
            return torch.cat([logps for logps, _ in found]), entropies, None

    def _score(self, model: Any, ids: Tensor, mask: Tensor, prompt: int, copies: int) -> tuple[Tensor, Any]:
        """Log-probabilities and entropies of completions behind ``prompt`` columns."""
        with self.accelerator.autocast():
            return score(
                model,
                backbone(self.accelerator.unwrap_model(model)),
                (ids[:, :prompt], mask[:, :prompt]),
                (ids[:, prompt:], mask[:, prompt:]),
                copies,
                self.sharing.kernel,
            )

    def _check_sharing(self, prompts: list[Any]) -> None:
        """Compare shared with full rows on the longest prompt of each rank's first batch, before anything is
        sampled; share nothing if they differ."""
        self._sharing_checked = True
        if self.sharing.reason is not None:
            return
        asked = max(self._tokenize_prompts(prompts)[0], key=len)
        with self._for_generation() as policy, self.accelerator.autocast():
            base = without_adapters(policy)
            found, why = attempt(base, asked, self.sharing.kernel)
            dtype = precision(base)
        # Every rank hears of the worst.
        figures = torch.stack([found.mean(), found.max()])[None].to(self.accelerator.device)
        mean, largest = (column.max().item() for column in gather(figures).T)
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["prefix/first_batch_difference"].append(mean)
        if why := why or disagreement(mean, dtype):
            self.sharing.refuse(f"on the first batch {why}")
        else:
            logger.info("prefix sharing: %.1e nats off on average, %.1e at most", mean, largest)

    def _get_dataloader(self, *arguments: Any, **options: Any) -> Any:
        loader = super()._get_dataloader(*arguments, **options)
        # Rows are texts and numbers for the rewards: a search for tensors to move took longer than they did.
        if isinstance(loader, DataLoaderShard):
            loader.device = None
        return loader

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        with self.clock.part("other"):
            # TRL shuffles samples; a group has to stay together, so groups are shuffled.
            if not self.model.training or self._is_vlm:
                return super()._prepare_inputs(generation_batch)
            steps = self.args.steps_per_generation or 1
            if self._step % self._micro_steps_per_generation == 0 or self._buffered_inputs is None:
                batch = self._generate_and_score_completions(generation_batch)
                self._buffered_inputs = split_tensor_dict(permute_groups(batch, self.num_generations), steps)
            return self._buffered_inputs[self._step % steps]

    def _generate(self, prompts: Any) -> Any:
        if not self._sharing_checked:
            self._check_sharing(prompts)
        with self.timed("rollout"):
            return super()._generate(prompts)

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        """Tokenise each distinct prompt once."""
        if self._is_vlm or self.environment_factories is not None:
            return super()._tokenize_prompts(prompts)
        keys = [repr(prompt) for prompt in prompts]
        distinct = dict(zip(keys, prompts, strict=True))
        ids, images, more = super()._tokenize_prompts(list(distinct.values()))
        if more:
            return super()._tokenize_prompts(prompts)
        by_key = dict(zip(distinct, ids, strict=True))
        return [by_key[key] for key in keys], images, more

    def _generate_single_turn(
        self,
        prompt_ids: Any,
        images: Any,
        multimodal_fields: Any,
        num_generations: int,
        has_tool_images: bool = False,
    ) -> Any:
        if self._client is not None:
            if images or multimodal_fields:
                raise ValueError("a rollout engine answers texts only; leave rollouts of images to TRL")
            return self._roll_out(self._client, prompt_ids)
        if images or multimodal_fields or not self._generates_itself:
            return super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images
            )
        with self._for_generation() as policy:
            answers = generate(policy, prompt_ids, self._sampling, on_answered=self.answered)
        return answers, None

    def sample(self, prompts: list[Any]) -> tuple[Any, Any, Any]:
        """Sample one answer to each prompt as a step does; for rollout functions of several turns, which call
        it equally often on every rank.

        Returns:
            Token ids of the prompts and of the answers, and the answers' log-probabilities where an engine
            says them, else None.
        """
        asked, images, more = self._tokenize_prompts(prompts)
        return asked, *self._generate_single_turn(asked, images, more, 1)

    def answered(self, members: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
        """React to the answers to one prompt, once all are there; those to others may not be.

        Args:
            members: Their samples of this rank's batch.
            tokens: Token ids of each.
        """

    @property
    def _sampling(self) -> Sampling:
        return Sampling(
            max_tokens=self.args.max_completion_length or 0,
            ends=tuple(self.eos_token_ids),
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k or 0,
            min_p=self.min_p or 0.0,
        )

    def _roll_out(self, client: RolloutClient, prompt_ids: list[list[int]]) -> Any:
        """Tokens and log-probabilities of an engine that holds the current weights, in the prompts' order."""
        step = self.state.global_step
        if client.outdated(step):
            with self.timed("weight_sync"):
                client.hand_over(step)
        answers = client.ask(prompt_ids, self._sampling, self.answered)
        differences = client.compare(
            prompt_ids,
            answers,
            self._sampling,
            lambda *row: self._get_per_token_logps_and_entropies(self.model, *row)[0],
        )
        mode = "train" if self.model.training else "eval"
        for name, value in differences.items():
            self._metrics[mode][f"rollout/{name}"].append(value)
        return [list(answer.tokens) for answer in answers], [list(answer.logprobs) for answer in answers]

    @contextmanager
    def _for_generation(self) -> Iterator[Any]:
        """The policy without wrappers, whole on every rank, in evaluation mode."""
        checkpointing: Any = self.args.gradient_checkpointing_kwargs
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gather_deepspeed3_params=self.args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=checkpointing,
        ) as policy:
            training = policy.training
            policy.eval()
            yield policy
            policy.train(training)

    @property
    def _generates_itself(self) -> bool:
        """Whether rollouts prefill each prompt once; other engines and options are TRL's."""
        args = self.args
        return (
            self.sharing.reason is None
            and not (self.use_vllm or self.use_transformers_continuous_batching or self.tools)
            and not args.generation_kwargs
            and args.repetition_penalty == 1.0
            and args.cache_implementation is None
            and not self.is_fsdp_enabled
            and (args.ds3_gather_for_generation or not self._sharded)
        )

    @property
    def _sharded(self) -> bool:
        """Whether the weights are spread over ranks (ZeRO-3)."""
        plugin = self.accelerator.state.deepspeed_plugin if self.is_deepspeed_enabled else None
        return plugin is not None and plugin.zero_stage == 3

    def training_step(self, *inputs: Any, **options: Any) -> Tensor:
        with self.clock.part("forward_backward"):
            loss = super().training_step(*inputs, **options)
        self.clock.rest("optimizer_step")
        return loss


def default_arguments(model: str | PreTrainedModel) -> GRPOConfig:
    """TRL's arguments where a script gives none: the output folder is named after the model."""
    path = model if isinstance(model, str) else str(model.config.name_or_path or "")
    return GRPOConfig(f"{Path(path).name or 'policy'}-GRPO")
