"""The HTTP reward against a real server."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from recrl.rewards import RewardEngine, RewardError, RewardSpec, RewardSpecError
from recrl.rewards.shipped.http import HttpReward

CONVERSATION = [{"role": "user", "content": "What is for tea?"}]


class Server(ThreadingHTTPServer):
    """Gives each completion its length over 10, unless told to answer with something else."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.clients = [], set()
        self.status, self.answer, self.wait, self.location = 200, None, 0.0, None
        self.url = f"http://127.0.0.1:{self.server_address[1]}/score"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, dict(self.headers), body))
        self.server.clients.add(self.client_address)
        time.sleep(self.server.wait)
        answer = self.server.answer
        if answer is None:
            answer = json.dumps({"scores": [len(text) / 10 for text in body["completions"]]})
        self.send_response(self.server.status)
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.send_header("Content-Length", str(len(answer.encode())))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server(serve):
    return serve(Server())


def test_a_request_carries_the_samples_and_the_named_columns_and_nothing_else(server):
    engine = RewardEngine(
        [
            RewardSpec(
                name="quality",
                use="http",
                params={"url": server.url, "columns": ["segment"]},
            )
        ],
        resources={"catalog": object()},
        columns=["segment", "target"],
    )
    columns = {"segment": ["cold", "warm"], "target": [[1], [2]]}
    scores = engine.score([CONVERSATION, "Tea?"], ["cake", "a biscuit"], columns, group_size=1)
    np.testing.assert_allclose(scores, [[0.4], [0.9]], rtol=1e-6)
    [(path, headers, body)] = server.requests
    assert (path, headers["Content-Type"]) == ("/score", "application/json")
    assert body == {
        "version": 1,
        "prompts": [CONVERSATION, "Tea?"],
        "completions": ["cake", "a biscuit"],
        "columns": {"segment": ["cold", "warm"]},
    }


def test_a_column_that_the_data_lack_is_named_before_training(server):
    spec = RewardSpec(name="quality", use="http", params={"url": server.url, "columns": ["mood"]})
    with pytest.raises(RewardSpecError, match="'quality' needs 'mood', which nothing provides"):
        RewardEngine([spec], resources={}, columns=["segment"])


def test_null_is_a_missing_score_and_other_keys_are_ignored(server):
    server.answer = '{"model": "m", "scores": [0.5, null, 1]}'
    assert HttpReward(server.url)(prompts=["?"] * 3, completions=["a", "b", "c"]) == [0.5, None, 1]


@pytest.mark.parametrize(
    ("status", "answer", "message"),
    [
        (500, "out of memory", r"Internal Server Error.*\(status 500, answer 'out of memory'\)"),
        (404, "", "Not Found.*status 404"),
        (200, "<html>welcome", r"not JSON \(status 200, answer '<html>welcome'\)"),
        (200, "[0.5, 0.5]", 'must be {"scores"'),
        (200, '{"score": [0.5, 0.5]}', 'must be {"scores"'),
        (200, '{"scores": "0.5"}', 'must be {"scores"'),
        (200, '{"scores": [0.5]}', "1 scores for 2 samples"),
        (200, '{"scores": [0.5, true]}', r"scores\[1\] is True"),
        (200, '{"scores": ["0.5", 0]}', r"scores\[0\] is '0.5'"),
        (200, '{"scores": [0.5, NaN]}', "NaN is no JSON"),
        (200, '{"scores": [0.5, -Infinity]}', "-Infinity is no JSON"),
        (200, '{"scores": [0.5, 1e999]}', "1e999 is too large"),
        (200, '{"scores": [0.5, 1' + "0" * 4000 + "]}", r"scores\[1\] is 10{100,}"),
        (200, '{"scores": [0.5, 1' + "0" * 9000 + "]}", "not JSON"),
        (200, '{"scores": [0, 0], "scores": [1, 1]}', "stands twice"),
        (200, '{"scores": ' + "[" * 100_000, "nested too deeply"),
        (200, '{"scores": [0, 0], "more": ' + '{"a":' * 100_000, "nested too deeply"),
        (200, '"' + "x" * (9 * 2**20) + '"', "longer than 8388608 bytes"),
    ],
)
def test_any_other_answer_is_an_error_that_shows_it(server, status, answer, message):
    server.status, server.answer = status, answer
    with pytest.raises(RewardError, match=message) as raised:
        HttpReward(server.url)(prompts=["?", "?"], completions=["a", "b"])
    assert server.url in str(raised.value)


