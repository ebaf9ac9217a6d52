"""The reward ``reward_model``: the score that a sequence-classification model of transformers gives.

In a config: ``{name: quality, use: reward_model, params: {model: org/name}}``, or the folder of a model. With
``activation: none`` the entry needs the ``range`` of the model's logits.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

from ..base import Completion, RewardError, completion_text
from ..registry import reward

logger = logging.getLogger(__name__)

Activation = Literal["sigmoid", "softmax", "none"]
DTYPES = ("float32", "bfloat16", "float16")


@reward("reward_model", range=(0, 1))
class RewardModel:
    """Scores prompt and completion, as one text, with a classification model.

    Messages are written by the tokenizer's chat template, where it has one; else the texts of the prompt's
    messages and of the completion follow one another. A text that is too long loses the beginning of its
    prompt, never any of its completion.

    The model is loaded at once, so that a wrong name fails before training. Each process of a run has its
    own, whole: build it before the training arguments where DeepSpeed ZeRO-3 would split it.

    Args:
        model: hub name, or folder of model and tokenizer.
        label: index or name of the logit that is the score; may be left out if there is one.
        activation: function of the logit; ``softmax`` is over all labels.
        batch_size: texts in one forward pass; batches hold texts of about one length.
        max_length: tokens of the longest text; None for what the model was made for.
        device: ``cpu``, ``cuda:1``, ...; None for the accelerator if there is one.
        dtype: number type of the weights.

    Attributes:
        shortened: Samples so far whose prompt was cut.

    Raises:
        ValueError: there is no such model or label, it has no classification head, or its texts cannot be
            padded to one length.
    """

    def __init__(
        self,
        model: str,
        label: int | str | None = None,
        activation: Activation = "sigmoid",
        batch_size: int = 16,
        max_length: int | None = None,
        device: str | None = None,
        dtype: str = "float32",
    ) -> None:
        import torch

        if activation not in get_args(Activation):
            raise ValueError(f"activation={activation!r} must be one of {', '.join(get_args(Activation))}")
        if dtype not in DTYPES:
            raise ValueError(f"dtype={dtype!r} must be one of {', '.join(DTYPES)}")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length={max_length} must be at least 1, or null for what the model takes")
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        self._device = torch.device(device or accelerator or "cpu")
        self._tokenizer, self._model = _load(model, getattr(torch, dtype))
        self._model.to(self._device).eval()
        self._label = _label(model, self._model.config, label)
        if activation == "softmax" and self._model.config.num_labels == 1:
            raise ValueError(
                f"activation='softmax' of {model!r} with its single label is always 1: use sigmoid"
            )
        self._activation, self._batch_size = activation, batch_size
        self._pad = _padding(model, self._tokenizer, self._model.config, batch_size)
        self._max_length = _max_length(max_length, self._tokenizer, self._model)
        self.shortened = 0

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Completion]) -> list[float]:
        """Score of each sample.

        Raises:
            RewardError: a completion alone is longer than ``max_length``.
        """
        rows = [self._tokens(*pair) for pair in zip(prompts, completions, strict=True)]
        longest_first = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        scores = [0.0] * len(rows)
        for first in range(0, len(rows), self._batch_size):
            batch = longest_first[first : first + self._batch_size]
            for i, score in zip(batch, self._forward([rows[i] for i in batch]), strict=True):
                scores[i] = score
        return scores

    def _tokens(self, prompt: Any, completion: Completion) -> list[int]:
        """Token ids of one sample, within ``max_length``."""
        text = self._text(prompt, completion)
        found = self._tokenizer(text, add_special_tokens=not self._chat(prompt), return_offsets_mapping=True)
        ids, ends = found["input_ids"], [end for _, end in found["offset_mapping"]]
        excess = len(ids) - self._max_length
        if excess <= 0:
            return ids
        # The token that opens every text of the model is no part of the prompt.
        opening = ids[0] in (self._tokenizer.bos_token_id, self._tokenizer.cls_token_id)
        start = _shared(self._text(prompt, []), text)
        answer = next((i for i, end in enumerate(ends) if end > start), len(ids))
        if excess > answer - opening:
            raise RewardError(
                f"a completion has {len(ids) - answer + opening} tokens with what frames it, more than "
                f"max_length={self._max_length}: set a larger one if the model allows it, or let the policy "
                "write less"
            )
        if not self.shortened:
            logger.warning(
                "%s: prompts longer than max_length=%d lose their beginning; the first has %d tokens, its "
                "completion included",
                self._model.name_or_path,
                self._max_length,
                len(ids),
            )
        self.shortened += 1
        return ids[:opening] + ids[opening + excess :]

    def _chat(self, prompt: Any) -> bool:
        return not isinstance(prompt, str) and self._tokenizer.chat_template is not None

    def _text(self, prompt: Any, completion: Completion) -> str:
        if self._chat(prompt):
            plain = isinstance(completion, str)
            answer = [{"role": "assistant", "content": completion}] if plain else completion
            text: str = self._tokenizer.apply_chat_template([*prompt, *answer], tokenize=False)
            return text
        if not isinstance(prompt, str):
            prompt = "".join(f"{completion_text([{'content': m['content']}])}\n" for m in prompt)
        return prompt + completion_text(completion)

    def _padded(self, rows: Sequence[list[int]]) -> tuple[Any, Any]:
        """Token ids and the length of each row, as tensors.

        On the right whatever the tokenizer says: there, padding moves no position.
        """
        import torch

        width = max(map(len, rows))
        ids = torch.tensor([row + [self._pad] * (width - len(row)) for row in rows], device=self._device)
        return ids, torch.tensor([len(row) for row in rows], device=self._device)

    def _forward(self, rows: Sequence[list[int]]) -> list[float]:
        import torch

        ids, lengths = self._padded(rows)
        mask = torch.arange(ids.shape[1], device=self._device) < lengths[:, None]
        with torch.no_grad():
            logits = self._model(input_ids=ids, attention_mask=mask.long()).logits.float()
        if self._activation == "softmax":
            logits = logits.softmax(-1)
        elif self._activation == "sigmoid":
            logits = logits.sigmoid()
        return logits[:, self._label].tolist()


def _shared(one: str, other: str) -> int:
    """Number of characters that two texts have in common from their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _load(model: str, dtype: Any) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        found, report = AutoModelForSequenceClassification.from_pretrained(
            model, dtype=dtype, output_loading_info=True
        )
    except OSError as error:
        raise ValueError(
            f"model={model!r} cannot be loaded; name a folder or a hub model: {error}"
        ) from error
    if not tokenizer.is_fast:
        raise ValueError(f"model={model!r} has a tokenizer that cannot tell which text a token stands for")
    if report["missing_keys"]:
        raise ValueError(
            f"model={model!r} is no trained classifier: it has no weights for "
            f"{', '.join(sorted(report['missing_keys']))}; name a model that was saved as "
            "...ForSequenceClassification"
        )
    return tokenizer, found


