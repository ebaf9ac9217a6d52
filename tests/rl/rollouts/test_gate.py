"""Who may ask a rollout server what. The same against a real server: tests/launch/cluster/test_vllm.py."""

import asyncio
import json

import pytest

from recrl.rl.rollouts.access import KEY
from recrl.rl.rollouts.base import RolloutError
from recrl.rl.rollouts.gate import HOSTS, ROUTES, Gate

SECRET = "a-key-of-twenty-four-chars"
RIGHT = {"host": "127.0.0.1:8000", "authorization": f"Bearer {SECRET}", "content-type": "application/json"}
PASSED = 200


async def inside(scope, receive, send):
    await send({"type": "http.response.start", "status": PASSED, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def gate(monkeypatch):
    monkeypatch.setenv(KEY, SECRET)
    monkeypatch.setenv(HOSTS, json.dumps(["rollouts"]))
    return Gate(inside)


def answer(gate, method="POST", path="/update_weights", kind="http", **changes):
    """Status of a request whose headers are right but for the changes; None leaves one out."""
    named = {name: changes.get(name.replace("-", "_"), value) for name, value in RIGHT.items()}
    named |= {name: value for name, value in changes.items() if name not in named and "_" not in name}
    headers = [
        (name.encode(), each.encode("latin-1"))
        for name, value in named.items()
        if value is not None
        for each in ([value] if isinstance(value, str) else value)
    ]
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "method": method, "path": path, "headers": headers}
    asyncio.run(gate(scope, None, send))
    return sent[0].get("status", sent[0].get("code"))


@pytest.mark.parametrize("route", sorted(ROUTES))
def test_every_route_of_ours_passes_with_the_key_and_only_so(gate, route):
    assert answer(gate, *route) == PASSED
    assert answer(gate, *route, authorization=None) == 401


def test_health_is_answered_without_a_key(gate):
    bare = {"authorization": None, "content_type": None}
    assert answer(gate, "GET", "/health", **bare) == PASSED
    assert answer(gate, "POST", "/health", **bare) == 401
    assert answer(gate, "GET", "/health", **bare, host="evil.example") == 403


@pytest.mark.parametrize(
    "given",
    [
        *("", "Bearer", "Bearer ", f"Bearer {SECRET} ", f"Bearer {SECRET[:-1]}", f"Bearer {SECRET}x"),
        *(f"bearer {SECRET}", f"Basic {SECRET}", SECRET, "Bearer \xe9\xff", [f"Bearer {SECRET}"] * 2),
    ],
)
def test_nothing_but_the_key_is_the_key(gate, given):
    assert answer(gate, authorization=given) == 401
    assert answer(gate, path="/sleep", authorization=given) == 401, "a route was told apart"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", "/collective_rpc"), ("POST", "/sleep"), ("POST", "/shutdown"), ("GET", "/docs")),
        *(("GET", "/openapi.json"), ("GET", "/metrics"), ("POST", "/v1/load_lora_adapter")),
        *(("GET", "/update_weights"), ("OPTIONS", "/update_weights"), ("HEAD", "/weight_info")),
        *(("POST", "//update_weights"), ("POST", "/update_weights/"), ("POST", "/UPDATE_WEIGHTS")),
        *(("POST", "/v1/../update_weights"), ("POST", "/update_weights\0"), ("POST", "")),
    ],
)
def test_everything_else_is_closed_even_with_the_key(gate, method, path):
    assert answer(gate, method, path) == 404


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:80", "[::1]:8000", "127.8.9.1", "rollouts:8000"])
def test_names_that_the_server_was_started_for(gate, host):
    assert answer(gate, host=host) == PASSED
    assert answer(gate, host=host, origin=f"http://{host}") == PASSED


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "evil@127.0.0.1.example"),
        *("", None, "[::1", "0.0.0.0:8000", "10.0.0.1", ["127.0.0.1", "evil.example"], "2130706433"),
    ],
)
def test_other_names_are_refused(gate, host):
    assert answer(gate, host=host) == 403


def test_an_exposed_server_goes_by_any_name_with_the_key(gate, monkeypatch):
    monkeypatch.setenv(HOSTS, "null")
    exposed = Gate(inside)
    assert answer(exposed, host="run-rollouts-0-1.run:8000") == PASSED
    assert answer(exposed, host="run-rollouts-0-1.run:8000", authorization=None) == 401


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "", "http://127.0.0.1", "http://127.0.0.1:8000/", ["x", "x"]]
)
def test_pages_of_other_origins_are_refused(gate, origin):
    assert answer(gate, origin=origin) == 403
    assert answer(gate, "GET", "/health", origin=origin) == 403


@pytest.mark.parametrize("kind", [None, "", "text/plain", "multipart/form-data", "application/jsonx"])
def test_a_body_is_json(gate, kind):
    assert answer(gate, content_type=kind) == 415
    assert answer(gate, content_type="Application/JSON; charset=utf-8") == PASSED


def test_no_websocket_is_opened(gate):
    for path in ("/v1/realtime", "/update_weights", "/health"):
        assert answer(gate, None, path, kind="websocket") == 1008


@pytest.mark.parametrize("key", [None, "", "short", "fifteen-letters"])
def test_without_a_key_no_server_starts(monkeypatch, key):
    monkeypatch.delenv(KEY, raising=False)
    if key is not None:
        monkeypatch.setenv(KEY, key)
    with pytest.raises(RolloutError, match="a key needs 16 at least"):
        Gate(inside)
