"""Attention over a prompt that several answers share.

:func:`install` sets a model to the attention implementation ``shared_prefix``. It equals ``sdpa`` until a
forward call carries ``shared_prefix=layout``; then the layout says who sees whom. Three layouts, one kind of
row:

``Packed``    training: ``[prompt | field 1 | ... | field G]`` in one row
``Prefill``   generation: reads the prompts and keeps their keys and values
``Branches``  generation: one new token of every answer, which sees the kept prompt and its own past

A field starts with the prompt's last token, so every completion token is predicted by its own field and the
prompt part never needs logits.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "shared_prefix"

Kernel = Literal["split", "flex"]

# Compiled FlexAttention wants whole blocks, and few different shapes.
FLEX_BLOCK = 128


# Tokens of an answer that there is room for at first; it doubles.
_ROOM = 32


class Layout(Protocol):
    """Who sees whom in one forward call."""

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float
    ) -> Tensor:
        """``[B, heads, L, d]`` each (``key`` and ``value`` with fewer heads) -> ``[B, L, heads, d]``."""
        ...


def install(model: PreTrainedModel) -> None:
    """Let ``model`` take ``shared_prefix=layout``; without it nothing changes."""
    if model.config.get_text_config()._attn_implementation != NAME:
        model.set_attn_implementation(NAME)


def unsupported(model: PreTrainedModel) -> str | None:
    """Why prefix sharing cannot be exact for this model, or None."""
    config: Any = model.config.get_text_config()
    name = f"{config.model_type} ({type(model).__name__})"
    if model.config.is_encoder_decoder:
        return f"{name} is an encoder-decoder model"
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds or getattr(model, "_is_stateful", False):
        found = ", ".join(sorted(kinds)) or "recurrent"
        return f"{name} has layers that carry a state along the row ({found})"
    if getattr(config, "alibi", False):
        return f"{name} takes positions from the place in the row (ALiBi)"
    if not getattr(model, "_supports_attention_backend", False):
        return f"{name} does not use the attention interface of transformers"
    if config._attn_implementation not in ("sdpa", NAME):
        chosen = config._attn_implementation
        return f"{name} was loaded with attn_implementation={chosen!r}; load it with 'sdpa'"
    return None


def window(model: PreTrainedModel) -> int | None:
    """Tokens up to which every layer sees everything; None = no sliding or chunked layer."""
    config: Any = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    # Qwen keeps the number in its config although the window is not in use.
    if kinds is None and not getattr(config, "use_sliding_window", True):
        return None
    if kinds is not None and "sliding_attention" not in kinds:
        return None
    return getattr(config, "sliding_window", None)


def _shared_prefix_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    shared_prefix: Layout | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    if shared_prefix is not None:
        return shared_prefix.attend(module, query, key, value, scaling, dropout), None
    if attention_mask is not None and attention_mask.shape[-2:] == (1, 1) and key.shape[2] > 1:
        raise RuntimeError(f"{type(module).__name__} does not hand keyword arguments on to its attention")
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
    )


AttentionInterface.register(NAME, _shared_prefix_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def passed_mask(rows: int, device: torch.device) -> Tensor:
    """What goes as ``attention_mask`` beside a layout: four dimensions, so the model leaves it alone."""
    return torch.ones(rows, 1, 1, 1, dtype=torch.bool, device=device)


@dataclass(frozen=True)
class Packed:
    """Rows of one prompt and ``groups`` fields: a field sees the prompt and itself.

    Attributes:
        lengths: ``[R]``, tokens of the prompt without its last, padded on the right.
        prompt: Width of the prompt part.
        groups, width: Number of fields and the width of one, padded on the right.
        kernel: ``split`` runs SDPA on the prompt and on the fields separately, without a mask over the whole
            row; ``flex`` runs FlexAttention over the whole row.
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
            return flex_attention_forward(module, query, key, value, self._block_mask(), scaling=scaling)[0]
        prompt, groups = self.prompt, self.groups
        options: Any = {"dropout": dropout, "scaling": scaling}
        parts = []
        # Padding stands at the end of the prompt part and of each field: causal attention never looks at it.
        if prompt:
            q, k, v = (x[:, :, :prompt] for x in (query, key, value))
            parts.append(sdpa_attention_forward(module, q, k, v, None, is_causal=True, **options)[0])
        q, k, v = (_fields_first(x[:, :, prompt:], groups) for x in (query, key, value))
        k, v = (
            torch.cat([x[:, None, :, :prompt].expand(-1, groups, -1, -1, -1).flatten(0, 1), own], dim=2)
            for x, own in ((key, k), (value, v))
        )
        found = sdpa_attention_forward(module, q, k, v, self._field_mask(), is_causal=False, **options)[0]
        parts.append(found.unflatten(0, (-1, groups)).flatten(1, 2))
        return torch.cat(parts, dim=1)

    def _field_mask(self) -> Tensor:
        """``[R G or 1, 1, C, P + C]``."""
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
            self._cached["blocks"] = create_block_mask(
                self.visible, len(self.lengths), None, length, length, device=str(self.lengths.device)
            )
        return self._cached["blocks"]


