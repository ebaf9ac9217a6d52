"""What models in this process have in common: one thread that answers batches, and prompts as token ids."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError

from ...envs.chat.configured import ConfiguredModel
from ...envs.chat.ledger import Ledger
from ...envs.chat.models import EXCERPT, Question, Reply
from ...envs.chat.settings import ChatConfig
from ...envs.chat.untrusted import any_of, without

# Seconds for which a thread that was just asked one question waits for more.
_LINGER = 0.005


@dataclass(frozen=True)
class Written:
    """What a model wrote.

    Attributes:
        text: Without special tokens and stops.
        tokens: Number of tokens.
        ended: Whether it came to its own end.
        late: Whether the deadline came before.
    """

    text: str
    tokens: int
    ended: bool
    late: bool = False


class LocalModel(ConfiguredModel):
    """A model of this process. Questions that come while it answers are its next batch.

    Args:
        config: Settings of the model.
        tokenizer: Tokenizer with a chat template.
        window: Tokens of a prompt and an answer that the model has room for; None for any number.
        ledger: Ledger that counts; by default one of its own.
    """

    def __init__(
        self, config: ChatConfig, tokenizer: Any, window: int | None, *, ledger: Ledger | None = None
    ) -> None:
        super().__init__(config, ledger=ledger)
        self._tokenizer = tokenizer
        bounds = [bound for bound in (config.context, window) if bound is not None]
        self._window = min(bounds) if bounds else None
        self._tokens = any_of(special_tokens(tokenizer))
        self._waiting: deque[tuple[Question, Future[Reply]]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._fingerprint = fingerprint(config.model)

    @abstractmethod
    def write(self, prompts: list[list[int]], questions: list[Question], until: float) -> list[Written]:
        """Answers to a batch.

        Args:
            prompts: Token ids of each question.
            until: Time, of the monotonic clock, at which the answers must be whole.
        """

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "weights": self._fingerprint}

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a model of backend={self.config.backend} cannot travel to another process: serve it and use "
            "backend=endpoint, or leave the reward's workers out"
        )

    def start(self, questions: Sequence[Question]) -> list[Future[Reply]]:
        coming: list[Future[Reply]] = [Future() for _ in questions]
        with self._changed:
            if self._closed:
                raise RuntimeError("this model is closed")
            self._waiting.extend(zip(questions, coming, strict=True))
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, daemon=True, name="chat")
                self._thread.start()
            self._changed.notify()
        return coming

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        self._release()

    def _release(self) -> None:
        """Give back the weights."""

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                if len(self._waiting) < self.config.batch:
                    self._changed.wait_for(lambda: len(self._waiting) >= self.config.batch, _LINGER)
                count = min(self.config.batch, len(self._waiting))
                batch = [self._waiting.popleft() for _ in range(count)]
            try:
                replies: list[Reply] = self._answer([question for question, _ in batch])
            except BaseException as error:  # whoever waits has to hear of it
                for _, coming in batch:
                    coming.set_exception(error)
                continue
            for (_, coming), reply in zip(batch, replies, strict=True):
                coming.set_result(reply)

    def _answer(self, questions: list[Question]) -> list[Reply]:
        begun = time.monotonic()
        found: dict[int, Reply] = {}
        prompts: dict[int, list[int]] = {}
        for i, question in enumerate(questions):
            prompt = self._prompt(question)
            if isinstance(prompt, Reply):
                found[i] = prompt
            else:
                prompts[i] = prompt
        if prompts:
            asked = [questions[i] for i in prompts]
            written = self.write(list(prompts.values()), asked, begun + self.config.deadline)
            seconds = time.monotonic() - begun
            for (i, prompt), answer in zip(prompts.items(), written, strict=True):
                found[i] = self._reply(answer, len(prompt), seconds)
        return [found[i] for i in range(len(questions))]

    def _reply(self, written: Written, prompt_tokens: int, seconds: float) -> Reply:
        config = self.config
        counted: dict[str, Any] = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": written.tokens,
            "seconds": seconds,
        }
        said = f"({written.text[:EXCERPT]!r})"
        if written.late:
            why = f"timed out: no whole answer after deadline={config.deadline:g} s {said}"
            return Reply.missing("late", f"model {config.model!r}: {why}", **counted)
        if not written.ended:
            why = f"cut off at max_tokens={config.max_tokens}; set more {said}"
            return Reply.missing("cut off", f"model {config.model!r}: {why}", **counted)
        if not written.text.strip():
            return Reply.missing("empty", f"model {config.model!r}: an answer without text", **counted)
        return Reply(written.text, **counted)

    def _prompt(self, question: Question) -> list[int] | Reply:
        """Token ids of a question, whose texts hold no special token; a reply where it cannot be asked."""
        model = f"model {self.config.model!r}"
        messages = []
        for message in question.messages:
            content = message.get("content")
            if not isinstance(content, str):
                return Reply.missing("unfit", f"{model} reads messages of text, not {content!r:.100}")
            messages.append({**message, "content": without(content, self._tokens)})
        try:
            ids = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)[
                "input_ids"
            ]
        except TemplateError as error:
            return Reply.missing("unfit", f"{model}: its chat template refuses the conversation: {error}")
        if self._window is not None and len(ids) + self.config.max_tokens > self._window:
            return Reply.missing(
                "unfit",
                f"{model}: {len(ids)} tokens and an answer of up to max_tokens={self.config.max_tokens} do "
                f"not fit its window of {self._window}; shorten the conversation",
                prompt_tokens=len(ids),
            )
        return list(ids)


def special_tokens(tokenizer: Any) -> list[str]:
    """Texts that a tokenizer reads as control tokens, whoever wrote them."""
    added = tokenizer.added_tokens_decoder.values()
    return [*tokenizer.all_special_tokens, *(token.content for token in added if token.special)]


def end_tokens(tokenizer: Any, declared: Any) -> tuple[int, ...]:
    """Tokens that end an answer: the tokenizer's, and those that the model's files declare.

    Args:
        declared: A token, several, or None.
    """
    further = declared if isinstance(declared, list | tuple) else [declared]
    return tuple(dict.fromkeys(int(t) for t in (tokenizer.eos_token_id, *further) if t is not None))


def fingerprint(model: str) -> list[Any] | None:
    """Names, sizes and times of the files of a folder, since other weights give other answers; None for a
    name."""
    folder = Path(model)
    if not folder.is_dir():
        return None
    stats = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
