"""Supervised warm start on logs: the policy learns the answer format and what users buy.

Per prompt several target lists are sampled, each of the requested length, and the prompt is read once for
all of them (:mod:`recrl.rl.prefix.packing`). Lists hold target tags in random order; a target shorter than
the list is filled up with the user's most frequent other tags. The first part of the training rehearses those
frequent tags alone. A step whose activations would not fit in ``ROOM`` is split into micro-batches of whole
prompts, with the same gradient.

A warm start that was stopped or killed goes on from a checkpoint of its own, and ends with the same bits. The
checkpoint is a sealed folder (:mod:`recrl.envs.storage.sealed`) with one state: weights, optimiser, schedule,
random states, the place in the order of the episodes, and the losses so far.
"""

import json
import logging
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...envs.task import Message, Row, Task
from ..prefix.packing import continuation_logits, without_adapters
from ..prefix.sharing import can_share
from .adapters import has_adapters
from .resuming import RESUME, StoppedTraining, TrainingCheckpoint
from .settings import WarmStartConfig
from .supervised import Supervised

logger = logging.getLogger(__name__)

ROOM = 2 * 2**30
"""Bytes of activations that a pass may keep for its gradients; one prompt with its lists may take more."""

# Batches drawn together and sorted by length.
_POOL = 32


def warm_start(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    task: Task,
    config: WarmStartConfig,
    seed: int,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    *,
    checkpoint: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
    hint: str = RESUME,
) -> list[float]:
    """Train ``model`` in place on the task's demonstrations.

    Args:
        rows: Training rows, visited in a random order again and again.
        on_step: Function that is called after each step with its number (from 1) and loss; first with those
            of the steps that a checkpoint brings along.
        checkpoint: Folder to go on from, if it is there, whole, and of the same warm start. It is written
            every ``config.save_every`` steps; the caller deletes it.
        stop: Function that says after each step whether this was the last one for now.
        hint: How to go on where the checkpoint could not be written.

    Returns:
        Mean negative log-likelihood per token of each step.

    Raises:
        StoppedTraining: ``stop`` said so; a checkpoint of this step is written.
        CheckpointError: the checkpoint could not be written, or is not what its manifest says.
    """
    training = _Training(model, [task.size(row) for row in rows], config, seed)
    kept = None if checkpoint is None else TrainingCheckpoint(checkpoint, training, "warm start", hint)
    if kept is not None:
        kept.load(_identity(model, task.lesson(rows), config, seed))
    model.train()
    for step, loss in enumerate(training.losses):
        on_step(step + 1, loss)
    for step in range(len(training.losses), config.steps):
        chosen = [rows[i] for i in next(training.batches)]
        rehearsing = step < config.rehearsal * config.steps
        answers = [
            task.demonstration(row, rehearsing, training.rng)
            for row in chosen
            for _ in range(config.lists_per_prompt)
        ]
        training.step(_losses(model, tokenizer, [row["prompt"] for row in chosen], answers))
        on_step(step + 1, training.losses[-1])
        stopped = stop()
        due = (step + 1) % config.save_every == 0 and step + 1 < config.steps
        if kept is not None and (stopped or due):
            kept.save()
        if stopped:
            raise StoppedTraining(step + 1, "warm start")
    return training.losses


class _Training:
    """State that changes from step to step."""

    def __init__(
        self, model: PreTrainedModel, lengths: Sequence[int], config: WarmStartConfig, seed: int
    ) -> None:
        self.model = model
        self.rng = np.random.default_rng(seed)
        self.batches = _Batches(lengths, config.prompts_per_step, self.rng)
        self.losses: list[float] = []
        self._supervised = Supervised(
            model, model.parameters(), config.steps, config.learning_rate, config.weight_decay
        )

    def step(self, losses: Iterator[torch.Tensor]) -> None:
        """One optimiser step on the sum of the losses of micro-batches."""
        total = 0.0
        for loss in losses:
            loss.backward()
            total += loss.item()
        self._supervised.step()
        self.losses.append(total)

    def state_dict(self) -> dict[str, Any]:
        on_gpu = self.model.device.type == "cuda"
        return {
            "weights": self._weights(),
            "optimizer": self._supervised.optimizer.state_dict(),
            "schedule": self._supervised.schedule.state_dict(),
            "rng": self.rng.bit_generator.state,
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.model.device) if on_gpu else None,
            "batches": self.batches.state_dict(),
            "losses": self.losses,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        missing, unexpected = self.model.load_state_dict(state["weights"], strict=False)
        if unexpected or set(missing) & self._weights().keys():
            raise ValueError(f"its weights are of another model ({[*missing, *unexpected][:3]})")
        self._supervised.optimizer.load_state_dict(state["optimizer"])
        self._supervised.schedule.load_state_dict(state["schedule"])
        self.rng.bit_generator.state = state["rng"]
        torch.set_rng_state(state["torch"])
        if state["cuda"] is not None and self.model.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self.model.device)
        self.batches.load_state_dict(state["batches"])
        self.losses = state["losses"]

    def _weights(self) -> dict[str, torch.Tensor]:
        """Trained weights, each once: tied ones have several names. With adapters, theirs alone."""
        named = self.model.state_dict(keep_vars=True)
        if has_adapters(self.model):
            named = {name: value for name, value in named.items() if value.requires_grad}
        first = {id(value): name for name, value in reversed(named.items())}
        return {name: value for name, value in named.items() if first[id(value)] == name}


