"""What a request to a served policy gets unless it says something else."""

import asyncio
import json

import pytest

from recrl.rl.rollouts.defaults import DEFAULTS, Defaults

GIVEN = {"temperature": 0.0, "structured_outputs": {"grammar": 'root ::= "a"'}}
CHAT = "/v1/chat/completions"


@pytest.fixture
def passed(tmp_path, monkeypatch):
    """Body that reaches vLLM, for a request of one or several parts."""
    (tmp_path / "defaults.json").write_text(json.dumps(GIVEN))
    monkeypatch.setenv(DEFAULTS, str(tmp_path / "defaults.json"))

    def ask(*parts, path=CHAT, method="POST"):
        seen = {}

        async def inside(scope, receive, send):
            body, more = b"", True
            while more:
                message = await receive()
                body, more = body + message["body"], message.get("more_body", False)
            length = [value for name, value in scope["headers"] if name == b"content-length"]
            seen.update(body=body, length=length)

        messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        messages[-1]["more_body"] = False

        async def receive():
            return messages.pop(0)

        headers = [(b"content-length", str(sum(map(len, parts))).encode())]
        scope = {"type": "http", "method": method, "path": path, "headers": headers}
        asyncio.run(Defaults(inside)(scope, receive, None))
        assert seen["length"] == [str(len(seen["body"])).encode()]
        return seen["body"]

    return ask


def test_what_is_left_open_is_filled_in(passed):
    asked = json.dumps({"model": "demo", "messages": []}).encode()
    for parts in ([asked], [asked[:7], asked[7:]]):
        assert json.loads(passed(*parts)) == {"model": "demo", "messages": [], **GIVEN}


def test_what_a_request_says_stays(passed):
    own = {"temperature": 0.7, "structured_outputs": {"choice": ["good", "bad"]}}
    assert json.loads(passed(json.dumps(own).encode())) == own
    extra = {"temperature": 1.0, "vllm_xargs": {"recrl_list": 0}}
    assert json.loads(passed(json.dumps(extra).encode())) == extra
    formed = {"response_format": {"type": "json_object"}}
    assert json.loads(passed(json.dumps(formed).encode())) == {**formed, "temperature": 0.0}


@pytest.mark.parametrize("body", [b"no JSON", b"[1]", b""])
def test_what_is_no_request_is_left_to_vllm(passed, body):
    assert passed(body) == body


def test_other_routes_are_left_alone(passed):
    assert passed(b'{"a": 1}', path="/v1/models") == b'{"a": 1}'
