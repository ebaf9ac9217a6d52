"""What goes wrong with one answer is that answer's reason, and the rest of the batch comes."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from typing import Literal

import pytest
from chat_server import FAULTS, Faulty, Server, said
from pydantic import BaseModel

from recrl.envs.chat.endpoint import Endpoint
from recrl.envs.chat.models import REASONS, ChatError
from recrl.envs.chat.settings import ChatConfig


class Style(BaseModel, extra="forbid"):
    tone: Literal["plain", "warm"]


def model(server, **settings):
    given = {"url": server.url, "model": "owl", "timeout": 0.6, "deadline": 1.5, "backoff": 0.01}
    return Endpoint(ChatConfig(**{**given, **settings}))


@pytest.fixture
def faulty(serve):
    server = serve(Server(Faulty))
    server.good, server.patience = '{"tone": "warm"}', 2.0
    return server


def test_nine_faults_are_missing_with_their_reason_and_the_rest_of_the_batch_comes(faulty):
    questions = [question for name in FAULTS for question in (f"*{name}*", "good?")]
    asked = model(faulty)
    started = time.monotonic()
    replies = asked.replies(questions, schema=Style, caller="judge")
    assert time.monotonic() - started < 3
    wrong = dict(zip(FAULTS, replies[::2], strict=True))
    assert {name: reply.reason for name, reply in wrong.items()} == FAULTS
    assert set(FAULTS.values()) <= set(REASONS)
    for reply in wrong.values():
        assert reply.text is None
        assert reply.parsed is None
        assert reply.detail.isprintable()
        assert len(reply.detail) < 800
    assert [reply.parsed for reply in replies[1::2]] == [Style(tone="warm")] * 9
    # `good?` was asked once for all nine.
    assert len([body for *_, body in faulty.requests if body["messages"][-1]["content"] == "good?"]) == 1
    usage = asked.ledger["judge"]
    assert (usage.questions, usage.cached, usage.missing.total()) == (18, 8, 9)
    assert usage.missing["late"] == 2
    # What was cut off, refused or of another shape was written all the same.
    told = [reply for reply in [*wrong.values(), replies[1]] if reply.prompt_tokens is not None]
    assert usage.prompt_tokens == 7 * len(told) == 42
    assert usage.completion_tokens == 3 * 6


def test_without_a_schema_any_text_is_an_answer_and_texts_alone_raise(faulty):
    (reply,) = model(faulty).replies(["*wrong schema*"])
    assert reply.text == '{"tone": "shouting"}'
    with pytest.raises(ChatError, match=r"the model refused: 'I cannot help with that\.'"):
        model(faulty).chat(["good?", "*refused*"])


def test_a_server_that_is_not_there_is_a_missing_answer(faulty):
    (reply,) = model(faulty, url="http://127.0.0.1:9/v1").replies(["good?"])
    assert reply.reason == "unreachable"


class Busy(BaseHTTPRequestHandler):
    """Fails as often as the server's list of statuses says, and answers then."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.times.append(time.monotonic())
        status, headers = self.server.script.pop(0) if self.server.script else (200, {})
        body = (said("at last") if status == 200 else "busy").encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def busy(serve):
    server = serve(Server(Busy))
    server.times = []
    return server


def test_a_busy_server_is_asked_again_after_what_it_says_and_longer_each_time(busy):
    busy.script = [(503, {}), (429, {"Retry-After": "0.3"}), (500, {})]
    (reply,) = model(busy, retries=3, deadline=5, backoff=0.02).replies(["tea?"])
    assert reply.text == "at last"
    waits = [later - earlier for earlier, later in zip(busy.times, busy.times[1:], strict=False)]
    assert 0.01 <= waits[0] < 0.2
    assert 0.3 <= waits[1] < 0.5
    assert 0.04 <= waits[2] < 0.3
    assert reply.seconds >= sum(waits)


@pytest.mark.parametrize(
    ("script", "attempts"),
    [
        ([(400, {})] * 9, 1),  # the question is at fault
        ([(401, {})] * 9, 1),
        ([(503, {})] * 9, 3),
        ([(429, {"Retry-After": "3600"})] * 9, 1),  # longer than anybody waits
        ([(429, {"Retry-After": "1e999"})] * 9, 1),
        ([(503, {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(hours=1))})] * 9, 1),
        ([(503, {"Retry-After": "-5"})] * 9, 3),
        ([(503, {"Retry-After": "nan"})] * 9, 3),
        ([(503, {"Retry-After": "soon"})] * 9, 3),
    ],
)
def test_what_is_in_vain_is_not_tried(busy, script, attempts):
    busy.script = list(script)
    started = time.monotonic()
    (reply,) = model(busy, retries=2).replies(["tea?"])
    assert time.monotonic() - started < 1.2
    assert reply.reason == "status"
    assert f"status {script[0][0]}, 'busy'" in reply.detail
    assert len(busy.times) == attempts


def test_a_schema_is_sent_and_an_option_leaves_it_out(faulty):
    model(faulty, stop=("\n",), seed=3).replies(["good?"], schema=Style)
    model(faulty, options={"response_format": None}).replies(["good?"], schema=Style)
    (*_, with_shape), (*_, without) = faulty.requests
    shape = with_shape["response_format"]["json_schema"]
    assert shape["schema"] == Style.model_json_schema()
    assert shape["strict"] is True
    assert with_shape["stop"] == ["\n"]
    assert with_shape["seed"] == 3
    assert "response_format" not in without
    assert "seed" not in without
