"""Supervised warm start on logs: the policy learns the answer format and what users buy.

Per prompt several target lists are sampled, each of the requested length, and the prompt is read once for
all of them (:mod:`recrl.rl.prefix`). Lists hold target tags in random order; a target shorter than the
list is filled up with the user's most frequent other tags. The first part of the training rehearses those
frequent tags alone.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..envs.catalog import Catalog
from ..envs.prompts import Message
from ..envs.settings import MANY, Between
from .prefix import continuation_logits
from .sharing import can_share

# Batches drawn together and sorted by length.
_POOL = 32


class WarmStartConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Supervised training before reinforcement learning."""

    steps: Annotated[int, Between(0, MANY)] = 0
    """Optimiser steps; 0 = no warm start."""
    prompts_per_step: Annotated[int, Between(1, 1_000_000)] = 16
    """Prompts in a step."""
    lists_per_prompt: Annotated[int, Between(1, 10_000)] = 8
    """Lists sampled for each prompt."""
    rehearsal: Annotated[float, Between(0, 1)] = 0.4
    """Share of the steps, the first ones, whose lists are the user's most frequent tags in random order
    instead of target tags: a sharp signal that teaches a small model to read its prompt and not to repeat."""
    learning_rate: Annotated[float, Between(0, 1)] = 3e-3
    """Peak of a linear warm-up (5 %) and a cosine decay (AdamW)."""
    weight_decay: Annotated[float, Between(0, 10)] = 0.01
    """AdamW weight decay."""


def sample_list(
    target: Sequence[int], history: Sequence[int], slots: int, n_tags: int, rng: np.random.Generator
) -> list[int]:
    """``slots`` distinct tags: random target tags, then the history's most frequent, then random ones."""
    chosen = rng.permutation(np.asarray(target))[:slots].tolist()
    if len(chosen) < slots:
        known = set(chosen)
        chosen += [tag for tag in history if tag not in known][: slots - len(chosen)]
        others = np.setdiff1d(np.arange(n_tags), chosen)
        chosen += rng.permutation(others)[: slots - len(chosen)].tolist()
        chosen = rng.permutation(chosen).tolist()
    return chosen


def warm_start(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    episodes: Sequence[Mapping[str, Any]],
    catalog: Catalog,
    slots: int,
    config: WarmStartConfig,
    seed: int,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> list[float]:
    """Train ``model`` in place on sampled target lists.

    Args:
        episodes: Rows with ``prompt`` (chat messages), ``target`` and ``history``; visited in a random
            order, again and again.
        slots: Length of a list.
        on_step: Called after each step with its number (from 1) and loss.

    Returns:
        Mean negative log-likelihood per token of each step.
    """
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.95)
    )
    warm_up = max(1, config.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / config.steps)),
    )
    model.train()
    losses: list[float] = []
    batches = _batches([len(row["history"]) for row in episodes], config.prompts_per_step, rng)
    for step in range(config.steps):
        chosen = [episodes[i] for i in next(batches)]
        rehearsing = step < config.rehearsal * config.steps
        lists = [
            catalog.render(
                sample_list(
                    row["history"][:slots] if rehearsing else row["target"],
                    row["history"],
                    slots,
                    len(catalog),
                    rng,
                )
            )
            for row in chosen
            for _ in range(config.lists_per_prompt)
        ]
        loss = _loss(model, tokenizer, [row["prompt"] for row in chosen], lists)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        on_step(step + 1, losses[-1])
    return losses


def _batches(lengths: Sequence[int], size: int, rng: np.random.Generator) -> Iterator[Sequence[int]]:
    """Endless random batches of indices; those of a batch have similar lengths, so that little is padding."""
    while True:
        order = rng.permutation(len(lengths))
        for pool in np.array_split(order, max(1, len(order) // (size * _POOL))):
            ranked = sorted(pool.tolist(), key=lambda i: lengths[i])
            starts = range(0, max(1, len(ranked) - size + 1), size)
            for start in rng.permutation(np.array(starts)):
                yield ranked[start : start + size]


def _loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[Message]],
    answers: list[str],
) -> torch.Tensor:
    device = model.device
    asked: Any = tokenizer.apply_chat_template(
        prompts,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        padding=True,
        return_tensors="pt",
    )
    told = tokenizer(
        [answer + tokenizer.eos_token for answer in answers],
        add_special_tokens=False,
        padding=True,
        padding_side="right",
        return_tensors="pt",
    )
    shape = (len(prompts), len(answers) // len(prompts), -1)
    ids, mask = (told[name].reshape(shape).to(device) for name in ("input_ids", "attention_mask"))
    prompt = asked["input_ids"].to(device), asked["attention_mask"].to(device)
    shared = can_share(model, prompt[0].shape[1] + ids.shape[2])
    logits, labels = continuation_logits(model, prompt, (ids, mask), shared)
    kept = labels != -100
    return torch.nn.functional.cross_entropy(logits[kept].float(), labels[kept])
