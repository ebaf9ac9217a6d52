"""The section ``train`` of a configuration, and checks of its numbers together.

``TrainConfig``   constrained GRPO
``check_split``   whether a step's answers split over processes
``check_halves``  whether groups can be halved
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, StrictBool, field_validator

from ...envs.settings import MANY, ONE, SWITCH, Between, Each, Text
from ..prefix.settings import Kernel, PrefixSharing
from ..sampling import Sampling
from .trackers import check_names
from .trl_settings import check_fields

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TrainConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Constrained GRPO."""

    steps: Annotated[int, Between(1, MANY)] = 100
    """Optimiser steps."""
    reuse: Annotated[int, Between(1, 1000)] = 1
    """Optimiser steps on each generation batch; the clipped ratio of PPO keeps them close to it."""
    prompts_per_step: Annotated[int, Between(1, 1_000_000)] = 24
    """Prompts of a step, over all processes."""
    group_size: Annotated[int, Between(2, 100_000)] = 8
    """Answers sampled for each prompt."""
    micro_batches: Annotated[int, Between(1, 100_000)] = 1
    """Forward-backward passes that a process splits its share of a step into: less memory, same result."""
    learning_rate: Annotated[float, Between(0, 1)] = 1e-4
    """Peak of AdamW's learning rate."""
    schedule: Literal["constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    """Learning rate after the warm-up; a decay calms the last steps."""
    average: Annotated[float, Between(0, 1)] = 0.0
    """Share of the steps, the last ones, whose weights are averaged into the policy; 0 takes the last."""
    warmup_steps: Annotated[int, Between(0, MANY)] = 5
    """Steps of linear warm-up."""
    max_grad_norm: Annotated[float, Between(0, 1e6)] = 1.0
    """Clipping of the gradient's norm; 0 leaves it as it is."""
    temperature: Annotated[float, Between(0.01, 100)] = 1.0
    """Sampling temperature of the rollouts."""
    top_p: Annotated[float, Between(0.001, 1)] = 1.0
    """Nucleus of the rollouts' sampling."""
    max_answer_tokens: Annotated[int, Between(1, 1_000_000)] | None = None
    """Tokens of the longest answer; by default what the form of the task needs."""
    kl: Annotated[float, Between(0, 1e6)] = 0.0
    """Weight of KL(policy || warm start), in units of the objective; rescaled with the advantages."""
    loss: Literal["dapo", "dr_grpo", "grpo", "bnpo"] = "dapo"
    """Length normalisation; ``grpo`` divides each answer by its own length, which biases the prices."""
    prefix_sharing: Annotated[PrefixSharing, SWITCH] = "auto"
    """Read each prompt once for its group: ``auto`` where it pays, ``on`` wherever it is exact, ``off``."""
    prefix_attention: Kernel = "split"
    """Attention of shared prompts: ``split`` (SDPA, anywhere) or ``flex`` (FlexAttention, CUDA)."""
    gradient_checkpointing: StrictBool = False
    """Recompute activations in the backward pass: less memory, more time."""
    save_every: Annotated[int, Between(1, MANY)] = 50
    """Steps between checkpoints; the last two are kept."""
    heartbeat: Annotated[float, Between(1, 86_400)] = 180.0
    """Seconds that a process may give no sign of life before all others name it and end."""
    collective_timeout: Annotated[float, Between(1, 604_800)] = 1800.0
    """Seconds that a process may wait for the others in one exchange."""

    report_to: Annotated[tuple[Annotated[str, Text(100)], ...], Each(least=1), ONE] = ("tensorboard",)
    """Trackers that get every step besides ``metrics.jsonl``: those that transformers knows, or ``none``."""
    trl: dict[str, Any] = {}
    """Fields of TRL's ``GRPOConfig`` that are passed on to it, but for those that recrl sets."""

    @field_validator("report_to")
    @classmethod
    def _known_trackers(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        check_names(names)
        return names

    @field_validator("trl")
    @classmethod
    def _of_trl(cls, given: dict[str, Any]) -> dict[str, Any]:
        check_fields(given)
        return given

    def sampling(self, tokenizer: "PreTrainedTokenizerBase", answer_tokens: int) -> Sampling:
        """The rollouts' sampling, for evaluation outside the trainer."""
        return Sampling(
            max_tokens=self.max_answer_tokens or answer_tokens,
            ends=(int(tokenizer.eos_token_id),),
            temperature=self.temperature,
            top_p=self.top_p,
        )


def check_split(prompts: int, group: int, processes: int, micro_batches: int) -> None:
    """Refuse answers of a step that do not split into whole groups over processes and equal parts there.

    Args:
        prompts: Number of prompts of a step, over all processes.
        group: Number of answers to each.
    """
    samples, parts = prompts * group, processes * micro_batches
    if samples % parts or (samples // processes) % group:
        raise ValueError(
            f"train.prompts_per_step={prompts} * train.group_size={group} = {samples} answers do not split "
            f"into whole groups over {processes} processes and train.micro_batches={micro_batches} equal "
            f"parts; set train.prompts_per_step to a multiple of {parts}, such as "
            f"{-(-prompts // parts) * parts}"
        )


def check_halves(group: int, every: int) -> None:
    """Refuse groups that cannot be halved, if halves are compared once in ``every`` generation batches."""
    if every < 0 or (every and group < 4):
        raise ValueError(
            f"gradient_conflict_every={every} with num_generations={group}: it compares two halves of "
            "each group of 4 answers or more, once in so many generation batches; 0 turns it off"
        )
