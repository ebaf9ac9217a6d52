"""A model without a model, for tests and guides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from .models import ChatModel, Message, Question, Reply

Script = Callable[[Sequence[Message]], str | Reply] | Sequence[str | Reply]


class Scripted(ChatModel):
    """Answers by a function of the messages, or one text after the other.

    Args:
        script: Function of a question's messages, or the answers in order; a :class:`Reply` stands for a
            missing answer, or for one with tokens and seconds.
        options: Arguments of :class:`ChatModel`.

    Attributes:
        asked: Messages of the questions so far.
    """

    def __init__(self, script: Script, **options: Any) -> None:
        super().__init__(**options)
        self._script, self._rest = script, iter(()) if callable(script) else iter(script)
        self.asked: list[Sequence[Message]] = []

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"backend": "scripted"}

    def start(self, questions: Sequence[Question]) -> list[Future[Reply]]:
        found = []
        for question in questions:
            self.asked.append(question.messages)
            answer = self._script(question.messages) if callable(self._script) else next(self._rest)
            found.append(Future[Reply]())
            found[-1].set_result(Reply(answer) if isinstance(answer, str) else answer)
        return found
