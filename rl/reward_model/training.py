"""Distillation: a language model with a scalar head learns to score as a judge grades.

``Graded``         candidates of one context with their grades
``read``           graded candidates of a file; ``split``: those of users that are held out
``distill``        the trained model
``Distilled``      model, tokenizer, and what is known of its scores
``agreement``      how often scores put pairs in the judge's order
``scores_of``      scores of the candidates of contexts; ``texts_of``: their tokens
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from ...envs.faults import MendableError
from ...envs.storage import sealed
from ...rewards.shipped.judged import CARD
from ..policy.loading import quiet
from ..policy.supervised import Supervised
from .calibration import Calibration, Drift
from .losses import LOSSES, MISSING
from .scoring import Texts, can_share, head, hidden_states
from .settings import DistillConfig


class DistillError(MendableError, ValueError):
    """Grades that cannot be distilled, or a model that cannot learn them; the message names the fix."""


@dataclass(frozen=True)
class Graded:
    """Candidates of one context.

    Attributes:
        prompt: Chat messages that the candidates answer.
        texts: Candidates.
        grades: Grade of each, 0 the worst; None where it is missing.
        user: Whom the context is about: users are held out whole.
    """

    prompt: Sequence[Mapping[str, str]]
    texts: tuple[str, ...]
    grades: tuple[int | None, ...]
    user: Any = None

    @property
    def tells(self) -> bool:
        """Whether two candidates have different grades."""
        return len({grade for grade in self.grades if grade is not None}) > 1


@dataclass
class Distilled:
    """A trained model and what is known of its scores.

    Attributes:
        model, tokenizer: Sequence classifier of transformers with one label, and its tokenizer.
        card: What :data:`CARD` says, as JSON.
        losses: Loss of each step.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    card: dict[str, Any]
    drift: Drift
    losses: list[float] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write a folder that transformers, and the reward ``judge_score``, read."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.drift.save(folder)
        sealed.write(folder / CARD, json.dumps(self.card, indent=1))


