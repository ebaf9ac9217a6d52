"""Layouts, who sees whom, of answers that share a prompt: packed rows, prompts that are read, branches."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from .joined import _apart, _JoinedAttention
from .settings import Kernel

# Compiled FlexAttention wants whole blocks, and few different shapes.
FLEX_BLOCK = 128

# Tokens of an answer for which there is room at first; the room doubles.
_ROOM = 32


class Layout(Protocol):
    """Layout of one forward call: who sees whom."""

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float
    ) -> Tensor:
        """Attend: ``[B, heads, L, d]`` each (``key``, ``value`` with fewer heads) -> ``[B, L, heads, d]``."""
        ...

    def unread(self, length: int) -> int:
        """Number of positions, from the row's beginning, at which nobody reads the last layer's output."""
        ...


def passed_mask(rows: int, device: torch.device) -> Tensor:
    """An ``attention_mask`` to go beside a layout: it has four dimensions, so the model leaves it alone."""
    return torch.ones(rows, 1, 1, 1, dtype=torch.bool, device=device)


def _is_last(module: Any) -> bool:
    """Whether a module is the last layer, in which nothing reads the outputs at prompt positions."""
    return module.layer_idx == module.config.num_hidden_layers - 1


def _nothing(query: Tensor, value: Tensor) -> Tensor:
    """Output of an attention that nobody reads, ``[B, L, heads, d]``."""
    return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1])


@dataclass(frozen=True)
class Packed:
    """Rows of one prompt and ``groups`` fields: a field sees the prompt and itself.

    Attributes:
        lengths: Tokens of the prompt without its last, ``[R]``; padding is on the right.
        prompt: Width of the prompt part.
        groups, width: Number of fields and the width of one, padded on the right.
        kernel: Kernel of the attention: ``split`` runs SDPA on the prompt and on the fields separately,
            without a mask over the whole row; ``flex`` runs FlexAttention over the whole row.
    """

    lengths: Tensor
    prompt: int
    groups: int
    width: int
    kernel: Kernel = "split"
    _cached: dict[str, Any] = field(default_factory=dict, compare=False)

    def visible(self, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Whether a query may look at a key, both counted along the row (FlexAttention's ``mask_mod``)."""
        of_prompt = key < self.lengths[row]
        same_field = (query >= self.prompt) & (
            (query - self.prompt).div(self.width, rounding_mode="floor")
            == (key - self.prompt).div(self.width, rounding_mode="floor")
        )
        # Padding looks at itself: a row of attention without any key is NaN.
        return ((query >= key) & (of_prompt | same_field)) | (query == key)

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float
    ) -> Tensor:
        if self.kernel == "flex":
            blocks = self._block_mask()
            return flex_attention_forward(
                module, query, key, value, blocks, scaling=scaling, dropout=dropout
            )[0]
        prompt = self.prompt
        options: Any = {"dropout": dropout, "scaling": scaling}
        parts = []
        # Padding stands at the end of the prompt part and of each field: causal attention never looks at it.
        if prompt and _is_last(module):
            parts.append(_nothing(query[:, :, :prompt], value))
        elif prompt:
            q, k, v = (x[:, :, :prompt] for x in (query, key, value))
            parts.append(sdpa_attention_forward(module, q, k, v, None, is_causal=True, **options)[0])
        parts.append(self._attend_fields(module, query, key, value, options))
        return torch.cat(parts, dim=1)

    def unread(self, length: int) -> int:
        return self.prompt

    def _attend_fields(self, module: Any, query: Tensor, key: Tensor, value: Tensor, options: Any) -> Tensor:
        """Output of the fields' queries over the prompt and their own field, ``[R, G C, heads, d]``."""
        prompt, groups = self.prompt, self.groups
        same_width = query.shape[-1] == value.shape[-1]
        if query.device.type == "cpu" and prompt and same_width and not options["dropout"]:
            repeats = query.shape[1] // key.shape[1]
            key, value = repeat_kv(key, repeats), repeat_kv(value, repeats)
            found: Any = _JoinedAttention.apply(
                query[:, :, prompt:],
                *(x[:, :, :prompt] for x in (key, value)),
                *(x[:, :, prompt:] for x in (key, value)),
                self._prompt_mask(query.dtype),
                groups,
                options["scaling"],
            )
            return found.transpose(1, 2)
        q, k, v = (_apart(x[:, :, prompt:], groups) for x in (query, key, value))
        k, v = (
            torch.cat([x[:, None, :, :prompt].expand(-1, groups, -1, -1, -1).flatten(0, 1), own], dim=2)
            for x, own in ((key, k), (value, v))
        )
        found = sdpa_attention_forward(module, q, k, v, self._field_mask(), is_causal=False, **options)[0]
        return found.unflatten(0, (-1, groups)).flatten(1, 2)

    def _prompt_mask(self, dtype: torch.dtype) -> Tensor | None:
        """Summand of the scores of prompt positions, ``[R, 1, G C, P]``; None without padding."""
        if "prompt" not in self._cached:
            hidden = torch.arange(self.prompt, device=self.lengths.device) >= self.lengths[:, None]
            # Finite, so that a prompt of one token, which has no prompt part, gets the weight 0 and not NaN.
            mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)
            shape = (-1, 1, self.groups * self.width, -1)
            self._cached["prompt"] = mask[:, None, None].expand(shape) if hidden.any() else None
        return self._cached["prompt"]

    def _field_mask(self) -> Tensor:
        """Mask of what a field sees of the prompt and of itself, ``[R G, 1, C, P + C]``."""
        if "fields" not in self._cached:
            device = self.lengths.device
            shared = torch.arange(self.prompt, device=device) < self.lengths[:, None]
            own = torch.ones(self.width, self.width, dtype=torch.bool, device=device).tril()
            rows = len(self.lengths)
            mask = torch.cat(
                [
                    shared[:, None].expand(rows, self.width, self.prompt),
                    own.expand(rows, self.width, self.width),
                ],
                dim=2,
            )
            self._cached["fields"] = mask.repeat_interleave(self.groups, dim=0)[:, None]
        return self._cached["fields"]

    def _block_mask(self) -> BlockMask:
        if "blocks" not in self._cached:
            length = self.prompt + self.groups * self.width

            def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                return self.visible(row, head, query, key)  # a bound method's arguments are miscounted

            self._cached["blocks"] = create_block_mask(
                visible, len(self.lengths), None, length, length, device=str(self.lengths.device)
            )
        return self._cached["blocks"]