def _identity(
    model: PreTrainedModel, lesson: Mapping[str, Any], config: WarmStartConfig, seed: int
) -> dict[str, Any]:
    """Facts that a warm start must share with another one to go on from where that stopped; as JSON."""
    shapes = [(name, [*value.shape], str(value.dtype)) for name, value in model.state_dict().items()]
    return {
        "settings": config.model_dump(mode="json", exclude={"save_every"}),
        "seed": seed,
        "model": [str(model.name_or_path), zlib.crc32(json.dumps(shapes).encode())],
        **lesson,
    }


class _Batches(Iterator[Sequence[int]]):
    """Endless random batches of indices with similar lengths, so that little is padding.

    The order of an epoch is split into pools; the batches of a pool wait in random order.
    """

    def __init__(self, lengths: Sequence[int], size: int, rng: np.random.Generator) -> None:
        self._lengths, self._size, self._rng = lengths, size, rng
        self._pools: list[np.ndarray] = []
        self._waiting: list[list[int]] = []

    def __next__(self) -> Sequence[int]:
        while not self._waiting:
            if not self._pools:
                order = self._rng.permutation(len(self._lengths))
                self._pools = np.array_split(order, max(1, len(order) // (self._size * _POOL)))
            pool = self._pools.pop(0)
            ranked = sorted(pool.tolist(), key=lambda i: self._lengths[i])
            starts = range(0, max(1, len(ranked) - self._size + 1), self._size)
            shuffled = self._rng.permutation(np.array(starts)).tolist()
            self._waiting = [ranked[start : start + self._size] for start in shuffled]
        return self._waiting.pop(0)

    def state_dict(self) -> dict[str, Any]:
        return {"pools": self._pools, "waiting": self._waiting}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._pools, self._waiting = state["pools"], state["waiting"]


def _losses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[Message]],
    answers: list[str],
) -> Iterator[torch.Tensor]:
    """Losses of a step's micro-batches, which add up to the mean over all its tokens."""
    lists, size = len(answers) // len(prompts), _prompts_at_once(model, tokenizer, prompts, answers)
    if size >= len(prompts):
        yield _loss(model, tokenizer, prompts, answers)
        return
    counts = [1 + len(ids) for ids in tokenizer(answers, add_special_tokens=False)["input_ids"]]
    for first in range(0, len(prompts), size):
        part = slice(first * lists, (first + size) * lists)
        loss = _loss(model, tokenizer, prompts[first : first + size], answers[part])
        yield loss * (sum(counts[part]) / sum(counts))


def _prompts_at_once(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[Message]],
    answers: list[str],
) -> int:
    """Number of prompts whose activations fit in ``ROOM``, at least one."""
    lists = len(answers) // len(prompts)

    def size(asked: int, told: int) -> int:
        return max(1, int(ROOM / activations(model, asked, lists, told)))

    # A token has a byte at least, so that short texts need no tokens to be counted.
    asked = max(sum(len(message["content"].encode()) for message in prompt) for prompt in prompts)
    if (most := size(asked + 100, max(len(answer.encode()) for answer in answers))) >= len(prompts):
        return most
    rendered: Any = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=True)
    told = tokenizer(answers, add_special_tokens=False)["input_ids"]
    return size(max(map(len, rendered["input_ids"])), 1 + max(map(len, told)))


def activations(model: PreTrainedModel, prompt: int, lists: int, answer: int) -> float:
    """Bytes that a pass over one prompt keeps for its gradients, by estimate.

    A layer of a Llama keeps about ten vectors of the model's width a token and four of its feed-forward's;
    the head and the loss keep their logits three times. SmolLM2-135M was measured within 5 % of that.

    Args:
        prompt: Tokens of the prompt, which is read once where that is exact.
        lists: Number of its answers.
        answer: Tokens of each.
    """
    shape = without_adapters(model).config.get_text_config()
    asked = prompt if can_share(without_adapters(model), prompt + answer) else prompt * lists
    width = shape.hidden_size
    inner = getattr(shape, "intermediate_size", None) or 4 * width
    inner = max(inner) if isinstance(inner, list) else inner
    layers = (asked + lists * answer) * shape.num_hidden_layers * (10 * width + 4 * inner)
    return float(model.dtype.itemsize * layers + 4 * 3 * lists * answer * shape.vocab_size)


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
    shared = can_share(without_adapters(model), prompt[0].shape[1] + ids.shape[2])
    logits, labels = continuation_logits(model, prompt, (ids, mask), shared)
    kept = labels != -100
    return torch.nn.functional.cross_entropy(logits[kept].float(), labels[kept])
