"""JSON to a server over HTTP: what rewards behind an endpoint and language models are asked with."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests


class Client:
    """Posts JSON to one address; redirects are not followed.

    May be called from several threads; each has a connection of its own.

    Args:
        url: ``http://`` or ``https://``.
        headers: further request headers. For a secret use ``token_env``: a configuration is saved with its
            run.
        token_env: environment variable that holds a bearer token.
        timeout: seconds to connect in, and that the server may be silent for.

    Raises:
        ValueError: the url is not one of HTTP, the time is not positive, or the variable is not set.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        token_env: str | None = None,
        timeout: float = 60.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"url={url!r} must be an address of the form http://host/path or https://host/path"
            )
        if timeout <= 0:
            raise ValueError(f"timeout={timeout} must be a positive number of seconds")
        if token_env is not None and not os.environ.get(token_env):
            raise ValueError(
                f"token_env={token_env!r}: this environment variable is not set; export the token"
            )
        self.url, self.timeout = url, timeout
        self._headers = dict(headers or {})
        self._token = None if token_env is None else os.environ[token_env]
        self._local = threading.local()

    def post(self, content: Any) -> requests.Response:
        """The server's answer, whatever its status.

        Raises:
            requests.RequestException: there is none.
        """
        return self._session().post(
            self.url, json=content, timeout=self.timeout, allow_redirects=False, auth=self._sign
        )

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.headers.update(self._headers)
        session: requests.Session = self._local.session
        return session

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """An ``auth`` of requests, since it would put a password from ``.netrc`` in place of a header."""
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request
