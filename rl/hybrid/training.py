"""Training of the adaptor: the model is frozen, and only the vectors of entities learn.

A step takes prompts with their teacher's answers (production) and questions about one entity
(self-perception). Both are passes of :func:`recrl.rl.prefix.packing.continuation_logits`: a prompt is read
once for all its answers, and any family of models takes the same path.

``Lesson``      a prompt with slots, its answers, and what the teacher found likely
``train``       the adaptor, resumable
``prompt_ids``  token ids of prompts
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...envs.task import Message
from ..policy.resuming import StoppedTraining, TrainingCheckpoint
from ..policy.slots import EntityEmbedding, of
from ..policy.supervised import Supervised
from ..prefix.packing import continuation_logits
from ..prefix.sharing import can_share
from .questions import Question
from .settings import AGAIN, HybridConfig
from .teaching import Taught

# The training in words, for messages.
_NAME = "adaptor's training"


@dataclass(frozen=True)
class Lesson:
    """What a prompt with slots has to be answered with.

    Attributes:
        prompt: Token ids, slots among them.
        answers: Token ids of the answers.
        tokens, chances: Likeliest tokens of the teacher and their probabilities, see
            :class:`recrl.rl.hybrid.teaching.Taught`; None where the answers themselves are the target.
    """

    prompt: list[int]
    answers: list[list[int]]
    tokens: Tensor | None = None
    chances: Tensor | None = None


def lessons_of(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[list[Message]], taught: Sequence[Taught]
) -> list[Lesson]:
    """Lessons of production: prompts with marked titles, and the teacher's answers to them."""
    return [
        Lesson(ids, one.answers, *((one.tokens, one.chances) if one.tokens.numel() else ()))
        for ids, one in zip(prompt_ids(tokenizer, prompts), taught, strict=True)
    ]


def lessons_about(tokenizer: PreTrainedTokenizerBase, asked: Sequence[Question]) -> list[Lesson]:
    """Lessons of self-perception."""
    if not asked:
        return []
    told = tokenizer([one.answer + tokenizer.eos_token for one in asked], add_special_tokens=False)
    ids = prompt_ids(tokenizer, [one.messages for one in asked])
    return [Lesson(*both) for both in zip(ids, ([answer] for answer in told["input_ids"]), strict=True)]


