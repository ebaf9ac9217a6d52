"""Answers of the frozen model to full text, and the likeliest tokens of each position: the adaptor's targets.

They are computed once and kept in parts; a teacher that was stopped goes on with the parts that are missing.

``Taught``  answers to one prompt
``teach``   those to all
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...envs.storage import sealed, states
from ...envs.task import Lines, Message, Text
from ..decoding.candidates import Candidates
from ..decoding.forms import longest_answer, token_constraint
from ..decoding.generate import generate
from ..policy.slots import ADAPTOR
from ..sampling import Sampling
from .settings import TeacherConfig

# Prompts of a part.
_PART = 16


@dataclass(frozen=True)
class Taught:
    """What the frozen model answers to a prompt.

    Attributes:
        answers: Token ids of each answer, ends included, ``[answers][tokens]``.
        tokens: Likeliest tokens of each position, all answers behind one another, ``[positions, kept]``.
        chances: Their probabilities, float16; the kept ones add up to nearly 1.
    """

    answers: list[list[int]]
    tokens: Tensor
    chances: Tensor


class _Noting(Candidates):
    """Draws answers, the first greedily, and notes what was likely."""

    def __init__(self, copies: int, seed: int, kept: int) -> None:
        super().__init__(copies, seed)
        self._kept = kept
        self.noted: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(copies)]

    def __call__(self, answers: Sequence[int], logits: Tensor) -> Tensor:
        if self._kept:
            chances, tokens = logits.softmax(dim=-1).topk(min(self._kept, logits.shape[-1]))
            rows = zip(answers, tokens.int().cpu(), chances.half().cpu(), strict=True)
            for answer, likely, their_chances in rows:
                self.noted[answer].append((likely, their_chances))
        return super().__call__(answers, logits)


def teach(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[Message]],
    form: Lines | Text,
    config: TeacherConfig,
    seed: int,
    folder: Path,
    on_prompt: Callable[[int], None] = lambda done: None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Taught] | None:
    """Answers to each prompt, from the folder where they are there.

    Args:
        model: Frozen model, in evaluation mode.
        prompts: Prompts as full text.
        form: Form of an answer.
        folder: Folder of the parts; those of another model, other prompts or settings are replaced.
        on_prompt: Function that is called with the number of prompts that are answered.
        stop: Function that says after each part whether this was the last one for now.

    Returns:
        The answers; None where it was stopped.
    """
    identity = _identity(model, prompts, config, seed)
    constraint = token_constraint(form, tokenizer, model.config.get_text_config().vocab_size, "distinct")
    longest = constraint.max_tokens if constraint else longest_answer(form, tokenizer)
    sampling = Sampling(longest, ends=(int(tokenizer.eos_token_id),))
    found: list[Taught] = []
    for first in range(0, len(prompts), _PART):
        part = folder / f"{first:06d}"
        if not part.exists() or sealed.fault(part) or sealed.read(part)["identity"] != identity:
            some = list(prompts[first : first + _PART])
            encoded: Any = tokenizer.apply_chat_template(some, add_generation_prompt=True, return_dict=True)
            taught = []
            for number, ids in enumerate(encoded["input_ids"], first):
                noting = _Noting(config.answers, seed, config.kept)
                noting.begin(number, number + 1)
                given = {"copies": config.answers, "constraint": constraint, "draw": noting}
                answers = generate(model, [ids], sampling, **given)  # type: ignore[arg-type]
                taught.append({"answers": answers, **_stacked(noting.noted)})
                on_prompt(number + 1)
            _save(part, {"taught": taught}, identity)
        found += [Taught(**one) for one in states.read(part / "state")["taught"]]
        on_prompt(len(found))
        if stop():
            return None
    return found


def _stacked(noted: Sequence[Sequence[tuple[Tensor, Tensor]]]) -> dict[str, Tensor]:
    rows = [row for answer in noted for row in answer]
    if not rows:
        return {"tokens": torch.empty(0, 0, dtype=torch.int32), "chances": torch.empty(0, 0)}
    return {"tokens": torch.stack([r[0] for r in rows]), "chances": torch.stack([r[1] for r in rows])}


def _save(part: Path, state: dict[str, Any], identity: str) -> None:
    aside = part.with_name(f".{part.name}.writing")
    sealed.remove(aside)
    aside.mkdir(parents=True)
    states.write(state, aside / "state")
    sealed.publish(aside, part, {"identity": identity}, sealed.seal(aside, sealed.files(aside)))


def _identity(model: Any, prompts: Sequence[Any], config: TeacherConfig, seed: int) -> str:
    told = hashlib.sha256(json.dumps([list(prompts), config.model_dump(), seed]).encode())
    for name, value in model.state_dict().items():
        if ADAPTOR not in name:
            told.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
    return told.hexdigest()[:16]
