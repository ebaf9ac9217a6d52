"""Scores of the candidates of one context, whose text is read once for all of them.

A row of a context is ``[shared text | candidate 1 | ... | candidate G]``, see :mod:`recrl.rl.prefix.packing`.
The model is a sequence classifier of transformers with one label: it scores a text at its last token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..prefix.attention import install, unsupported, window
from ..prefix.packing import backbone, pack

Ids = Sequence[int]


@dataclass(frozen=True)
class Texts:
    """Token ids of the candidates of one context: what they begin with in common, and the rest of each.

    Attributes:
        shared: Tokens that all begin with, at least one.
        rests: Tokens of each candidate behind it, at least one.
    """

    shared: Ids
    rests: Sequence[Ids]

    @classmethod
    def of(cls, texts: Sequence[Ids]) -> "Texts":
        """Split whole texts of one context.

        Raises:
            ValueError: there is none, one is empty, or they have not even their first token in common.
        """
        if not texts or not all(texts):
            raise ValueError("a context needs candidates, each with a token")
        shortest = min(map(len, texts)) - 1  # each keeps a token of its own
        equal = (all(text[i] == texts[0][i] for text in texts) for i in range(shortest))
        same = next((i for i, alike in enumerate(equal) if not alike), shortest)
        if not same:
            raise ValueError("candidates of one context have not even their first token in common")
        return cls(texts[0][:same], [text[same:] for text in texts])

    @property
    def whole(self) -> list[list[int]]:
        """Each text as it is."""
        return [[*self.shared, *rest] for rest in self.rests]

    @property
    def saved(self) -> float:
        """Share of the tokens that are not read when what is shared is read once."""
        apart = sum(map(len, self.rests))
        return 1 - (len(self.shared) + apart) / (len(self.shared) * len(self.rests) + apart)


def can_share(model: PreTrainedModel, tokens: int) -> bool:
    """Whether a model may read what candidates share once; it is then set to shared attention.

    Args:
        tokens: Tokens of the longest text.
    """
    seen = window(model)
    if unsupported(model) or (seen is not None and tokens > seen):
        return False
    install(model)
    return True


def score(model: PreTrainedModel, contexts: Sequence[Texts], *, shared: bool = True) -> Tensor:
    """Logits of the candidates ``[context, candidate]``, float32; minus infinity where there is none.

    Args:
        model: Sequence classifier with one label, not wrapped.
        shared: Whether to read what candidates share once, see :func:`can_share`, or each text whole.
    """
    found = head(model)(hidden_states(model, contexts, shared=shared))[..., 0].float()
    there = torch.tensor([[i < len(one.rests) for i in range(found.shape[1])] for one in contexts])
    return found.masked_fill(~there.to(found.device), -torch.inf)


def hidden_states(model: PreTrainedModel, contexts: Sequence[Texts], *, shared: bool = True) -> Tensor:
    """Last layer's output at each text's last token, which the head reads: ``[context, candidate, hidden]``,
    anything where there is no candidate.

    Args:
        model, shared: As for :func:`score`.
    """
    return _packed(model, contexts) if shared else _row_by_row(model, contexts)


def head(model: PreTrainedModel) -> Any:
    """The linear layer of the one label; models of transformers call it ``score``."""
    return model.score


def _packed(model: PreTrainedModel, contexts: Sequence[Texts]) -> Tensor:
    device = model.device
    prompts = _padded([one.shared for one in contexts], device, left=True)
    most = max(len(one.rests) for one in contexts)
    # A field ends before its last token, which predicts nothing in a language model: it gets one more.
    rests = [[*rest, 0] for one in contexts for rest in (*one.rests, *[[]] * (most - len(one.rests)))]
    ids, mask = (x.view(len(contexts), most, -1) for x in _padded(rests, device))
    batch = pack(*prompts, ids, mask)
    hidden = backbone(model)(**batch.inputs, use_cache=False).last_hidden_state
    width = batch.labels.shape[-1]
    fields = hidden[:, -most * width :].unflatten(1, (most, width))
    last = (mask.sum(-1) - 1)[..., None, None].expand(-1, -1, 1, hidden.shape[-1])
    return fields.gather(2, last)[:, :, 0]


def _row_by_row(model: PreTrainedModel, contexts: Sequence[Texts]) -> Tensor:
    most = max(len(one.rests) for one in contexts)
    # In place of a candidate that is not there the first one stands.
    texts = [text for one in contexts for text in (*one.whole, *one.whole[:1] * (most - len(one.rests)))]
    ids, mask = _padded(texts, model.device)
    hidden = backbone(model)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    at = torch.arange(len(texts), device=hidden.device)
    return hidden[at, mask.sum(1) - 1].unflatten(0, (len(contexts), most))


def _padded(rows: Sequence[Ids], device: torch.device, left: bool = False) -> tuple[Tensor, Tensor]:
    """Token ids and their mask, ``[row, width]``."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place], mask[i, place] = torch.tensor(row), 1
    return ids.to(device), mask.to(device)
