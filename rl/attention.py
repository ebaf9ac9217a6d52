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
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "shared_prefix"

# A layer of theirs that is the last one by its number is not the last one to run.
_LOOPED = ("hrm_text",)

Kernel = Literal["split", "flex"]

# Compiled FlexAttention wants whole blocks, and few different shapes.
FLEX_BLOCK = 128

# Where a model notes why it cannot share prompts.
_REFUSED = "_recrl_no_shared_prefix"

# Tokens of an answer that there is room for at first; it doubles.
_ROOM = 32


class Layout(Protocol):
    """Who sees whom in one forward call."""

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float
    ) -> Tensor:
        """``[B, heads, L, d]`` each (``key`` and ``value`` with fewer heads) -> ``[B, L, heads, d]``."""
        ...

    def unread(self, length: int) -> int:
        """How many positions, from the row's beginning, nobody reads the last layer's output at."""
        ...


def install(model: PreTrainedModel) -> None:
    """Let ``model`` take ``shared_prefix=layout``; without it nothing changes."""
    if model.config.get_text_config()._attn_implementation != NAME:
        model.set_attn_implementation(NAME)
        _LastFeedForward().watch(model)


class _LastFeedForward:
    """Lets the last layer's feed-forward part leave out the positions whose output nobody reads.

    Hooks of the layer and of its part, so that gradient checkpointing leaves out the same ones again.
    """

    def __init__(self) -> None:
        self._layout: Layout | None = None
        self._left_out = 0

    def watch(self, model: PreTrainedModel) -> None:
        """A model whose layers are built in another way reads every position."""
        layers: Any = getattr(model.base_model, "layers", None)
        part = getattr(layers[-1], "mlp", None) if layers else None
        # Experts may have room for a number of tokens, and their balance is that of the whole row.
        if not isinstance(part, nn.Module) or hasattr(part, "experts"):
            return
        layers[-1].register_forward_pre_hook(self._begin, with_kwargs=True)
        part.register_forward_pre_hook(self._cut)
        part.register_forward_hook(self._pad)

    def _begin(self, _: nn.Module, arguments: Any, options: Any) -> None:
        self._layout = options.get(NAME)

    def _cut(self, _: nn.Module, arguments: Any) -> Any:
        hidden = arguments[0]
        self._left_out = self._layout.unread(hidden.shape[1]) if self._layout is not None else 0
        return (hidden[:, self._left_out :], *arguments[1:]) if self._left_out else None

    def _pad(self, _: nn.Module, arguments: Any, output: Any) -> Any:
        return nn.functional.pad(output, (0, 0, self._left_out, 0)) if self._left_out else None


def unsupported(model: PreTrainedModel) -> str | None:
    """Why prefix sharing cannot be exact for this model, or None."""
    config: Any = model.config.get_text_config()
    name = f"{config.model_type} ({type(model).__name__})"
    if model.config.is_encoder_decoder:
        return f"{name} is an encoder-decoder model"
    if config is not model.config:
        return f"{name} reads more than text"
    if config.model_type in _LOOPED:
        return f"{name} runs its layers several times"
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds or getattr(model, "_is_stateful", False):
        found = ", ".join(sorted(kinds)) or "recurrent"
        return f"{name} has layers that carry a state along the row ({found})"
    if refused := getattr(model, _REFUSED, None):
        return f"{name}: {refused}"
    if getattr(config, "alibi", False):
        return f"{name} takes positions from the place in the row (ALiBi)"
    if not getattr(model, "_supports_attention_backend", False):
        return f"{name} does not use the attention interface of transformers"
    if config._attn_implementation not in ("sdpa", NAME):
        chosen = config._attn_implementation
        return f"{name} was loaded with attn_implementation={chosen!r}; load it with 'sdpa'"
    return None


def refuse(model: PreTrainedModel, reason: str) -> None:
    """Make ``model`` unsupported: shared prompts turned out wrong."""
    setattr(model, _REFUSED, reason)


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
        if attention_mask is None or attention_mask.shape[1:] != (1, 1, 1):
            raise RuntimeError(f"{type(module).__name__} makes a mask of its own")
        if not getattr(module, "is_causal", True):
            raise RuntimeError(f"{type(module).__name__} looks ahead")
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


def _is_last(module: Any) -> bool:
    """Of the last layer only keys and values matter at prompt positions: nothing reads their outputs."""
    return module.layer_idx == module.config.num_hidden_layers - 1


def _nothing(query: Tensor, value: Tensor) -> Tensor:
    """The output of an attention that nobody reads, ``[B, L, heads, d]``."""
    return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1])


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
        """The fields' queries over the prompt and their own field, ``[R, G C, heads, d]``."""
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
        """What is added to the scores of prompt positions, ``[R, 1, G C, P]``; None without padding."""
        if "prompt" not in self._cached:
            hidden = torch.arange(self.prompt, device=self.lengths.device) >= self.lengths[:, None]
            # Finite, so that a prompt of one token, which has no prompt part, gets the weight 0 and not NaN.
            mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)
            shape = (-1, 1, self.groups * self.width, -1)
            self._cached["prompt"] = mask[:, None, None].expand(shape) if hidden.any() else None
        return self._cached["prompt"]

    def _field_mask(self) -> Tensor:
        """Which of the prompt and of its own field a field sees, ``[R G, 1, C, P + C]``."""
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


def _apart(x: Tensor, groups: int) -> Tensor:
    """``[R, heads, G C, d] -> [R G, heads, C, d]``."""
    return x.unflatten(2, (groups, -1)).transpose(1, 2).flatten(0, 1)


def _in_a_row(x: Tensor, groups: int) -> Tensor:
    """``[R G, heads, C, d] -> [R, heads, G C, d]``."""
    return x.unflatten(0, (-1, groups)).transpose(1, 2).flatten(2, 3)


_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class _JoinedAttention(torch.autograd.Function):
    """Attention over the prompt and over the own field, joined by their log-sum-exps; on a CPU.

    The same as one attention over both, but the prompt's keys and values are not repeated for every field:
    less memory, and the queries of all fields meet them at once. The backward pass of each part needs the
    joint output and log-sum-exp in place of its own (ring attention, Liu et al. 2023, arXiv 2310.01889).
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
        """``[R, heads, G C, d]``, and ``[R, heads, P, d]`` of the prompt -> ``[R, heads, G C, d]``."""
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


class Prefill:
    """Causal attention over prompts, padded on the right, that keeps keys and values.

    Attributes:
        keys, values: ``[R, heads, P, d]``, in the order in which the layers attend; some attend twice.
    """

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float
    ) -> Tensor:
        # Contiguous here, once, and not in every step of the products below.
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
    and not once per answer. Without gradients only.

    Args:
        prefill: Keys and values of ``R`` prompts.
        lengths: ``[R]``, how many of them count.
        slots: ``S``, answers per prompt.
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
        """The next forward call is that of token ``step``."""
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
