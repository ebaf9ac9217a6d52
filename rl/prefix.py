"""Several continuations of one prompt in one row: the prompt is read once.

A packed row is ``[padding | prompt | c1 | ... | cG]``, each continuation in a field of the same width. A
continuation sees the prompt and itself, its positions go on from the prompt's end, and its first token is
predicted by the shared last prompt token. The result equals ``G`` full rows while the model reads
``P + G C`` tokens instead of ``G (P + C)``.

The packed row goes through the model's ordinary ``forward`` with a 4-D mask, so wrappers (DDP, ZeRO, LoRA)
see nothing unusual, and only the last ``1 + G C`` positions are projected to the vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Attention implementations that take a 4-D mask as it is.
MASKABLE = ("sdpa", "eager")


@dataclass(frozen=True)
class PackedBatch:
    """``R`` packed rows of ``L = P + G C`` tokens.

    Attributes:
        input_ids: ``[R, L]``.
        position_ids: ``[R, L]``.
        visible: ``[R, 1, L, L]`` bool, true where a query (dim 2) may look at a key (dim 3).
        groups: ``G``, continuations per row.
        width: ``C``, width of a continuation's field.
    """

    input_ids: Tensor
    position_ids: Tensor
    visible: Tensor
    groups: int
    width: int


def pack(
    prompt_ids: Tensor, prompt_mask: Tensor, completion_ids: Tensor, completion_mask: Tensor
) -> PackedBatch:
    """Lay out one row per prompt.

    Args:
        prompt_ids, prompt_mask: ``[R, P]``, padded on the left; every prompt has a token.
        completion_ids, completion_mask: ``[R, G, C]``, padded on the right; a continuation may be empty.
    """
    rows, groups, width = completion_ids.shape
    device = prompt_ids.device
    lengths = prompt_mask.sum(dim=1, keepdim=True)
    if (lengths == 0).any():
        raise ValueError("a prompt without a token cannot predict the first token of its continuations")
    prompt_positions = (prompt_mask.cumsum(dim=1) - 1).clamp(min=0)
    field_positions = lengths[:, :, None] + torch.arange(width, device=device)
    # Segment 0 is the prompt, 1..G the continuations, -1 padding, which nothing sees.
    numbers = torch.arange(1, groups + 1, device=device)[None, :, None].expand(rows, groups, width)
    segment = torch.cat(
        [
            torch.where(prompt_mask.bool(), 0, -1),
            torch.where(completion_mask.bool(), numbers, -1).reshape(rows, groups * width),
        ],
        dim=1,
    )
    order = torch.arange(segment.shape[1], device=device)
    query, key = segment[:, :, None], segment[:, None, :]
    visible = (order[:, None] >= order) & ((key == 0) | (key == query)) & (key >= 0)
    # A padding query looks at itself: a row of attention without any key is NaN.
    visible |= torch.eye(len(order), dtype=torch.bool, device=device)
    return PackedBatch(
        input_ids=torch.cat([prompt_ids, completion_ids.reshape(rows, groups * width)], dim=1),
        position_ids=torch.cat(
            [prompt_positions, field_positions.expand(rows, groups, width).reshape(rows, groups * width)],
            dim=1,
        ),
        visible=visible[:, None],
        groups=groups,
        width=width,
    )


def continuation_logits(model: Any, batch: PackedBatch, attention: str) -> Tensor:
    """Logits that predict each continuation token, ``[R, G, C, vocabulary]``.

    Args:
        model: A causal language model of transformers, wrapped or not.
        attention: Its attention implementation, one of :data:`MASKABLE`.
    """
    mask = batch.visible
    if attention == "eager":
        dtype = next(model.parameters()).dtype
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(
            ~mask, torch.finfo(dtype).min
        )
    kept = 1 + batch.groups * batch.width
    logits = model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=mask,
        logits_to_keep=kept,
        use_cache=False,
    ).logits
    rows, vocabulary = logits.shape[0], logits.shape[-1]
    fields = logits[:, 1:].reshape(rows, batch.groups, batch.width, vocabulary)
    shared = logits[:, :1, None].expand(rows, batch.groups, 1, vocabulary)
    return torch.cat([shared, fields[:, :, :-1]], dim=2)
