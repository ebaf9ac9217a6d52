"""Attention over a prompt that several answers share.

:func:`install` sets a model to the attention implementation ``shared_prefix``. It equals ``sdpa`` until a
forward call carries ``shared_prefix=layout``; then the layout says who sees whom. There are three layouts:

``Packed``    training: ``[prompt | field 1 | ... | field G]`` in one row
``Prefill``   generation: reads the prompts and keeps their keys and values
``Branches``  generation: one new token of every answer, which sees the kept prompt and its own past

A field starts with the prompt's last token, so every completion token is predicted by its own field and the
prompt part never needs logits.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .layouts import Layout

NAME = "shared_prefix"

# Models whose last layer by its number is not the last one to run.
_LOOPED = ("hrm_text",)

# Attribute in which a model notes why it cannot share prompts.
_REFUSED = "_recrl_no_shared_prefix"


def install(model: PreTrainedModel) -> None:
    """Let ``model`` take ``shared_prefix=layout``; without it nothing changes."""
    if model.config.get_text_config()._attn_implementation != NAME:
        model.set_attn_implementation(NAME)
        _LastFeedForward().watch(model)


class _LastFeedForward:
    """Lets the last layer's feed-forward part leave out the positions whose output nobody reads.

    It hooks the layer and its part, so that gradient checkpointing leaves out the same ones again.
    """

    def __init__(self) -> None:
        self._layout: Layout | None = None
        self._left_out = 0

    def watch(self, model: PreTrainedModel) -> None:
        """Hook the last layer; a model whose layers are built in another way reads every position."""
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
    """Reason why prefix sharing cannot be exact for this model, or None."""
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
    """Make ``model`` unsupported, since shared prompts turned out wrong."""
    setattr(model, _REFUSED, reason)


def window(model: PreTrainedModel) -> int | None:
    """Number of tokens up to which every layer sees everything; None = no sliding or chunked layer."""
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
        kind = query.device.type
        # Cast as SDPA is: rotated queries and keys come in float32 beside values that do not.
        if torch.is_autocast_enabled(kind) and value.dtype != torch.float64:
            query, key, value = (x.to(torch.get_autocast_dtype(kind)) for x in (query, key, value))
        return shared_prefix.attend(module, query, key, value, scaling, dropout), None
    if attention_mask is not None and attention_mask.shape[-2:] == (1, 1) and key.shape[2] > 1:
        raise RuntimeError(f"{type(module).__name__} does not hand keyword arguments on to its attention")
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
    )


AttentionInterface.register(NAME, _shared_prefix_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