def train(
    model: PreTrainedModel,
    production: Sequence[Lesson],
    perception: Sequence[Lesson],
    config: HybridConfig,
    seed: int,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    *,
    checkpoint: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[float]:
    """Train the adaptor of a model with slots in place; everything else is frozen, and stays so.

    Args:
        production, perception: Lessons, visited in a random order again and again.
        on_step: Function that is called after each step with its number (from 1) and loss; first with those
            of the steps that a checkpoint brings along.
        checkpoint: Folder to go on from, and to write; the caller deletes it.
        stop: Function that says after each step whether this was the last one for now.

    Returns:
        Loss of each step.

    Raises:
        StoppedTraining: ``stop`` said so; a checkpoint of this step is written.
        CheckpointError: the checkpoint could not be written, or is not what its manifest says.
    """
    training = _Training(model, production, perception, config, seed)
    kept = None if checkpoint is None else TrainingCheckpoint(checkpoint, training, _NAME, AGAIN)
    if kept is not None:
        kept.load(training.identity)
    model.eval()  # the frozen model answers as it will: without dropout
    for step, loss in enumerate(training.losses, 1):
        on_step(step, loss)
    for step in range(len(training.losses) + 1, config.steps + 1):
        training.step()
        on_step(step, training.losses[-1])
        stopped = stop()
        if kept is not None and (stopped or step % config.save_every == 0) and step < config.steps:
            kept.save()
        if stopped and step < config.steps:
            raise StoppedTraining(step, _NAME)
    return training.losses


class _Training:
    """State that changes from step to step: adaptor, optimiser, and the order of the lessons."""

    def __init__(
        self,
        model: PreTrainedModel,
        production: Sequence[Lesson],
        perception: Sequence[Lesson],
        config: HybridConfig,
        seed: int,
    ) -> None:
        layer = of(model)
        assert isinstance(layer, EntityEmbedding), "give the model slots first"
        model.requires_grad_(False)
        layer.adaptor.requires_grad_(True)
        self.model, self.adaptor, self.losses = model, layer.adaptor, list[float]()
        self._parts = [
            (some, min(size, len(some)))
            for some, size in ((production, config.prompts_per_step), (perception, config.questions_per_step))
            if some and size
        ]
        self._rng = np.random.default_rng(seed)
        self._waiting: list[list[int]] = [[] for _ in self._parts]
        self._supervised = Supervised(
            self.adaptor, self.adaptor.parameters(), config.steps, config.learning_rate, 0.0
        )
        self.identity = {
            "settings": config.model_dump(mode="json", exclude={"save_every", "folder", "reading"}),
            "seed": seed,
            "store": [getattr(layer.store, name, None) for name in ("encoder", "dim", "precision")],
            "lessons": [
                len(production),
                zlib.crc32(repr([(one.prompt, one.answers) for one in (*production, *perception)]).encode()),
            ],
        }

    def step(self) -> None:
        """One optimiser step; the losses of production and perception weigh alike."""
        total = 0.0
        for number, (some, size) in enumerate(self._parts):
            chosen = [some[i] for i in self._next(number, size)]
            part = loss(self.model, chosen)
            part.backward()
            total += part.item()
        self._supervised.step()
        self.losses.append(total)

    def _next(self, number: int, size: int) -> list[int]:
        while len(self._waiting[number]) < size:
            self._waiting[number] += self._rng.permutation(len(self._parts[number][0])).tolist()
        chosen, self._waiting[number] = self._waiting[number][:size], self._waiting[number][size:]
        return chosen

    def state_dict(self) -> dict[str, Any]:
        return {
            "weights": self.adaptor.state_dict(),
            "optimizer": self._supervised.optimizer.state_dict(),
            "schedule": self._supervised.schedule.state_dict(),
            "rng": self._rng.bit_generator.state,
            "waiting": self._waiting,
            "losses": self.losses,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.adaptor.load_state_dict(state["weights"])
        self._supervised.optimizer.load_state_dict(state["optimizer"])
        self._supervised.schedule.load_state_dict(state["schedule"])
        self._rng.bit_generator.state = state["rng"]
        self._waiting, self.losses = state["waiting"], state["losses"]


def loss(model: PreTrainedModel, lessons: Sequence[Lesson]) -> Tensor:
    """Mean cross-entropy of the answers' tokens: against the teacher's probabilities, or the tokens."""
    device = model.device
    prompt = _padded([one.prompt for one in lessons], left=True)
    copies = max(len(one.answers) for one in lessons)
    # Lessons have as many answers each, or those that lack some get empty ones.
    answers = [answer for one in lessons for answer in (*one.answers, *[[]] * (copies - len(one.answers)))]
    ids, mask = (x.unflatten(0, (len(lessons), copies)) for x in _padded(answers, left=False))
    shared = can_share(model, prompt[0].shape[1] + ids.shape[2])
    given = tuple(x.to(device) for x in prompt), (ids.to(device), mask.to(device))
    logits, labels = continuation_logits(model, *given, shared)  # type: ignore[arg-type]
    kept = labels != -100
    found = logits[kept].float()
    if lessons[0].tokens is None:
        return nn.functional.cross_entropy(found, labels[kept])
    tokens = torch.cat([one.tokens for one in lessons if one.tokens is not None]).long().to(device)
    chances = torch.cat([one.chances for one in lessons if one.chances is not None]).to(found)
    return -(chances * found.log_softmax(dim=-1).gather(1, tokens)).sum(dim=-1).mean()


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[list[Message]]) -> list[list[int]]:
    """Token ids of prompts, up to where the answer begins."""
    encoded: Any = tokenizer.apply_chat_template(list(prompts), add_generation_prompt=True, return_dict=True)
    return encoded["input_ids"]


def _padded(rows: Sequence[Sequence[int]], *, left: bool) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width).long()
    for i, row in enumerate(rows):
        place = slice(width - len(row), None) if left else slice(0, len(row))
        ids[i, place], mask[i, place] = torch.tensor(row, dtype=torch.long), 1
    return ids, mask
