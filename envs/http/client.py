"""JSON over HTTP: the one client with which rewards, judges and rollout servers are asked.

``Client``      asks one address; bounded in time and size, without redirects, cookies or ``.netrc``
``Reply``       what came back, whatever its status
``strict_json`` JSON as it is read here: finite numbers, no name twice in an object
"""

from __future__ import annotations

import json
import math
import os
import re
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Literal
from urllib.parse import urlsplit

import requests
from requests.utils import get_environ_proxies
from urllib3.exceptions import HTTPError
from urllib3.exceptions import TimeoutError as HTTPTimeoutError

from .addresses import check_url, is_loopback
from .connections import session, until

LIMIT = 8 * 2**20
"""Largest number of bytes of an answer, after decompression, that are read."""

_BLOCK = 2**16
_FAULTS = (requests.RequestException, HTTPError, HTTPException, OSError, UnicodeError, zlib.error)
_SILENT = (requests.Timeout, HTTPTimeoutError, TimeoutError)


class NoReplyError(RuntimeError):
    """No whole answer came; the message says why, and never holds a password."""


class LateError(NoReplyError):
    """The server was silent for too long, or not done at the deadline."""


class TooLongError(NoReplyError):
    """The answer has more bytes than are read."""


@dataclass(frozen=True)
class Reply:
    """Answer of a server.

    Attributes:
        status: HTTP status code.
        reason: Status in words.
        body: Whole content, decompressed.
        retry_after: Header of that name, as it came; None without one.
    """

    status: int
    reason: str
    body: bytes
    retry_after: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the status is one of success."""
        return 200 <= self.status < 300

    def beginning(self, characters: int) -> str:
        """Beginning of the body, as an error may show it."""
        return self.body[: 4 * characters].decode(errors="replace")[:characters]

    def json(self) -> Any:
        """The body as JSON in the strict sense: finite numbers, no name twice in an object.

        Raises:
            ValueError: the body is something else, or nested too deeply.
        """
        return strict_json(self.body)


class Client:
    """Asks one address for JSON.

    May be called from several threads. A proxy of the environment is used for other machines, never for this
    one, so that a key of loopback stays here.

    Args:
        url: ``http://`` or ``https://``.
        headers: further request headers. For a secret use ``token_env``: a run saves its configuration.
        token_env: environment variable that holds a bearer token.
        token: the bearer token itself.
        timeout: longest time to connect, and longest silence of the server, in seconds.
        deadline: seconds until an answer must be whole.
        connections: number of connections kept open for the next request.

    Raises:
        ValueError: the url is not one of HTTP, a time is not positive, or the variable is not set.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        token_env: str | None = None,
        token: str | None = None,
        timeout: float = 60.0,
        deadline: float = 600.0,
        connections: int = 64,
    ) -> None:
        check_url(url)
        for name, seconds in (("timeout", timeout), ("deadline", deadline)):
            if not 0 < seconds < math.inf:
                raise ValueError(f"{name}={seconds} must be a positive number of seconds")
        if token_env is not None and not os.environ.get(token_env):
            raise ValueError(
                f"token_env={token_env!r}: this environment variable is not set; export the token"
            )
        self.url, self.timeout, self.deadline = url, timeout, deadline
        token = token if token_env is None else os.environ[token_env]
        if token is not None and not re.fullmatch(r"[!-~]+", token):
            raise ValueError(
                f"the token of {token_env or 'this server'} holds a blank, a line break or another character "
                "that a header cannot carry; export it without"
            )
        loopback = is_loopback(urlsplit(url).hostname)
        self._session = session(connections, {} if loopback else get_environ_proxies(url))
        self._session.headers.update(headers or {})
        if token is not None:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def get(self, path: str = "") -> Reply:
        """The answer to a GET.

        Args:
            path: Behind the client's url.

        Raises:
            NoReplyError: there is none.
        """
        return self._ask("GET", path, None, LIMIT)

    def post(
        self, content: Any, path: str = "", *, limit: int = LIMIT, deadline: float | None = None
    ) -> Reply:
        """The answer to JSON, whatever its status.

        Args:
            path: Behind the client's url.
            limit: Largest number of bytes of the answer.
            deadline: Seconds until it must be whole; by default the client's.

        Raises:
            NoReplyError: there is none.
        """
        return self._ask("POST", path, content, limit, deadline)

    def close(self) -> None:
        """Give connections back."""
        self._session.close()

    def _ask(
        self,
        method: Literal["GET", "POST"],
        path: str,
        content: Any,
        limit: int,
        deadline: float | None = None,
    ) -> Reply:
        deadline = self.deadline if deadline is None else deadline
        end = time.monotonic() + deadline
        before = until.set(end)
        silence = min(self.timeout, deadline)
        try:
            with self._session.request(
                method,
                self.url + path,
                json=content,
                timeout=silence,
                allow_redirects=False,
                stream=True,
            ) as found:
                body = _body(found, limit)
                return Reply(found.status_code, found.reason or "", body, found.headers.get("Retry-After"))
        except _FAULTS as error:
            if time.monotonic() >= end:
                raise LateError(f"timed out: no whole answer after deadline={deadline:g} s") from None
            kind = LateError if isinstance(error, _SILENT) else NoReplyError
            raise kind(" ".join(str(error).split())) from None
        finally:
            until.reset(before)


def _body(found: requests.Response, limit: int) -> bytes:
    """Whole content of an answer, decompressed; never much more than the limit is in memory."""
    encoding = found.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise NoReplyError(f"the answer is encoded as {encoding[:40]!r}, which was not asked for")
    inflate = None if encoding in ("", "identity") else zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    body = bytearray()
    while block := found.raw.read(_BLOCK, decode_content=False):
        body += block if inflate is None else inflate.decompress(block, limit + 1 - len(body))
        if len(body) > limit:
            raise TooLongError(f"the answer is longer than {limit} bytes")
    if inflate is not None and body and not inflate.eof:
        raise NoReplyError("the compressed answer broke off")
    return bytes(body)


def strict_json(told: bytes | str) -> Any:
    """JSON in the strict sense: finite numbers, no name twice in an object.

    Raises:
        ValueError: the text is something else, or nested too deeply.
    """
    try:
        return json.loads(told, parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(f"{text[:40]} is too large")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return found
