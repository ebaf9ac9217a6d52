"""The key of a rollout server. vLLM itself asks for one on its public routes only, not on those that exchange
weights."""

import os
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

KEY = "RECRL_API_KEY"
"""Environment variable that holds the key, of the server and of those who ask it."""

KEY_FILE = "server-key"
"""File of the run folder that holds the key where the variable is not set."""

# Says only that the server is there.
_OPEN = "/health"

_Message = MutableMapping[str, Any]


class RequireKey:
    """ASGI middleware: every route but the health check wants ``Authorization: Bearer KEY``."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._wanted = f"Bearer {os.environ[KEY]}".encode()

    async def __call__(
        self,
        scope: _Message,
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan" or scope.get("path") == _OPEN:
            await self._app(scope, receive, send)
            return
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        if secrets.compare_digest(given, self._wanted):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        await send(
            {"type": "http.response.start", "status": 401, "headers": [(b"content-type", b"text/plain")]}
        )
        await send({"type": "http.response.body", "body": f"set {KEY} to the server's key".encode()})