class Prefill:
    """Causal attention over prompts, padded on the right, that keeps keys and values.

    Attributes:
        keys, values: Keys and values, ``[R, heads, P, d]``, in the order in which the layers attend; some
            attend twice.
    """

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float
    ) -> Tensor:
        # They are made contiguous here, once, and not in every step of the products below.
        self.keys.append(key.contiguous())
        self.values.append(value.contiguous())
        if _is_last(module):
            return _nothing(query, value)
        return sdpa_attention_forward(
            module, query, key, value, None, dropout=dropout, scaling=scaling, is_causal=True
        )[0]

    def unread(self, length: int) -> int:
        return length - 1  # an empty product is not worth its exceptions


class Branches:
    """One new token of each answer: it sees its prompt, kept once, and its own past.

    The queries of all answers to a prompt meet the prompt's keys in one product, so a step reads them once
    and not once per answer. It works without gradients only.

    Args:
        prefill: Keys and values of ``R`` prompts.
        lengths: Number of them that count, ``[R]``.
        slots: Number of answers per prompt, ``S``.
    """

    def __init__(self, prefill: Prefill, lengths: Tensor, slots: int) -> None:
        self.slots = slots
        self._prompt_keys, self._prompt_values = prefill.keys, prefill.values
        width = prefill.keys[0].shape[2] if prefill.keys else 0
        hidden = torch.arange(width, device=lengths.device) >= lengths[:, None]
        self._hidden: Tensor | None = hidden if bool(hidden.any()) else None
        self._own_keys: list[Tensor] = []
        self._own_values: list[Tensor] = []
        self.begin(0)

    def unread(self, length: int) -> int:
        return 0

    def begin(self, step: int) -> None:
        """Announce that the next forward call is that of token ``step``."""
        self._step, self._call = step, 0

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float
    ) -> Tensor:
        call, slots = self._call, self.slots
        self._call += 1
        own_keys = self._append(self._own_keys, call, key)
        own_values = self._append(self._own_values, call, value)
        # [R, S, key heads, queries of a key head, d]
        asked = query[:, :, 0].unflatten(1, (key.shape[1], -1)).unflatten(0, (-1, slots))
        asked = asked * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        own = (asked @ own_keys.transpose(-1, -2)).float()
        if not self._prompt_keys:  # prompts of one token
            return (own.softmax(-1).to(value.dtype) @ own_values).flatten(0, 1).flatten(1, 2)[:, None]
        prompt_keys, prompt_values = self._prompt_keys[call], self._prompt_values[call]
        together = asked.transpose(1, 2).flatten(2, 3)  # [R, key heads, S queries, d]
        shared = (together @ prompt_keys.transpose(-1, -2)).float()
        if self._hidden is not None:
            shared = shared.masked_fill(self._hidden[:, None, None], -torch.inf)
        shared = shared.unflatten(2, (slots, -1)).transpose(1, 2)
        weights = torch.cat([shared, own], dim=-1).softmax(-1).to(value.dtype)
        of_prompt, of_own = weights.split([shared.shape[-1], own.shape[-1]], dim=-1)
        found = (of_prompt.transpose(1, 2).flatten(2, 3) @ prompt_values).unflatten(2, (slots, -1))
        return (found.transpose(1, 2) + of_own @ own_values).flatten(0, 1).flatten(1, 2)[:, None]

    def _append(self, past: list[Tensor], call: int, new: Tensor) -> Tensor:
        """Write this step's ``[R S, heads, 1, d]``; return ``[R, S, heads, step + 1, d]``."""
        new = new.unflatten(0, (-1, self.slots))
        if call == len(past):
            past.append(new.new_empty(*new.shape[:3], _ROOM, new.shape[-1]))
        if self._step == past[call].shape[3]:
            past[call] = torch.cat([past[call], torch.empty_like(past[call])], dim=3)
        past[call][..., self._step, :] = new[..., 0, :]
        return past[call][..., : self._step + 1, :]

    def keep(self, prompts: Tensor, slots: Tensor) -> None:
        """Go on with some prompts ``[R']`` and some slots of each ``[R', S']``."""
        for kept in (self._prompt_keys, self._prompt_values):
            kept[:] = [x[prompts] for x in kept]
        if self._hidden is not None:
            self._hidden = self._hidden[prompts]
        for past in (self._own_keys, self._own_values):
            past[:] = [x[prompts[:, None], slots] for x in past]
        self.slots = slots.shape[1]
