"""Language models that are asked in words, such as the judge that a reward may name.

``ChatModel``   the protocol: conversations in, texts out
``Endpoint``    one behind an OpenAI-compatible interface: vLLM, a hosted model
``quoted``      untrusted text as a part of what is asked
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from ..http.client import Client, NoReplyError, Reply
from .settings import ChatConfig

Conversation = str | Sequence[Mapping[str, Any]]
"""A list of ``{"role", "content"}`` messages; a text alone is one message of the user."""

EXCERPT = 200  # characters of an answer shown in an error
WHOLE = "stop"
"""Reason for which a whole answer ends; a filter, a limit or a fault leaves another."""


class ChatError(RuntimeError):
    """A model did not answer; the message names url, status and the beginning of what came instead."""


class ChatModel(Protocol):
    """A language model that is asked in words."""

    def chat(self, conversations: Sequence[Conversation]) -> list[str]:
        """Answer of the model to each conversation, several at once.

        Raises:
            ChatError: an answer is missing, empty, or did not come to its own end.
        """
        ...

    async def ask(self, conversation: Conversation) -> str:
        """Answer of the model to one conversation, for code that awaits many.

        Raises:
            ChatError: as ``chat``.
        """
        ...


class Endpoint:
    """Asks a server at ``/chat/completions``. Copies that travel to another process ask by themselves.

    Raises:
        ValueError: the url is not one of HTTP, or the variable of the key is not set.
    """

    def __init__(self, config: ChatConfig) -> None:
        self.config = config
        address = f"{config.url.rstrip('/')}/chat/completions"
        self._client = Client(
            address,
            token_env=config.token_env,
            timeout=config.timeout,
            deadline=config.deadline,
            connections=config.concurrency,
        )
        self._pool = ThreadPoolExecutor(config.concurrency, thread_name_prefix="chat")

    def __reduce__(self) -> tuple[type[Endpoint], tuple[ChatConfig]]:
        return Endpoint, (self.config,)

    def chat(self, conversations: Sequence[Conversation]) -> list[str]:
        return list(self._pool.map(self._answer, conversations))

    async def ask(self, conversation: Conversation) -> str:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, conversation)

    def _answer(self, conversation: Conversation) -> str:
        config = self.config
        messages = (
            [{"role": "user", "content": conversation}]
            if isinstance(conversation, str)
            else list(conversation)
        )
        content = {
            "model": config.model,
            "messages": messages,
            "temperature": config.temperature,
            "max_tokens": config.max_tokens,
            **config.options,
        }
        content = {name: value for name, value in content.items() if value is not None}
        try:
            return self._text(self._client.post(content))
        except NoReplyError as error:
            raise ChatError(f"POST {self._client.url} failed, timeout={config.timeout:g}: {error}") from None

    def _text(self, answer: Reply) -> str:
        try:
            if not answer.ok:
                raise ValueError(answer.reason)
            (choice,) = answer.json()["choices"]
            text, ended = choice["message"]["content"], choice["finish_reason"]
        except (LookupError, TypeError, ValueError):
            came = f"status {answer.status}, {answer.beginning(EXCERPT)!r}"
            raise ChatError(f"{self._asked}: no answer of one choice with a message ({came})") from None
        said = repr(text[:EXCERPT] if isinstance(text, str) else text)[: 2 * EXCERPT]
        if ended == "length":
            most = self.config.max_tokens
            raise ChatError(f"{self._asked}: cut off at max_tokens={most}; set more ({said})")
        if not isinstance(text, str) or not text.strip():
            raise ChatError(f"{self._asked}: an answer without text, finish_reason {str(ended)[:40]!r}")
        if ended != WHOLE:
            raise ChatError(
                f"{self._asked}: no whole answer, finish_reason {str(ended)[:40]!r} instead of {WHOLE!r} "
                f"({said})"
            )
        if not _is_text(text):
            raise ChatError(f"{self._asked}: an answer with half a character, which is no text ({said})")
        return text

    @property
    def _asked(self) -> str:
        return f"{self._client.url}, model {self.config.model!r}"


def _is_text(text: str) -> bool:
    """Whether a file can hold a text: JSON may bring half of a surrogate pair, which no file takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def quoted(text: str, name: str) -> str:
    """Text that somebody else wrote, as data in a question: it can neither end its quotation nor open
    another, and holds no control token of a chat template that is written with ``<``.

    Args:
        name: What the text is, in one word: ``answer``, ``history``.
    """
    return f"<{name}>\n{text.replace('<', '&lt;')}\n</{name}>"
