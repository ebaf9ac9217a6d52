"""Attention over a prompt and over the answers behind it, joined by their log-sum-exps."""

from typing import Any

import torch
from torch import Tensor


def _apart(x: Tensor, groups: int) -> Tensor:
    """Fields as rows of their own: ``[R, heads, G C, d] -> [R G, heads, C, d]``."""
    return x.unflatten(2, (groups, -1)).transpose(1, 2).flatten(0, 1)


def _in_a_row(x: Tensor, groups: int) -> Tensor:
    """Fields one after the other in a row: ``[R G, heads, C, d] -> [R, heads, G C, d]``."""
    return x.unflatten(0, (-1, groups)).transpose(1, 2).flatten(2, 3)


_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class _JoinedAttention(torch.autograd.Function):
    """Attention over the prompt and over the own field, joined by their log-sum-exps; on a CPU.

    It equals one attention over both, but the prompt's keys and values are not repeated for every field: less
    memory, and the queries of all fields meet them at once. The backward pass of each part needs the joint
    output and log-sum-exp in place of its own (ring attention, Liu et al. 2023, arXiv 2310.01889).
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        prompt_key: Tensor,
        prompt_value: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        groups: int,
        scale: float | None,
    ) -> Tensor:
        """Joined attention: ``[R, heads, G C, d]``, ``[R, heads, P, d]`` of the prompt -> as the first."""
        shared, shared_sum = _flash(query, prompt_key, prompt_value, 0.0, False, attn_mask=mask, scale=scale)
        fields = (_apart(x, groups) for x in (query, key, value))
        own, own_sum = _flash(*fields, 0.0, True, scale=scale)
        own, own_sum = _in_a_row(own, groups), _in_a_row(own_sum[..., None], groups)[..., 0]
        total = torch.logaddexp(shared_sum, own_sum)
        found = shared * (shared_sum - total).exp()[..., None].to(shared.dtype)
        found += own * (own_sum - total).exp()[..., None].to(own.dtype)
        ctx.save_for_backward(query, prompt_key, prompt_value, key, value, found, total)
        ctx.mask, ctx.groups, ctx.scale = mask, groups, scale
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        query, prompt_key, prompt_value, key, value, found, total = ctx.saved_tensors
        groups, scale = ctx.groups, ctx.scale
        of_query, *of_prompt = _flash_backward(
            gradient,
            query,
            prompt_key,
            prompt_value,
            found,
            total,
            0.0,
            False,
            attn_mask=ctx.mask,
            scale=scale,
        )
        fields = (_apart(x, groups) for x in (gradient, query, key, value, found))
        own = _flash_backward(*fields, _apart(total[..., None], groups)[..., 0], 0.0, True, scale=scale)
        of_query_too, *of_own = (_in_a_row(x, groups) for x in own)
        return of_query + of_query_too, *of_prompt, *of_own, None, None, None
