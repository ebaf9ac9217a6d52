"""The reward ``http``: scores that a server gives, which may run anywhere and be written in anything.

In a config: ``{name: quality, use: http, params: {url: "https://host/score", columns: [segment]}}``. The
engine's own settings apply too: ``batch_size`` samples a request, ``concurrency``, ``timeout``, ``retries``,
``on_error``.

A request is a POST of JSON, with one entry a sample in every list:

    {"version": 1,
     "prompts": [...],            text, or a list of {"role": ..., "content": ...} messages
     "completions": [...],        likewise
     "columns": {"segment": [...]}}    the dataset columns that the config names

The answer has a status of 2xx and holds the scores in the same order, null where one is missing:

    {"scores": [0.25, null, 1]}

More keys may stand beside ``scores``. Anything else is an error, and none is taken for a score: NaN, which
JSON does not have, a name that stands twice, more than 8 MiB. Redirects are not followed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import Parameter, Signature
from typing import Any

import numpy as np

from ...envs.http.client import Client, NoReplyError, Response
from ..base import Completion, RewardError
from ..registry import reward

VERSION = 1
EXCERPT = 200  # characters of an answer shown in an error
_LARGEST = float(np.finfo(np.float32).max)


@reward("http", range=(0, 1))
class HttpReward:
    """Asks a server for the scores.

    May be called from several threads; each has a connection of its own.

    Args:
        url: ``http://`` or ``https://``.
        columns: dataset columns to send; their entries must be JSON.
        headers: further request headers. For a secret use ``token_env``: a config is saved with its run.
        token_env: environment variable that holds a bearer token.
        timeout: longest time to connect, and longest silence of the server, in seconds.
        deadline: seconds until an answer must be whole.

    Raises:
        ValueError: the url is not one of HTTP, or the variable is not set.
    """

    def __init__(
        self,
        url: str,
        columns: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        token_env: str | None = None,
        timeout: float = 60.0,
        deadline: float = 600.0,
    ) -> None:
        self._client = Client(url, headers=headers, token_env=token_env, timeout=timeout, deadline=deadline)
        self.columns = tuple(columns)
        # What the engine reads: these columns and nothing else.
        self.__signature__ = Signature(
            [Parameter(name, Parameter.KEYWORD_ONLY) for name in ("prompts", "completions", *self.columns)]
        )

    def __call__(
        self, *, prompts: Sequence[Any], completions: Sequence[Completion], **columns: Sequence[Any]
    ) -> list[float | None]:
        """Scores of some samples.

        Raises:
            RewardError: the server cannot be reached, or its answer is not of the form above; the message
                names url, status and the beginning of the answer.
        """
        content: Any = {
            "version": VERSION,
            "prompts": prompts,
            "completions": completions,
            "columns": {name: columns[name] for name in self.columns},
        }
        try:
            answer = self._client.post(content)
        except NoReplyError as error:
            url, timeout = self._client.url, self._client.timeout
            raise RewardError(f"POST {url} failed, with timeout={timeout:g}: {error}") from None
        return self._scores(answer, len(completions))

    def _scores(self, answer: Response, samples: int) -> list[float | None]:
        if not answer.ok:
            raise self._fault(answer, f"{answer.reason}: it must answer with a status of 2xx")
        try:
            found = answer.json()
        except ValueError as error:
            raise self._fault(answer, f"{error}: its answer is not JSON") from None
        scores = found.get("scores") if isinstance(found, dict) else None
        if not isinstance(scores, list):
            raise self._fault(answer, 'its answer must be {"scores": [...]}')
        if len(scores) != samples:
            raise self._fault(answer, f"it gave {len(scores)} scores for {samples} samples")
        for i, score in enumerate(scores):
            # An int may be too large for the floats that scores are.
            if score is not None and (type(score) not in (int, float) or abs(score) > _LARGEST):
                shown = repr(score)[:EXCERPT]
                raise self._fault(answer, f"scores[{i}] is {shown}; it must be a number or null")
        return scores

    def _fault(self, answer: Response, wrong: str) -> RewardError:
        beginning = answer.beginning(EXCERPT)
        return RewardError(f"{self._client.url}: {wrong} (status {answer.status}, answer {beginning!r})")