def _fields_first(x: Tensor, groups: int) -> Tensor:
    """``[R, heads, G C, d] -> [R G, heads, C, d]``."""
    return x.unflatten(2, (groups, -1)).transpose(1, 2).flatten(0, 1)


class Prefill:
    """Causal attention over prompts, padded on the right, that keeps keys and values of every layer.

    Attributes:
        keys, values: Per layer ``[R, heads, P, d]``.
    """

    def __init__(self) -> None:
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float
    ) -> Tensor:
        # Contiguous here, once, and not in every step of the products below.
        self.keys[module.layer_idx] = key.contiguous()
        self.values[module.layer_idx] = value.contiguous()
        return sdpa_attention_forward(
            module, query, key, value, None, dropout=dropout, scaling=scaling, is_causal=True
        )[0]


class Branches:
    """One new token of each answer: it sees its prompt, kept once, and its own past.

    The queries of all answers to a prompt meet the prompt's keys in one product, so a step reads them once
    and not once per answer. Without gradients only.

    Args:
        prefill: Keys and values of ``R`` prompts.
        lengths: ``[R]``, how many of them count.
        slots: ``S``, answers per prompt.
    """

    def __init__(self, prefill: Prefill, lengths: Tensor, slots: int) -> None:
        self.slots, self.step = slots, 0
        self._prompt_keys, self._prompt_values = prefill.keys, prefill.values
        width = next(iter(prefill.keys.values())).shape[2] if prefill.keys else 0
        hidden = torch.arange(width, device=lengths.device) >= lengths[:, None]
        self._hidden: Tensor | None = hidden if bool(hidden.any()) else None
        self._own_keys: dict[int, Tensor] = {}
        self._own_values: dict[int, Tensor] = {}

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float
    ) -> Tensor:
        layer, slots = module.layer_idx, self.slots
        own_keys = self._append(self._own_keys, layer, key)
        own_values = self._append(self._own_values, layer, value)
        # [R, S, key heads, queries of a key head, d]
        asked = query[:, :, 0].unflatten(1, (key.shape[1], -1)).unflatten(0, (-1, slots))
        asked = asked * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        own = (asked @ own_keys.transpose(-1, -2)).float()
        if layer not in self._prompt_keys:  # prompts of one token
            return (own.softmax(-1).to(value.dtype) @ own_values).flatten(0, 1).flatten(1, 2)[:, None]
        prompt_keys, prompt_values = self._prompt_keys[layer], self._prompt_values[layer]
        together = asked.transpose(1, 2).flatten(2, 3)  # [R, key heads, S queries, d]
        shared = (together @ prompt_keys.transpose(-1, -2)).float()
        if self._hidden is not None:
            shared = shared.masked_fill(self._hidden[:, None, None], -torch.inf)
        shared = shared.unflatten(2, (slots, -1)).transpose(1, 2)
        weights = torch.cat([shared, own], dim=-1).softmax(-1).to(value.dtype)
        of_prompt, of_own = weights.split([shared.shape[-1], own.shape[-1]], dim=-1)
        found = (of_prompt.transpose(1, 2).flatten(2, 3) @ prompt_values).unflatten(2, (slots, -1))
        return (found.transpose(1, 2) + of_own @ own_values).flatten(0, 1).flatten(1, 2)[:, None]

    def _append(self, past: dict[int, Tensor], layer: int, new: Tensor) -> Tensor:
        """Write this step's ``[R S, heads, 1, d]``; return ``[R, S, heads, step + 1, d]``."""
        new = new.unflatten(0, (-1, self.slots))
        room = past[layer].shape[3] if layer in past else 0
        if self.step == room:
            grown = new.new_empty(*new.shape[:3], max(_ROOM, 2 * room), new.shape[-1])
            if room:
                grown[..., :room, :] = past[layer]
            past[layer] = grown
        past[layer][..., self.step, :] = new[..., 0, :]
        return past[layer][..., : self.step + 1, :]

    def keep(self, prompts: Tensor, slots: Tensor) -> None:
        """Go on with some prompts ``[R']`` and some slots of each ``[R', S']``."""
        for kept in (self._prompt_keys, self._prompt_values):
            for layer, x in kept.items():
                kept[layer] = x[prompts]
        if self._hidden is not None:
            self._hidden = self._hidden[prompts]
        for past in (self._own_keys, self._own_values):
            for layer, x in past.items():
                past[layer] = x[prompts[:, None], slots]
        self.slots = slots.shape[1]