def read(path: Path) -> list[Graded]:
    """Graded candidates of a JSONL file, a context a line: ``prompt``, ``texts``, ``grades``, ``user``.

    Raises:
        DistillError: the file is not there, or a line is not that.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DistillError(f"{path}: cannot be read ({error}); name a file of recrl judge grade") from error
    return [_line(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _line(path: Path, number: int, line: str) -> Graded:
    try:
        found = json.loads(line)
        texts, grades = tuple(map(str, found["texts"])), tuple(found["grades"])
        prompt = [{"role": str(m["role"]), "content": str(m["content"])} for m in found["prompt"]]
        known = all(one is None or (type(one) is int and one >= 0) for one in grades)
        if len(texts) != len(grades) or not texts or not prompt or not known:
            raise ValueError("as many grades as texts, each a whole number from 0 or null")
    except (ValueError, LookupError, TypeError) as error:
        raise DistillError(
            f"{path}, line {number}: no graded context ({error}); a line is "
            '{"prompt": [messages], "texts": [...], "grades": [0, 2, null], "user": ...}'
        ) from error
    return Graded(prompt, texts, grades, found.get("user"))


def split(graded: Sequence[Graded], config: DistillConfig) -> tuple[list[Graded], list[Graded]]:
    """Contexts to learn from, and those of users that are held out.

    Raises:
        DistillError: one of the two holds nothing that could be told apart.
    """
    users = sorted({str(one.user) for one in graded})
    rng = np.random.default_rng(config.seed)
    held = set(rng.permutation(users)[: max(1, round(config.held_out * len(users)))].tolist())
    parts = (
        [one for one in graded if str(one.user) not in held],
        [one for one in graded if str(one.user) in held],
    )
    for part, name in zip(parts, ("to learn from", "held out"), strict=True):
        if not any(one.tells for one in part):
            raise DistillError(
                f"{len(part)} contexts of {len(graded)} are {name}, and none has candidates of two grades; "
                "grade more contexts, or candidates that differ more"
            )
    return parts


def distill(
    folder: Path | str,
    tokenizer: PreTrainedTokenizerBase,
    graded: Sequence[Graded],
    config: DistillConfig,
    about: Mapping[str, Any],
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> Distilled:
    """Train a scalar head, and the model below it, on graded candidates.

    Args:
        folder: Model to start from, such as the policy of a run; a causal model gets a new head.
        tokenizer: Its tokenizer.
        graded: Contexts; those without two grades teach comparing losses nothing.
        about: What the card says of the grades: who gave them.
        on_step: Function that is called after each step with its number (from 1) and loss.

    Raises:
        DistillError: nothing can be learned, or the model has no scalar head.
    """
    learned, held = split(graded, config)
    torch.manual_seed(config.seed)
    with quiet():  # that the head is new is no news
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
    if not isinstance(getattr(model, "score", None), nn.Linear):
        raise DistillError(
            f"{folder}: a {type(model).__name__} has no linear head called score; use another model"
        )
    model.config.pad_token_id = tokenizer.pad_token_id
    texts = [texts_of(tokenizer, one) for one in (*learned, *held)]
    grades = [torch.tensor([MISSING if g is None else g for g in one.grades]) for one in (*learned, *held)]
    highest = max(1, max(int(one.max()) for one in grades))
    longest = max(len(one.shared) + max(map(len, one.rests)) for one in texts)
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if room is not None and longest > room:
        raise DistillError(
            f"{folder}: a context with a candidate has {longest} tokens, and the model reads {room}"
        )
    shared = can_share(model, longest)
    trained = _Training(model, config, highest, shared)
    for step, chosen in enumerate(_batches(len(learned), config), 1):
        trained.step([texts[i] for i in chosen], [grades[i] for i in chosen])
        on_step(step, trained.losses[-1])
    model.eval()
    apart = slice(len(learned), None)
    seen, unseen = (_states(model, part, shared) for part in (texts[: len(learned)], texts[apart]))
    scores = _scores(model, unseen)
    card = {
        **about,
        "loss": config.loss,
        "strictness": config.strictness,
        "contexts": len(learned),
        "held out": len(held),
        "score": Calibration.fitted(scores, grades[apart], highest).as_json(),
        "acceptance": Calibration.fitted(scores, [_accepted(one) for one in grades[apart]], 1).as_json(),
        "agreement": agreement(scores, grades[apart]),
        "human agreement": "not measured",
    }
    return Distilled(
        model,
        tokenizer,
        card,
        Drift.fitted(torch.cat(seen).float().cpu(), torch.cat(unseen).float().cpu()),
        trained.losses,
    )


def scores_of(
    model: PreTrainedModel, texts: Sequence[Texts], *, shared: bool, batch: int = 8
) -> list[Tensor]:
    """Scores of the candidates of each context, without gradients."""
    return _scores(model, _states(model, texts, shared, batch))


def agreement(scores: Sequence[Tensor], grades: Sequence[Tensor]) -> dict[str, Any]:
    """Share of pairs of one context that scores put in the order of their grades, a tie counts half.

    Returns:
        ``all``, and ``2>1``, ``2>0``, ``1>0`` by the grades of the pair, each with the number of pairs;
        None where there is no pair.
    """
    won: dict[str, list[float]] = {}
    for told, given in zip(scores, grades, strict=True):
        above, below = torch.where((given[:, None] > given[None, :]) & (given[None, :] != MISSING))
        for i, j in zip(above.tolist(), below.tolist(), strict=True):
            win = 0.5 if told[i] == told[j] else float(told[i] > told[j])
            for name in ("all", f"{int(given[i])}>{int(given[j])}"):
                won.setdefault(name, []).append(win)
    return {name: {"share": float(np.mean(wins)), "pairs": len(wins)} for name, wins in sorted(won.items())}


def token_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Mapping[str, str]], text: str
) -> list[int]:
    """Tokens of a text with its prompt, as the reward ``reward_model`` reads them."""
    asked = [*map(dict, prompt), {"role": "assistant", "content": text}]
    whole = tokenizer.apply_chat_template(asked, tokenize=False)
    return list(tokenizer(whole, add_special_tokens=False)["input_ids"])


def texts_of(tokenizer: PreTrainedTokenizerBase, graded: Graded) -> Texts:
    """Tokens of the candidates of one context, each with its prompt."""
    return Texts.of([token_ids(tokenizer, graded.prompt, text) for text in graded.texts])


def _accepted(grades: Tensor) -> Tensor:
    return torch.where(grades == MISSING, grades, (grades > 0).long())


def _batches(contexts: int, config: DistillConfig) -> Iterator[list[int]]:
    """Contexts of each step, all visited in a random order again and again."""
    rng = np.random.default_rng(config.seed)
    waiting: list[int] = []
    for _ in range(config.steps):
        while len(waiting) < config.contexts_per_step:
            waiting += rng.permutation(contexts).tolist()
        yield waiting[: config.contexts_per_step]
        waiting = waiting[config.contexts_per_step :]


def _states(model: PreTrainedModel, texts: Sequence[Texts], shared: bool, batch: int = 8) -> list[Tensor]:
    """What the head reads of the candidates of each context, ``[candidate, hidden]``."""
    found: list[Tensor] = []
    with torch.no_grad():
        for first in range(0, len(texts), batch):
            part = texts[first : first + batch]
            states = hidden_states(model, part, shared=shared)
            found += [row[: len(one.rests)] for row, one in zip(states, part, strict=True)]
    return found


def _scores(model: PreTrainedModel, states: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [head(model)(one)[:, 0].float().cpu() for one in states]


class _Training:
    """Model, optimiser and schedule, and the offsets of contexts if there are any."""

    def __init__(self, model: PreTrainedModel, config: DistillConfig, highest: int, shared: bool) -> None:
        self.model, self.shared, self.highest = model.train(), shared, highest
        self.losses: list[float] = []
        self._loss = LOSSES[config.loss]
        hidden = model.config.get_text_config().hidden_size
        self._offset = nn.Linear(hidden, 1).to(model.device) if config.strictness else None
        parameters = [*model.parameters(), *(self._offset.parameters() if self._offset else ())]
        self._supervised = Supervised(
            model, parameters, config.steps, config.learning_rate, config.weight_decay
        )

    def step(self, texts: Sequence[Texts], grades: Sequence[Tensor]) -> None:
        states = hidden_states(self.model, texts, shared=self.shared)
        scores = head(self.model)(states)[..., 0].float()
        if self._offset is not None:
            scores = scores + self._offset(self._contexts(texts))
        given = nn.utils.rnn.pad_sequence(list(grades), batch_first=True, padding_value=MISSING)
        loss = self._loss(scores, given.to(scores.device), self.highest)
        loss.backward()
        self._supervised.step()
        self.losses.append(loss.item())

    def _contexts(self, texts: Sequence[Texts]) -> Tensor:
        """State at the end of what the candidates of each context share, ``[context, hidden]``."""
        alone = [Texts(one.shared[:-1] or one.shared, [one.shared[-1:]]) for one in texts]
        return hidden_states(self.model, alone, shared=False)[:, 0]
