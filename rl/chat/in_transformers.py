"""A transformers model of this process that is asked in words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...envs.chat.ledger import Ledger
from ...envs.chat.models import Question
from ...envs.chat.settings import ChatConfig
from ..decoding.generate import generate
from ..policy.errors import PolicyError
from ..policy.loading import load, placed
from ..policy.settings import PolicyConfig
from ..sampling import Sampling
from .limits import LateError, Limits, Schemas
from .local import LocalModel, Written, end_tokens


class TransformersModel(LocalModel):
    """Answers batches in this process, on its GPU if there is one.

    Equal prompts are read once (:mod:`recrl.rl.decoding.generate`). Sampled answers depend on the seed and
    the question alone, greedy ones on the question.

    Args:
        config: Settings, of ``backend=transformers``.
        ledger: Ledger that counts; by default one of its own.

    Raises:
        ValueError: no such model, or one that cannot be asked.
        ModuleNotFoundError: a package is missing.
    """

    def __init__(self, config: ChatConfig, *, ledger: Ledger | None = None) -> None:
        if config.model == "tiny":
            raise ValueError("model=tiny has random weights; name a folder, such as runs/demo/policy")
        dtype = config.dtype
        if dtype == "auto":
            dtype = "bfloat16" if torch.cuda.is_available() else "float32"
        policy = PolicyConfig(model=config.model, dtype=dtype)
        try:
            model, tokenizer = load(policy)
        except PolicyError as error:
            raise ValueError(str(error).replace("policy.model", "model")) from error
        self._model = placed(model, policy).eval()
        text = model.config.get_text_config()
        super().__init__(config, tokenizer, getattr(text, "max_position_embeddings", None), ledger=ledger)
        self._vocabulary = int(text.vocab_size)
        self._ends = end_tokens(tokenizer, model.config.eos_token_id)
        self._schemas = Schemas(tokenizer, self._vocabulary, self._ends)

    def write(self, prompts: list[list[int]], questions: list[Question], until: float) -> list[Written]:
        config = self.config
        matchers = [self._schemas.matcher(question) for question in questions]
        limits = Limits(self._tokenizer, matchers, self._vocabulary, self._ends[0], config.stop, until)
        draw = None if self.greedy else _Draws(config, [q.key(self.settings) for q in questions])
        sampling = Sampling(config.max_tokens, ends=self._ends, temperature=0.0)
        try:
            answers = generate(self._model, prompts, sampling, constraint=limits, draw=draw)
        except LateError:
            return [Written("", 0, ended=False, late=True) for _ in prompts]
        found = []
        for tokens in answers:
            text = self._tokenizer.decode(tokens, skip_special_tokens=True)
            stop = limits.stopped(text)
            ended = tokens[-1] in self._ends or stop is not None
            found.append(Written(text[:stop], len(tokens), ended))
        return found

    def _release(self) -> None:
        del self._model


class _Draws:
    """Samples by the temperature, each answer with random numbers of its own, not with the trainer's."""

    def __init__(self, config: ChatConfig, keys: Sequence[str]) -> None:
        self._temperature, seed = config.temperature, config.seed or 0
        self._generators = [torch.Generator().manual_seed((seed + int(key[:15], 16)) % 2**63) for key in keys]

    def __call__(self, answers: Sequence[int], logits: Tensor) -> Tensor:
        chances = (logits.float() / self._temperature).softmax(-1).cpu()
        drawn = [
            torch.multinomial(row, 1, generator=self._generators[answer])
            for answer, row in zip(answers, chances, strict=True)
        ]
        return torch.cat(drawn).to(logits.device)
