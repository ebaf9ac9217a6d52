"""Attacks on a rollout server: everything that vLLM could answer, asked for without leave."""

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path

from recrl.rl.rollouts.gate import ROUTES

_ROUTE = re.compile(r'router\.(get|post|put|delete|add_api_route|api_route|websocket)\(\s*"(/[^"{]*)"')
_BESIDES = ("/docs", "/redoc", "/openapi.json", "/metrics", "/metrics/", "/shutdown", "/static/x", "/")
# Paths that a router may take for another.
_WRITTEN = ("/{}", "/{}/", "//{}", "/./{}", "/v1/../{}", "/{};x", "/{}%00", "/{}?x=1", "/health/../{}")
_FORMS = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; a=json", "")
_SAVE = {"method": "save_sharded_state", "kwargs": {"path": "/tmp/recrl-attack"}}
REFUSED = (401, 403, 404, 405, 415)


def routes() -> list[str]:
    """Every path in the source of vLLM's servers."""
    (folder,) = find_spec("vllm").submodule_search_locations
    sources = (Path(folder) / "entrypoints").rglob("*.py")
    found = {path for source in sources for _, path in _ROUTE.findall(source.read_text())}
    return sorted({*found, *_BESIDES, *(path for _, path in ROUTES)})


@dataclass
class Table:
    """What became of the attacks."""

    tried: int = 0
    refused: int = 0
    silent: list[str] = field(default_factory=list)

    def note(self, what: str, status: int) -> None:
        self.tried += 1
        if status in REFUSED:
            self.refused += 1
        else:
            self.silent.append(f"{what}: {status}")


def ask(port: int, method: str, path: str, headers: dict[str, str], body: bytes = b"{}") -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    try:
        found = connection.getresponse()
        return found.status, found.read()
    finally:
        connection.close()


def attacks(key: str) -> Iterator[tuple[str, str, str, dict[str, str]]]:
    """Name, method, path and headers of what must not pass."""
    kind, right = {"Content-Type": "application/json"}, {"Authorization": f"Bearer {key}"}
    strangers = {
        "no key": kind,
        "empty key": {**kind, "Authorization": "Bearer "},
        "wrong key": {**kind, "Authorization": f"Bearer {key[:-1]}"},
        "other scheme": {**kind, "Authorization": f"Basic {key}"},
        "text/plain": {"Content-Type": "text/plain"},
        "foreign origin": {**kind, **right, "Origin": "http://evil.example"},
        "null origin": {**kind, **right, "Origin": "null"},
        "rebound name": {**kind, **right, "Host": "evil.example:8000"},
        "no name": {**kind, **right, "Host": ""},
    }
    for path in routes():
        for name, headers in strangers.items():
            if path != "/health" or {"Origin", "Host"} & headers.keys():
                yield name, "GET", path, headers
                yield name, "POST", path, headers
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"):
            if (method, path) not in {*ROUTES, ("GET", "/health")}:
                yield "closed route", method, path, {**kind, **right}
        if ("POST", path) in ROUTES:
            for other in _FORMS:
                yield "a page's form", "POST", path, {**right, "Content-Type": other}
    for name in ("collective_rpc", "sleep", "server_info", "openapi.json"):
        for written in _WRITTEN:
            for method in ("GET", "POST"):
                yield "written otherwise", method, written.format(name), {**kind, **right}
                yield "written otherwise, no key", method, written.format(name), kind


def attack(port: int, key: str) -> Table:
    table = Table()
    for name, method, path, headers in attacks(key):
        status, _ = ask(port, method, path, headers, json.dumps(_SAVE).encode())
        table.note(f"{name}: {method} {path}", status)
    for path in ("/v1/realtime", "/", "/update_weights"):
        for given in ("", f"Authorization: Bearer {key}\r\n"):
            table.note(f"websocket {path}", _upgraded(port, path, given))
    return table


def _upgraded(port: int, path: str, given: str) -> int:
    lines = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{given}"
    lines += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(lines.encode())
        return int(connection.recv(64).split()[1])
