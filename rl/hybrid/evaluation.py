"""How well compressed prompts are answered, beside full text and beside what costs as little.

``Arm``         one way to write the prompts
``deployed``    greedy answers to an arm's prompts
``overlap``     how much of one arm's lists stands in another's
``recovered``   the share of a gap that an arm closes, with its interval
``perceived``   answers to questions about one entity
``majority``    the answer that is right most often, for each attribute
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...envs.entities.store import Vectors
from ...envs.statistics import Estimate, Values, pooled
from ...envs.task import Lines, Message, Text
from ..decoding.deploy import answer_texts, deploy
from ..decoding.journal import Journal
from ..policy.slots import of
from ..sampling import Sampling
from .questions import Question, spelled


@dataclass(frozen=True)
class Arm:
    """One way to write prompts.

    Attributes:
        name: Name in tables.
        prompts: Prompts, with or without marked titles.
        store: Vectors in place of the model's own, for controls.
    """

    name: str
    prompts: Sequence[list[Message]]
    store: Vectors | None = None


def deployed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    arm: Arm,
    form: Lines | Text,
    batch_size: int,
    on_batch: Callable[[int], None] = lambda done: None,
    kept: Journal | None = None,
) -> list[str]:
    """Greedy answers; prompts of similar length are read together.

    Args:
        kept: Answers of an earlier attempt at this arm.
    """
    order = sorted(range(len(arm.prompts)), key=lambda i: sum(len(m["content"]) for m in arm.prompts[i]))
    with _reading(model, arm.store):
        found = deploy(
            model,
            tokenizer,
            [arm.prompts[i] for i in order],
            form,
            batch_size=batch_size,
            kept=kept,
            on_batch=on_batch,
        )
    answers = [""] * len(order)
    for i, text in zip(order, found, strict=True):
        answers[i] = text
    return answers


def overlap(texts: Sequence[str], others: Sequence[str]) -> Values:
    """Share of the lines of ``others`` that the same row's text has too; NaN where there are none."""
    shares = []
    for text, other in zip(texts, others, strict=True):
        wanted = set(other.split("\n")) - {""}
        shares.append(len(wanted & set(text.split("\n"))) / len(wanted) if wanted else np.nan)
    return np.array(shares)


def recovered(
    arm: Sequence[Values], low: Sequence[Values], high: Sequence[Values], users: npt.NDArray[np.integer]
) -> Estimate:
    """``(arm - low) / (high - low)`` of means over the same episodes, with the bootstrap of
    :func:`recrl.envs.statistics.pooled`.

    Args:
        arm, low, high: Values of an arm, of the lower and of the upper end of the gap, for each seed
            ``[episodes]``.
    """
    won, gap = ([one - floor for one, floor in zip(values, low, strict=True)] for values in (arm, high))
    return pooled(won, users, per=gap)


def perceived(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Question],
    *,
    as_text: bool = False,
    store: Vectors | None = None,
    batch_size: int = 128,
) -> npt.NDArray[np.bool_]:
    """Whether each question is answered right, word for word, by a greedy answer.

    Args:
        as_text: Ask about the title as text, which bounds what can be had.
        store: Vectors in place of the model's own.
    """
    prompts = [spelled(one.messages) if as_text else one.messages for one in asked]
    told = tokenizer([one.answer for one in asked], add_special_tokens=False)["input_ids"]
    sampling = Sampling(max(map(len, told)) + 1, ends=(int(tokenizer.eos_token_id),), temperature=0.0)
    with _reading(model, store):
        texts = answer_texts(model, tokenizer, prompts, sampling, batch_size=batch_size)
    return np.array([text.strip() == one.value for text, one in zip(texts, asked, strict=True)])


def majority(learned: Sequence[Question], asked: Sequence[Question]) -> npt.NDArray[np.bool_]:
    """Whether each question is answered right by the most frequent value of its attribute."""
    counts: dict[str, Counter[str]] = {}
    for one in learned:
        counts.setdefault(one.attribute, Counter())[one.value] += 1
    best = {attribute: found.most_common(1)[0][0] for attribute, found in counts.items()}
    return np.array([best.get(one.attribute) == one.value for one in asked])


def _reading(model: PreTrainedModel, store: Vectors | None) -> AbstractContextManager[None]:
    layer = of(model)
    return nullcontext() if store is None or layer is None else layer.reading(store)
