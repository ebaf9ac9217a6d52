"""A trained judge of the embedded size: the tiny model with a scalar head reads prompt and text once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ...envs.task import Task
from ...rewards.judge.suite.pairs import Item, Pair
from ...rl import policy
from ...rl.policy.tiny import tiny_model, tiny_tokenizer
from ...rl.reward_model.calibration import Calibration
from ...rl.reward_model.scoring import Texts
from ...rl.reward_model.settings import DistillConfig
from ...rl.reward_model.training import Graded, distill, scores_of, token_ids
from ..config.schema import RunConfig
from .verdicts import Verdicts


def one_pass(
    config: RunConfig,
    task: Task,
    pairs: Sequence[Pair],
    shown: Sequence[Item],
    settings: DistillConfig,
    start: Path | None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> Verdicts:
    """Learn from the training pairs, and judge every item.

    Args:
        start: Folder of a policy to start from; by default a new tiny model with random weights.
    """
    learned = [pair for pair in pairs if pair.kind == "defect" and pair.part == "training"]
    graded = [Graded(pair.rows[0]["prompt"], pair.texts, (1, 0), pair.household) for pair in learned]
    began = time.perf_counter()
    with TemporaryDirectory(prefix="recrl-one-pass-") as scratch:
        folder, tokenizer = started(config, task, graded, start, Path(scratch))
        found = distill(folder, tokenizer, graded, settings, {"labels": "defect suite"}, on_step)
    texts = [Texts.of([token_ids(found.tokenizer, one.row["prompt"], one.text)]) for one in shown]
    logits = torch.cat(scores_of(found.model, texts, shared=False, batch=32)).double()
    good = Calibration(**found.card["acceptance"]).probabilities(logits).numpy()
    bad = np.where(good < 0.5, 1.0, 0.0)
    weights = sum(one.numel() for one in found.model.parameters())
    notes = (
        f"{weights / 1e6:.1f} million weights, {'random' if start is None else 'warm-started'} at first, "
        f"{settings.steps} steps of {settings.loss} on {len(learned)} pairs"
    )
    seconds = time.perf_counter() - began
    tokens = sum(len(one.shared) + len(one.rests[0]) for one in texts)
    return Verdicts.of("one pass", bad, good=good, swapped=bad, tokens=tokens, seconds=seconds, notes=notes)


def started(
    config: RunConfig, task: Task, graded: Sequence[Graded], start: Path | None, scratch: Path
) -> tuple[Path, PreTrainedTokenizerBase]:
    """The model that a training starts from, and its tokenizer.

    Args:
        graded: What is learned: a new tokenizer knows its words.
        start: Folder of a policy; None for a new tiny model with random weights.
        scratch: Empty folder that a new model is written to.
    """
    if start is not None:
        return start, policy.load(config.policy.at(start))[1]
    told = [message["content"] for one in graded for message in one.prompt]
    told += [text for one in graded for text in one.texts]
    tokenizer = tiny_tokenizer([], told, config.policy.tiny.vocabulary, task.terms)
    tiny_model(config.policy.tiny, tokenizer, config.seed).save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    return scratch, tokenizer
