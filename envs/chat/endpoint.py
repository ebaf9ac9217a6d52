"""Models behind an OpenAI-compatible interface: a vLLM server, a hosted model."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from ..http import client as http
from .configured import ConfiguredModel
from .ledger import Ledger
from .models import EXCERPT, Question, Reason, Reply
from .settings import ChatConfig

WHOLE = "stop"
"""``finish_reason`` of a whole answer; a filter, a limit or a fault leaves another."""

# Of a server that may answer the next time.
_BUSY = (408, 425, 429, 500, 502, 503, 504)


class Endpoint(ConfiguredModel):
    """Asks a server at ``/chat/completions``. Copies that travel to another process ask by themselves, and
    have a ledger of their own.

    Args:
        config: Settings, of ``backend=endpoint``.
        ledger: Ledger that counts; by default one of its own.

    Raises:
        ValueError: the url is not one of HTTP, the variable of the key is not set, or the cache is a file.
    """

    def __init__(self, config: ChatConfig, *, ledger: Ledger | None = None) -> None:
        super().__init__(config, ledger=ledger)
        assert config.url is not None, "the settings ask for it"
        self._client = http.Client(
            f"{config.url.rstrip('/')}/chat/completions",
            token_env=config.token_env,
            timeout=config.timeout,
            deadline=config.deadline,
            connections=config.concurrency,
        )
        self._pool = ThreadPoolExecutor(config.concurrency, thread_name_prefix="chat")

    def __reduce__(self) -> tuple[type[Endpoint], tuple[ChatConfig]]:
        return Endpoint, (self.config,)

    def start(self, questions: Sequence[Question]) -> list[Future[Reply]]:
        return [self._pool.submit(self._answer, question) for question in questions]

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _answer(self, question: Question) -> Reply:
        config, content = self.config, self._content(question)
        begun = time.monotonic()
        end = begun + config.deadline
        for attempt in range(config.retries + 1):
            reply, wait = self._attempt(content, end)
            if wait is None or attempt == config.retries:
                break
            pause = max(wait, config.backoff * 2**attempt * random.uniform(0.5, 1.5))
            if time.monotonic() + pause >= end:
                break
            time.sleep(pause)
        return Reply(**{**vars(reply), "seconds": time.monotonic() - begun})

    def _content(self, question: Question) -> dict[str, Any]:
        config = self.config
        content: dict[str, Any] = {
            "model": config.model,
            "messages": list(question.messages),
            "temperature": config.temperature,
            "max_tokens": config.max_tokens,
            "stop": list(config.stop) or None,
            "seed": None if config.seed is None else config.seed + question.draw,
        }
        if question.schema is not None:
            shape = {"name": question.schema.__name__, "schema": question.json_schema, "strict": True}
            content["response_format"] = {"type": "json_schema", "json_schema": shape}
        content |= config.options
        return {name: value for name, value in content.items() if value is not None}

    def _attempt(self, content: dict[str, Any], end: float) -> tuple[Reply, float | None]:
        """A reply, and the seconds to wait before another attempt; None where that would be in vain."""
        left = max(1e-3, end - time.monotonic())
        try:
            answer = self._client.post(content, deadline=left)
        except http.NoReplyError as error:
            late, most = time.monotonic() >= end, self.config.deadline
            why = f"timed out: no whole answer after deadline={most:g} s" if late else error
            told = f"POST {self._client.url} failed, timeout={self.config.timeout:g}: {why}"
            if isinstance(error, http.TooLongError):
                return Reply.missing("too long", told), None
            reason: Reason = "late" if isinstance(error, http.LateError) else "unreachable"
            return Reply.missing(reason, told), None if late else 0.0
        if answer.ok:
            return self._read(answer), None
        busy = answer.status in _BUSY
        return self._no_message(answer, "status"), _seconds(answer.retry_after) if busy else None

    def _read(self, answer: http.Response) -> Reply:
        try:
            told = answer.json()
            (choice,) = told["choices"]
            message, ended = choice["message"], choice["finish_reason"]
            text, refusal = message.get("content"), message.get("refusal")
        except (AttributeError, LookupError, TypeError, ValueError):
            return self._no_message(answer, "garbage")
        fault = self._fault(text, ended, refusal)
        usage = told.get("usage")
        counted: dict[str, Any] = {
            name: _count(usage, name) for name in ("prompt_tokens", "completion_tokens")
        }
        if fault is not None:
            return Reply.missing(fault[0], f"{self._who}: {fault[1]}", **counted)
        return Reply(text, **counted)

    def _fault(self, text: Any, ended: Any, refusal: Any) -> tuple[Reason, str] | None:
        """Why a message is no whole answer, in a word and in a sentence."""
        said = repr(text[:EXCERPT] if isinstance(text, str) else text)[: 2 * EXCERPT]
        how = repr(str(ended)[:40])
        if ended == "length":
            return "cut off", f"cut off at max_tokens={self.config.max_tokens}; set more ({said})"
        if isinstance(refusal, str) and refusal.strip():
            return "refused", f"the model refused: {refusal[:EXCERPT]!r}"
        unfinished: Reason = (
            "refused"
            if ended == "content_filter"
            else "tool call"
            if ended in ("tool_calls", "function_call")
            else "cut off"
        )
        if not isinstance(text, str) or not text.strip():
            reason: Reason = "empty" if ended == WHOLE else unfinished
            return reason, f"an answer without text, finish_reason {how}"
        if ended != WHOLE:
            return unfinished, f"no whole answer, finish_reason {how} instead of {WHOLE!r} ({said})"
        if not _is_text(text):
            return "garbage", f"an answer with half a character, which is no text ({said})"
        return None

    def _no_message(self, answer: http.Response, reason: Reason) -> Reply:
        came = f"status {answer.status}, {answer.beginning(EXCERPT)!r}"
        return Reply.missing(reason, f"{self._who}: no answer of one choice with a message ({came})")

    @property
    def _who(self) -> str:
        return f"{self._client.url}, model {self.config.model!r}"


def _is_text(text: str) -> bool:
    """Whether a file can hold a text: JSON may bring half of a surrogate pair, which no file takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _count(usage: Any, name: str) -> int | None:
    """Number of tokens, where the server tells one that can be."""
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def _seconds(retry_after: str | None) -> float:
    """Seconds of a header ``Retry-After``, which holds a number or a date; 0 for anything else."""
    if retry_after is None:
        return 0.0
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            then = parsedate_to_datetime(retry_after)
            seconds = (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
        except (ValueError, OverflowError, TypeError):
            return 0.0
    return 0.0 if math.isnan(seconds) else max(0.0, seconds)