def _label(model: str, config: Any, label: int | str | None) -> int:
    names = [config.id2label[i] for i in range(config.num_labels)]
    if label is None and len(names) == 1:
        return 0
    if label in names:
        return names.index(label)
    if isinstance(label, int) and 0 <= label < len(names):
        return label
    raise ValueError(f"label={label!r}: set one of the {len(names)} labels of {model!r}: {', '.join(names)}")


def _padding(model: str, tokenizer: Any, config: Any, batch_size: int) -> int:
    """The id that the model takes for padding, by which it finds the end of a text."""
    if config.pad_token_id is None and tokenizer.pad_token_id not in (None, tokenizer.eos_token_id):
        config.pad_token_id = tokenizer.pad_token_id
    if config.pad_token_id is None and batch_size > 1:
        raise ValueError(
            f"batch_size={batch_size}: {model!r} has no padding token of its own, so that only texts of one "
            "length could share a batch; set batch_size=1, or pad_token_id in the model's config.json"
        )
    return config.pad_token_id or 0


def _max_length(asked: int | None, tokenizer: Any, model: Any) -> float:
    """Tokens that a text may have; infinite where nothing bounds them."""
    import torch

    positions = getattr(model.config, "max_position_embeddings", None) or math.inf
    learned = [
        module
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding)
    ]
    for module in learned:  # RoBERTa counts from the position behind its padding's
        reserved = 0 if module.padding_idx is None else module.padding_idx + 1
        positions = min(positions, module.num_embeddings - reserved)
    if learned and asked is not None and asked > positions:
        raise ValueError(
            f"max_length={asked}: {model.name_or_path} has positions for {positions} tokens only"
        )
    return asked or min(tokenizer.model_max_length, positions)
