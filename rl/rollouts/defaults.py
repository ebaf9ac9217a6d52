"""Defaults of a served policy: a middleware inside vLLM that fills in what a request leaves open.

vLLM has no option for the form of answers to requests that name none, nor for a temperature that is not the
model's.
"""

import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

DEFAULTS = "RECRL_SERVED_DEFAULTS"
"""Environment variable of the file, as JSON, of what a request gets unless it says something else."""

_ROUTES = ("/v1/chat/completions", "/v1/completions")
# Either of them says what an answer looks like.
_FORMS = ("structured_outputs", "response_format", "tools", "vllm_xargs")

_Message = MutableMapping[str, Any]


class Defaults:
    """ASGI middleware: a request for an answer gets the defaults that it does not set itself."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._defaults: dict[str, Any] = json.loads(Path(os.environ[DEFAULTS]).read_text())

    async def __call__(
        self,
        scope: _Message,
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in _ROUTES:
            await self._app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":  # whoever asked is gone
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        whole = self._filled(body)
        headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"content-length"]
        headers.append((b"content-length", str(len(whole)).encode()))
        given = False

        async def filled() -> _Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": whole, "more_body": False}

        await self._app({**scope, "headers": headers}, filled, send)

    def _filled(self, body: bytes) -> bytes:
        """The body with the defaults; as it is where it is no object, which vLLM refuses in its own words."""
        try:
            asked = json.loads(body)
        except ValueError:
            return body
        if not isinstance(asked, dict):
            return body
        formed = any(asked.get(name) is not None for name in _FORMS)
        more = {
            name: value
            for name, value in self._defaults.items()
            if asked.get(name) is None and not (formed and name in _FORMS)
        }
        return json.dumps({**asked, **more}).encode()