def test_only_the_beginning_of_an_answer_is_shown(server):
    server.status, server.answer = 502, "x" * 100_000
    with pytest.raises(RewardError, match=r"'x{200}'") as raised:
        HttpReward(server.url)(prompts=["?"], completions=["a"])
    assert len(str(raised.value)) < 400


def test_a_score_out_of_range_is_the_engines_error(server):
    engine = RewardEngine(
        [RewardSpec(name="quality", use="http", params={"url": server.url})],
        resources={},
        columns=[],
    )
    with pytest.raises(RewardError, match=r"'quality', sample 0: value 1\.1 is outside"):
        engine.score(["?"], ["a long text"], {}, group_size=1)


def test_a_redirect_does_not_carry_the_token_elsewhere(server):
    server.status, server.location, server.answer = 307, f"{server.url}/elsewhere", ""
    with pytest.raises(RewardError, match="status 307"):
        HttpReward(server.url)(prompts=["?"], completions=["a"])
    assert [path for path, *_ in server.requests] == ["/score"]


def test_the_token_comes_from_the_environment_and_goes_before_a_netrc_file(server, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("SCORER_TOKEN", "s3cret")
    with_token = HttpReward(server.url, token_env="SCORER_TOKEN", headers={"X-Team": "tea"})
    with_token(prompts=["?"], completions=["a"])
    HttpReward(server.url)(prompts=["?"], completions=["a"])
    (_, first, _), (_, second, _) = server.requests
    assert (first["Authorization"], first["X-Team"]) == ("Bearer s3cret", "tea")
    assert "Authorization" not in second
    assert "X-Team" not in second


def test_a_missing_token_fails_at_construction(monkeypatch):
    monkeypatch.delenv("SCORER_TOKEN", raising=False)
    with pytest.raises(ValueError, match="token_env='SCORER_TOKEN': this environment variable is not set"):
        HttpReward("https://host/score", token_env="SCORER_TOKEN")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/score", "host/score", "http://", ""])
def test_only_addresses_of_http_are_taken(url):
    with pytest.raises(ValueError, match="http://host/path"):
        HttpReward(url)


def test_a_slow_server_runs_out_of_time(server):
    server.wait = 1.0
    started = time.monotonic()
    with pytest.raises(RewardError, match=r"timeout=0\.2: .*timed out"):
        HttpReward(server.url, timeout=0.2)(prompts=["?"], completions=["a"])
    assert time.monotonic() - started < 0.9


def test_a_password_in_the_address_is_refused_and_not_repeated(server):
    spec = RewardSpec(name="quality", use="http", params={"url": "http://me:hunter2@host/score"})
    with pytest.raises(RewardSpecError, match=r"'quality'.*user or password") as raised:
        RewardEngine([spec], resources={}, columns=[])
    assert "hunter2" not in str(raised.value)


def test_a_deadline_is_kept_besides_the_time_of_silence(server):
    server.wait = 0.4
    with pytest.raises(RewardError, match=r"deadline=0\.2"):
        HttpReward(server.url, timeout=5, deadline=0.2)(prompts=["?"], completions=["a"])


def test_a_server_that_is_away_is_named(server):
    url = server.url
    server.server_close()
    with pytest.raises(RewardError, match=f"POST {url} failed"):
        HttpReward(url)(prompts=["?"], completions=["a"])


def test_a_retry_gets_the_score_of_a_server_that_recovers(server):
    server.status = 503
    spec = RewardSpec(name="quality", use="http", params={"url": server.url}, retries=3)
    engine = RewardEngine([spec], resources={}, columns=[])
    threading.Timer(0.3, setattr, (server, "status", 200)).start()
    assert engine.score(["?"], ["cake"], {}, group_size=1)[0, 0] == pytest.approx(0.4)
    assert len(server.requests) > 1


def test_a_thread_keeps_its_connection_and_threads_ask_at_the_same_time(server):
    reward = HttpReward(server.url)
    for _ in range(3):
        reward(prompts=["?"], completions=["a"])
    assert len(server.clients) == 1

    server.wait = 0.4
    spec = RewardSpec(
        name="quality",
        use="http",
        params={"url": server.url},
        batch_size=1,
        concurrency=4,
    )
    engine = RewardEngine([spec], resources={}, columns=[])
    started = time.monotonic()
    scores = engine.score(["?"] * 4, ["a", "bb", "ccc", "dddd"], {}, group_size=1)
    assert time.monotonic() - started < 1.2  # one after the other: 1.6
    np.testing.assert_allclose(scores[:, 0], [0.1, 0.2, 0.3, 0.4], rtol=1e-6)
