"""Connections for HTTP that keep a deadline.

requests knows how long a server may be silent, not how long it may take: one that sends a byte a second, in a
header or in a body, would never be given up. Here every read from the connection looks at the deadline.
"""

import io
import math
import os
import time
from collections.abc import Mapping
from contextvars import ContextVar
from http.client import HTTPResponse
from http.cookiejar import DefaultCookiePolicy
from typing import Any, ClassVar

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

until: ContextVar[float] = ContextVar("until", default=math.inf)
"""Time, of the monotonic clock, at which the answer that this thread reads must be whole."""


def session(connections: int, proxies: Mapping[str, str]) -> requests.Session:
    """A session without ``.netrc``, whose passwords would go in the place of a key, and without cookies.

    Args:
        connections: Number of connections kept open.
        proxies: Proxies by scheme; none of the environment is used besides.
    """
    found = requests.Session()
    found.trust_env = False
    found.proxies.update(proxies)
    found.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
    found.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    found.headers["Accept-Encoding"] = "gzip, deflate"
    for scheme in ("http://", "https://"):
        found.mount(scheme, _Adapter(pool_maxsize=connections))
    return found


class _Reader(io.RawIOBase):
    def __init__(self, connection: Any) -> None:
        self._connection, self._until = connection, until.get()
        self._raw = connection.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        silence = self._connection.gettimeout()
        self._connection.settimeout(left if silence is None else min(silence, left))
        try:
            return int(self._raw.readinto(buffer))
        finally:
            self._connection.settimeout(silence)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Connection:
    """Part of a connection that an answer needs."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._connection))


class _Response(HTTPResponse):
    def __init__(self, connection: Any, *arguments: Any, **named: Any) -> None:
        super().__init__(_Connection(connection), *arguments, **named)  # type: ignore[arg-type]


class _Plain(HTTPConnection):
    response_class = _Response


class _Secure(HTTPSConnection):
    response_class = _Response


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


class _Adapter(HTTPAdapter):
    _POOLS: ClassVar[dict[str, type]] = {"http": _PlainPool, "https": _SecurePool}

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        super().init_poolmanager(*arguments, **named)
        self.poolmanager.pool_classes_by_scheme = self._POOLS

    def proxy_manager_for(self, proxy: str, **named: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **named)
        if not proxy.lower().startswith("socks"):  # those have connections of their own
            manager.pool_classes_by_scheme = self._POOLS
        return manager
