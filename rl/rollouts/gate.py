"""Gate of a rollout server, which decides who may ask it what: a middleware inside vLLM.

vLLM itself asks for a key on its public routes only. The exchange of weights needs a few of its development
routes, which can also run any method of the engine, write files and stop the server. A browser's page may
reach a server of loopback.
"""

import json
import os
import secrets
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from ...envs.http.addresses import is_loopback
from .access import KEY, checked_key

HOSTS = "RECRL_SERVER_HOSTS"
"""Environment variable of names, as JSON, to ask the server by besides loopback's; null for any."""

# This route says only that the server is there.
_HEALTH = ("GET", "/health")
ROUTES = {
    ("GET", "/v1/models"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/inference/v1/generate"),
    ("GET", "/weight_info"),
    ("POST", "/pause"),
    ("POST", "/resume"),
    ("POST", "/start_weight_update"),
    ("POST", "/update_weights"),
    ("POST", "/finish_weight_update"),
    ("POST", "/reset_prefix_cache"),
    # Exchange over NCCL.
    ("GET", "/get_world_size"),
    ("POST", "/init_weight_transfer_engine"),
    ("POST", "/update_weight_version"),
}
"""Routes that a server answers with the key; everything else of vLLM is closed."""

_Message = MutableMapping[str, Any]


class Gate:
    """ASGI middleware: a known host, no foreign page, the key, a known route, JSON.

    Raises:
        RolloutError: the environment holds no key.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._wanted = f"Bearer {checked_key(os.environ.get(KEY, ''), KEY)}".encode()
        self._hosts: Collection[str] | None = json.loads(os.environ.get(HOSTS, "[]"))

    async def __call__(
        self,
        scope: _Message,
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        fault = None if scope["type"] == "lifespan" else self._fault(scope)
        if fault is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            status, text = fault
            plain = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": status, "headers": plain})
            await send({"type": "http.response.body", "body": text.encode()})

    def _fault(self, scope: _Message) -> tuple[int, str] | None:
        """Status and words for what must not pass; whoever has no key learns nothing about routes."""
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope.get("headers", ()):
            headers.setdefault(name.lower(), []).append(value)
        route = (scope.get("method"), scope.get("path"))
        host = _only(headers, b"host")
        if not self._is_ours(host):
            return 403, "this server is not asked by that name"
        # A page of another origin in a browser here; a name of its own that leads here was refused above.
        if b"origin" in headers and _only(headers, b"origin") not in (f"http://{host}", f"https://{host}"):
            return 403, "pages of other origins may not ask this server"
        if scope["type"] == "http" and route == _HEALTH:
            return None
        given = _only(headers, b"authorization").encode("latin-1")
        if not secrets.compare_digest(given, self._wanted):
            return 401, f"set {KEY} to the server's key"
        if scope["type"] != "http" or route not in ROUTES:
            return 404, "no route of a rollout server"
        kind = _only(headers, b"content-type").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and kind != "application/json":
            return 415, "Content-Type must be application/json"
        return None

    def _is_ours(self, host: str) -> bool:
        if self._hosts is None:
            return True
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        return is_loopback(name) or name in self._hosts


def _only(headers: dict[bytes, list[bytes]], name: bytes) -> str:
    """Value of a header that is there once, else nothing."""
    values = headers.get(name, [])
    return values[0].decode("latin-1") if len(values) == 1 else ""
