"""Log-probabilities of several completions of one prompt: the prompt is read once.

A packed row is ``[prompt | field 1 | ... | field G]`` (:class:`recrl.rl.prefix.layouts.Packed`). It equals
``G`` full rows while the model reads ``P - 1 + G C`` tokens instead of ``G (P + C)``. The row goes through
the model's ordinary ``forward``, so wrappers (DDP, ZeRO, LoRA, gradient checkpointing) see nothing unusual,
and only the positions of completions are projected to the vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .layouts import FLEX_BLOCK, Packed, passed_mask
from .settings import Kernel


@dataclass(frozen=True)
class PackedBatch:
    """A batch of ``R`` packed rows.

    Attributes:
        inputs: Arguments of the model: ``input_ids`` and ``position_ids`` ``[R, L]``, the mask, the layout.
        labels: Token that each position of a field predicts, ``[R, G, C]``; -100 at padding.
    """

    inputs: dict[str, Any]
    labels: Tensor


def pack(
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
    kernel: Kernel = "split",
) -> PackedBatch:
    """Lay out one row per prompt; columns that are padding everywhere are left out.

    Args:
        prompt_ids, prompt_mask: Prompts, ``[R, P]``, padded on the left; every prompt has a token.
        completion_ids, completion_mask: Completions, ``[R, G, C]``, padded on the right; one may be empty.
        kernel: Kernel of the attention, see :class:`recrl.rl.prefix.layouts.Packed`.
    """
    rows, groups, _ = completion_ids.shape
    device = prompt_ids.device
    if not prompt_mask[:, -1].all():
        raise ValueError("prompts must have a token and be padded on the left")
    lengths = prompt_mask.sum(dim=1) - 1  # without the last token, which starts each field
    prompt, width = int(lengths.max()), _used(completion_mask.flatten(0, 1))
    if kernel == "flex":
        prompt, width = -(-prompt // FLEX_BLOCK) * FLEX_BLOCK, -(-width // FLEX_BLOCK) * FLEX_BLOCK
        missing = max(0, width - completion_ids.shape[2])
        completion_ids = nn.functional.pad(completion_ids, (0, missing))
        completion_mask = nn.functional.pad(completion_mask, (0, missing))
    columns = torch.arange(prompt, device=device)
    shifted = (prompt_ids.shape[1] - 1 - lengths[:, None] + columns).clamp(max=prompt_ids.shape[1] - 1)
    last = prompt_ids[:, -1, None, None].expand(rows, groups, 1)
    fields = torch.cat([last, completion_ids[:, :, : width - 1]], dim=2)
    positions = lengths[:, None, None] + torch.arange(width, device=device).expand(rows, groups, width)
    return PackedBatch(
        inputs={
            "input_ids": torch.cat([prompt_ids.gather(1, shifted), fields.flatten(1)], dim=1),
            "position_ids": torch.cat(
                [columns.minimum(lengths[:, None].clamp(min=0)), positions.flatten(1)], dim=1
            ),
            "attention_mask": passed_mask(rows, device),
            "shared_prefix": Packed(lengths, prompt, groups, width, kernel),
        },
        labels=completion_ids[:, :, :width].masked_fill(completion_mask[:, :, :width] == 0, -100),
    )


def _used(mask: Tensor) -> int:
    """Number of columns up to the last one in use, at least one."""
    return max(1, int((mask.any(dim=0) * torch.arange(1, mask.shape[1] + 1, device=mask.device)).max()))


def continuation_logits(
    model: PreTrainedModel,
    prompts: tuple[Tensor, Tensor],
    completions: tuple[Tensor, Tensor],
    shared: bool,
    kernel: Kernel = "split",
) -> tuple[Tensor, Tensor]:
    """Logits that predict each completion token, and the tokens that they predict.

    Args:
        model: Causal language model, not wrapped.
        prompts, completions: Token ids and masks as in :func:`pack`.
        shared: Whether to read each prompt once, see :func:`recrl.rl.prefix.sharing.can_share`, or full rows.
        kernel: Kernel of the attention, see :class:`recrl.rl.prefix.layouts.Packed`.

    Returns:
        Logits ``[R, G, C, vocabulary]``, and labels ``[R, G, C]`` with -100 at padding; ``C`` may be smaller
        than it was where the last columns are padding only.
    """
    (prompt_ids, prompt_mask), (ids, mask) = prompts, completions
    if shared:
        batch = pack(prompt_ids, prompt_mask, ids, mask, kernel)
        inputs, labels = batch.inputs, batch.labels
    else:
        groups = ids.shape[1]
        each_ids, each_mask = (x.repeat_interleave(groups, dim=0) for x in prompts)
        inputs, labels = _full_rows(each_ids, each_mask, ids.flatten(0, 1), mask.flatten(0, 1))
    with _last_positions(backbone(model), labels[0].numel()):
        # The logits are sliced again, for models whose head does not read the backbone's output.
        logits = model(**inputs, use_cache=False).logits[:, -labels[0].numel() :]
    labels = labels.view(*ids.shape[:2], -1)
    return logits.reshape(*labels.shape, -1), labels


def score(
    model: nn.Module,
    body: nn.Module,
    prompts: tuple[Tensor, Tensor],
    completions: tuple[Tensor, Tensor],
    copies: int,
    kernel: Kernel = "split",
) -> tuple[Tensor, Tensor | None]:
    """Log-probability and entropy of each completion token, both ``[N, C]``, 0 at padding.

    Args:
        model: Causal language model with TRL's fused head (``trl.trainer.utils.add_fused_lm_head``), wrapped
            or not.
        body: Its :func:`backbone`.
        prompts: Token ids and mask ``[N, P]``, padded on the left.
        completions: Token ids and mask ``[N, C]``, padded on the right.
        copies: Number of neighbours with the same prompt, which is read once for them; 1 = full rows.
    """
    (prompt_ids, prompt_mask), (ids, mask) = prompts, completions
    if copies > 1:
        if not (prompt_ids.unflatten(0, (-1, copies)) == prompt_ids[::copies, None]).all():
            raise ValueError(f"the prompts of {copies} neighbours differ; keep groups together")
        batch = pack(
            prompt_ids[::copies],
            prompt_mask[::copies],
            ids.unflatten(0, (-1, copies)),
            mask.unflatten(0, (-1, copies)),
            kernel,
        )
        inputs, labels = batch.inputs, batch.labels
    else:
        inputs, labels = _full_rows(prompt_ids, prompt_mask, ids, mask)
    rows, width = len(labels), labels.shape[-1]
    with _last_positions(body, labels[0].numel()):
        found = model(**inputs, shift_labels=labels.reshape(rows, -1), fused_lm_head=True)

    def whole(values: Tensor | None) -> Tensor | None:
        if values is None:
            return None
        values = values.reshape(len(ids), width)[:, : ids.shape[1]]
        return nn.functional.pad(values, (0, ids.shape[1] - values.shape[1]))

    log_probs = whole(found.log_probs)
    assert log_probs is not None
    return log_probs, whole(found.entropy)


def _full_rows(
    prompt_ids: Tensor, prompt_mask: Tensor, ids: Tensor, mask: Tensor
) -> tuple[dict[str, Any], Tensor]:
    """Rows of one completion each, without its last token, which predicts nothing."""
    longest, width = int(prompt_mask.sum(dim=1).max()), _used(mask)
    ids, mask = ids[:, :width], mask[:, :width]
    seen = torch.cat([prompt_mask[:, -longest:], mask[:, :-1]], dim=1)
    inputs = {
        "input_ids": torch.cat([prompt_ids[:, -longest:], ids[:, :-1]], dim=1),
        "attention_mask": seen,
        "position_ids": (seen.cumsum(dim=1) - 1).clamp(min=0),
    }
    return inputs, ids.masked_fill(mask == 0, -100)


def without_adapters(model: Any) -> Any:
    """The model inside the adapters (PEFT) that may be around it; they stay in effect."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def backbone(model: nn.Module) -> nn.Module:
    """The part of an unwrapped causal language model below its head; adapters may be around it."""
    return without_adapters(model).base_model


@contextmanager
def _last_positions(body: nn.Module, count: int) -> Iterator[None]:
    """Hand only the last ``count`` positions of a row to the head."""

    def keep(_: nn.Module, __: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[:, -count:]
        return output

    handle = body.register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()
