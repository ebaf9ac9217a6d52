"""Language models that are asked in words: a judge, a writer, an agent.

``ChatModel``   what is asked: conversations in, one :class:`Reply` each out
``Reply``       an answer, or the reason why there is none
``Question``    one conversation as a backend gets it
``ChatError``   raised in place of a missing answer by those who want texts alone

Backends: :class:`recrl.envs.chat.endpoint.Endpoint` (a server), :class:`recrl.envs.chat.scripted.Scripted`
(tests), and in this process :mod:`recrl.rl.chat` (transformers, vLLM), which makes any of them out of a
configuration. Text of others goes into a question by :func:`recrl.envs.chat.untrusted.quoted`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

from pydantic import BaseModel

from .cache import Cache
from .ledger import Ledger
from .schemas import parse
from .untrusted import quoted

__all__ = ["REASONS", "ChatError", "ChatModel", "Conversation", "Question", "Reply", "quoted"]

Message = Mapping[str, Any]
Conversation = str | Sequence[Message]
"""A list of ``{"role", "content"}`` messages; a text alone is one message of the user."""

Reason = Literal[
    "late",
    "unreachable",
    "status",
    "refused",
    "empty",
    "cut off",
    "tool call",
    "garbage",
    "shape",
    "too long",
    "unfit",
]
REASONS: tuple[Reason, ...] = get_args(Reason)
"""Why an answer is missing; docs/chat.md says of each when it is."""

EXCERPT = 200
"""Characters of an answer that a :attr:`Reply.detail` shows."""


class ChatError(RuntimeError):
    """A model did not answer; the message says what came instead."""


@dataclass(frozen=True)
class Reply:
    """Answer to one conversation. A missing one has a reason, and no text.

    Attributes:
        text: The whole answer; None if it is missing.
        parsed: The answer as an instance of the schema that was asked for; None without one.
        reason: Why the answer is missing; None if it is there.
        detail: What came instead, in one line.
        prompt_tokens, completion_tokens: Tokens read and written, where the backend tells.
        seconds: Time from asking to the answer, retries included; of a cached answer, what it took then.
        cached: Whether the model was not asked, since the answer was known.
    """

    text: str | None
    parsed: Any = None
    reason: Reason | None = None
    detail: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0
    cached: bool = False

    @classmethod
    def missing(cls, reason: Reason, detail: str, **counted: Any) -> Reply:
        """A reply without an answer."""
        return cls(None, reason=reason, detail=" ".join(detail.split()), **counted)


@dataclass(frozen=True)
class Question:
    """One conversation on its way to a model.

    Attributes:
        messages: Messages with ``role`` and ``content``.
        schema: What the answer has to be as JSON; None for free text.
        draw: Number of the sample, where the same is asked several times at once.
    """

    messages: tuple[Message, ...]
    schema: type[BaseModel] | None = None
    draw: int = 0

    @property
    def json_schema(self) -> dict[str, Any] | None:
        """The schema as JSON."""
        return None if self.schema is None else self.schema.model_json_schema()

    def key(self, settings: Mapping[str, Any]) -> str:
        """Hash of all that an answer depends on.

        Args:
            settings: Settings of the model, as JSON.
        """
        told = [1, settings, list(map(dict, self.messages)), self.json_schema, self.draw]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


class ChatModel(ABC):
    """A language model that is asked in words. May be asked from several threads.

    A backend says how questions are started (:meth:`start`), and what its answers depend on
    (:attr:`settings`).

    Attributes:
        greedy: Whether equal questions have equal answers.
        cache: Answers on disk; None for none.
        ledger: What was asked so far, by caller.
    """

    greedy: bool = True
    cache: Cache | None = None

    def __init__(self, *, cache: Cache | None = None, ledger: Ledger | None = None) -> None:
        self.cache = cache
        self.ledger = ledger if ledger is not None else Ledger()

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Settings that answers depend on, as JSON: a part of the cache's key."""

    @abstractmethod
    def start(self, questions: Sequence[Question]) -> list[Future[Reply]]:
        """Start to answer; each reply comes when it is there. What goes wrong with one is its reply's reason,
        and an exception is a fault of the program."""

    def close(self) -> None:  # noqa: B027  (few hold anything)
        """Give back what the model holds; it is not asked any more."""

    def replies(
        self,
        conversations: Sequence[Conversation],
        *,
        schema: type[BaseModel] | None = None,
        caller: str = "",
    ) -> list[Reply]:
        """Reply to each conversation, in order, several at once; never an exception over an answer.

        The same conversation twice is asked once if the model is greedy, and else gives two samples.

        Args:
            schema: pydantic class of the answer's JSON, of which :attr:`Reply.parsed` is an instance.
            caller: Who asks, for the ledger.
        """
        drawn: Counter[str] = Counter()
        questions = []
        for conversation in conversations:
            question = Question(_messages(conversation), schema)
            if not self.greedy:
                key = question.key({})
                question = replace(question, draw=drawn[key])
                drawn[key] += 1
            questions.append(question)
        return [future.result() for future in self._asked(questions, caller)]

    async def reply(
        self, conversation: Conversation, *, schema: type[BaseModel] | None = None, caller: str = ""
    ) -> Reply:
        """As :meth:`replies`, of one conversation, for code that awaits many."""
        (future,) = self._asked([Question(_messages(conversation), schema)], caller)
        return await asyncio.wrap_future(future)

    def chat(self, conversations: Sequence[Conversation]) -> list[str]:
        """Text of the answer to each conversation.

        Raises:
            ChatError: an answer is missing.
        """
        return [_text(reply) for reply in self.replies(conversations)]

    async def ask(self, conversation: Conversation) -> str:
        """Text of the answer to one conversation, for code that awaits many.

        Raises:
            ChatError: the answer is missing.
        """
        return _text(await self.reply(conversation))

    def _asked(self, questions: Sequence[Question], caller: str) -> list[Future[Reply]]:
        """Replies to come, each question's own; equal questions wait for the same answer."""
        keys = [question.key(self.settings) for question in questions]
        first: dict[str, Question] = {}
        for key, question in zip(keys, questions, strict=True):
            first.setdefault(key, question)
        coming: dict[str, Future[Reply]] = {}
        for key, question in first.items():
            if (known := self._known(key, question)) is not None:
                coming[key] = Future()
                coming[key].set_result(known)
        unknown = [key for key in first if key not in coming]
        started = self.start([first[key] for key in unknown]) if unknown else []
        for key, answer in zip(unknown, started, strict=True):
            coming[key] = _then(answer, partial(self._finished, key, first[key]))
        found, taken = [], set()
        for key in keys:
            found.append(_then(coming[key], partial(self._counted, caller, key in taken)))
            taken.add(key)
        return found

    def _known(self, key: str, question: Question) -> Reply | None:
        kept = self.cache.get(key) if self.cache is not None else None
        if kept is None:
            return None
        try:
            reply = Reply(**kept, cached=True)
            if not isinstance(reply.text, str):
                return None
            if question.schema is None:
                return reply
            return replace(reply, parsed=parse(reply.text, question.schema))
        except (TypeError, ValueError):  # of another version of this or of the schema
            return None

    def _finished(self, key: str, question: Question, reply: Reply) -> Reply:
        """A reply under its schema, and into the cache if it is whole."""
        if reply.text is None:
            return reply
        if question.schema is not None:
            try:
                reply = replace(reply, parsed=parse(reply.text, question.schema))
            except ValueError as error:
                why = f"no {question.schema.__name__}: {error} ({reply.text[:EXCERPT]!r})"
                return replace(reply, text=None, reason="shape", detail=" ".join(why.split()))
        if self.cache is not None:
            kept = ("text", "prompt_tokens", "completion_tokens", "seconds")
            self.cache.put(key, {name: getattr(reply, name) for name in kept})
        return reply

    def _counted(self, caller: str, again: bool, reply: Reply) -> Reply:
        reply = replace(reply, cached=True) if again and reply.reason is None else reply
        self.ledger.count(caller, reply)
        return reply


def _messages(conversation: Conversation) -> tuple[Message, ...]:
    if isinstance(conversation, str):
        return ({"role": "user", "content": conversation},)
    return tuple(conversation)


def _text(reply: Reply) -> str:
    if reply.text is None:
        raise ChatError(reply.detail)
    return reply.text


def _then(coming: Future[Reply], change: Any) -> Future[Reply]:
    """The reply after a change; one that nobody waits for any more is changed all the same."""
    changed: Future[Reply] = Future()

    def settle(done: Future[Reply]) -> None:
        try:
            reply = change(done.result())
        except BaseException as error:
            if changed.set_running_or_notify_cancel():
                changed.set_exception(error)
            return
        if changed.set_running_or_notify_cancel():
            changed.set_result(reply)

    coming.add_done_callback(settle)
    return changed
