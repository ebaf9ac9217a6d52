"""The HTTP client against servers that are slow, huge, wrong, or somebody else's."""

import gzip
import json
import socket
import threading
import time
import tracemalloc
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from recrl.envs.http.addresses import check_url, is_loopback
from recrl.envs.http.client import LIMIT, Client, NoReplyError, Response


class Server(ThreadingHTTPServer):
    """Answers with ``body`` and ``headers``, and remembers who asked for what."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.headers, self.body, self.requests = 200, {}, b"{}", []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.requests.append((self.path, dict(self.headers), self.client_address))
        self.send_response(self.server.status)
        for name, value in {"Content-Length": str(len(self.server.body)), **self.server.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.body)

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(serve):
    return serve(Server())


@pytest.fixture
def dripping():
    """A server that sends how an answer begins, and then a byte at a time until nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threads = []

        def serve(text):
            def drip():
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65536)
                    try:
                        for i in range(10_000):
                            connection.sendall(b"0" if i else text)
                            time.sleep(0.02)
                    except OSError:
                        pass

            threads.append(threading.Thread(target=drip))
            threads[-1].start()
            return f"http://127.0.0.1:{listening.getsockname()[1]}"

        yield serve
        for thread in threads:
            thread.join(timeout=5)
            assert not thread.is_alive(), "the client still listens"


# Time


@pytest.mark.parametrize(
    "beginning",
    [
        b"H",
        b"HTTP/1.1 200 OK\r\nX: ",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n",
    ],
)
def test_a_server_that_drips_is_given_up_at_the_deadline(dripping, beginning):
    url, started = dripping(beginning), time.monotonic()
    with pytest.raises(NoReplyError, match=r"^timed out: no whole answer after deadline=0\.4 s$"):
        Client(url, timeout=5, deadline=0.4).post({})
    assert 0.35 < time.monotonic() - started < 1.5


def test_a_server_that_is_silent_is_given_up_earlier(dripping):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(NoReplyError, match=r"timed out.*0\.2"):
            Client(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2, deadline=60).post({})
        assert time.monotonic() - started < 1.0


def test_a_deadline_is_of_each_request_and_connections_are_kept(server):
    client = Client(server.url, deadline=0.5)
    for _ in range(4):
        assert client.post({}).ok
        time.sleep(0.2)
    assert len({address for *_, address in server.requests}) == 1


@pytest.mark.parametrize("name", ["timeout", "deadline"])
@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_time_is_positive_and_finite(name, seconds):
    with pytest.raises(ValueError, match=f"{name}={seconds} must be a positive number"):
        Client("http://host", **{name: seconds})


# Size


@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
def test_an_answer_of_the_limit_is_whole_and_one_byte_more_is_refused(server, encoding):
    pack = {None: bytes, "gzip": gzip.compress, "deflate": zlib.compress}[encoding]
    server.headers = {"Content-Encoding": encoding} if encoding else {}
    text = b'"' + bytes(range(97, 123)) * 40 + b'"'
    server.body = pack(text)
    assert Client(server.url).post({}, limit=len(text)).body == text
    with pytest.raises(NoReplyError, match=f"longer than {len(text) - 1} bytes"):
        Client(server.url).post({}, limit=len(text) - 1)


def test_a_bomb_is_not_unpacked(server):
    packer = zlib.compressobj(wbits=31)
    zeros = bytes(2**20)
    packed = b"".join([*(packer.compress(zeros) for _ in range(128)), packer.flush()])
    assert len(packed) < 2**20
    server.body, server.headers = packed, {"Content-Encoding": "gzip"}
    client = Client(server.url)
    tracemalloc.start()
    with pytest.raises(NoReplyError, match=f"longer than {LIMIT} bytes"):
        client.post({})
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 5 * LIMIT, "all of it was unpacked"


def test_an_answer_without_an_end_is_refused(dripping, serve):
    class Endless(Handler):
        def do_POST(self):
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(bytes(2**16))
            except OSError:
                self.close_connection = True

    endless = Server()
    endless.RequestHandlerClass = Endless
    with pytest.raises(NoReplyError, match="longer than"):
        Client(serve(endless).url, deadline=30).post({})


@pytest.mark.parametrize(
    ("headers", "body", "why"),
    [
        ({"Content-Encoding": "gzip"}, gzip.compress(b"x" * 1000, mtime=0)[:-9], "broke off"),
        ({"Content-Encoding": "gzip"}, b"no gzip", "incorrect header"),
        ({"Content-Encoding": "br"}, b"x", "encoded as 'br', which was not asked for"),
        ({"Content-Encoding": "gzip, gzip"}, b"x", "was not asked for"),
        ({"Content-Length": "9"}, b"{}", "IncompleteRead"),
        ({"Transfer-Encoding": "chunked"}, b"zz\r\n", "broken"),
        ({"Transfer-Encoding": "chunked"}, b"5\r\nab", "broken"),
        ({f"X-{i}": "1" for i in range(200)}, b"{}", "headers"),
        ({"X": "a" * 100_000}, b"{}", "line"),
    ],
)
def test_a_broken_answer_is_an_error_of_one_line(server, headers, body, why):
    server.headers, server.body = {"Connection": "close", **headers}, body
    with pytest.raises(NoReplyError, match=why) as error:
        Client(server.url, timeout=0.5, deadline=1.0).post({})
    assert "\n" not in str(error.value)


# JSON


def reply(text):
    return Response(200, "OK", text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    "text",
    [
        *("NaN", "[NaN]", "Infinity", '{"a": -Infinity}', "1e999", "-1e999"),
        *('{"a": 1, "a": 2}', '[{"b": {"a": 1, "a": 1}}]', "[" * 100_000, '{"a":' * 100_000, "1" * 5000),
        *("", "{", "[1,]", "'a'", b"\xff\xfe", b"\x80", "{} {}", '"\n"'),
    ],
)
def test_what_is_no_strict_json_is_a_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011 (of many kinds)
        reply(text).json()


def test_json_of_all_kinds_is_read():
    text = '{"a": [1, -2.5e3, null, true, "\\u00e9"], "b": {"a": {}}}'
    assert reply(text).json() == json.loads(text)


# Who is asked, and what is told


@pytest.mark.parametrize("login", ["me:hunter2@", "me@", ":hunter2@", "@", "me:hunter%402@", "a b:hunter2@"])
@pytest.mark.parametrize(
    "url", ["http://{}host/score", "https://{}host:8000", "HTTP://{}host", "http:{}host", " http://{}h"]
)
def test_a_user_or_password_in_an_address_is_refused_and_not_repeated(url, login):
    with pytest.raises(ValueError, match=r"^judge\.url") as error:
        check_url(url.format(login), "judge.url")
    assert "hunter" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        *("", "host", "host:80", "ftp://host", "file:///etc/passwd", "http://", "http:///path", "http://:80"),
        *(
            "http://host:port",
            "http://host:99999",
            "http://host:0",
            "http://[::1",
            "http://a b/",
            "http://h\n",
        ),
        *("http://host\\other/", "//host", "javascript:1"),
    ],
)
def test_what_is_no_address_of_http_is_refused(url):
    with pytest.raises(ValueError, match="must be an address of the form http://host/path"):
        check_url(url)


@pytest.mark.parametrize(
    "url", ["http://h", "https://h.x:8/a?b=c@d", "http://[::1]:80/", "http://h/@me", "HTTP://H"]
)
def test_addresses_of_http_are_taken_as_they_are(url):
    assert check_url(url) == url


def test_only_this_machine_is_loopback():
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1")))
    assert not any(map(is_loopback, (None, "", "0.0.0.0", "::", "10.0.0.1", "localhost.x", "127.0.0.1.x")))


@pytest.fixture
def elsewhere(server, serve, monkeypatch, tmp_path):
    """A proxy in the environment, and passwords in a .netrc."""
    (tmp_path / "netrc").write_text("default login someone password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    proxy = serve(Server())
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    return proxy


def test_loopback_is_asked_directly_with_the_key_alone(server, elsewhere):
    port = server.server_address[1]
    for host in ("127.0.0.1", "localhost"):
        Client(f"http://{host}:{port}", token="the-key").get("/health")
        Client(f"http://{host}:{port}").post({})
    assert elsewhere.requests == []
    given = [headers.get("Authorization") for _, headers, _ in server.requests]
    assert given == ["Bearer the-key", None] * 2


def test_others_are_asked_through_the_proxy_and_never_with_a_netrc(elsewhere):
    Client("http://rollouts.example/v1", token="the-key").post({})
    Client("http://rollouts.example/v1").post({})
    (first, one, _), (_, other, _) = elsewhere.requests
    assert first == "http://rollouts.example/v1"
    assert (one["Authorization"], other.get("Authorization")) == ("Bearer the-key", None)


def test_a_proxy_that_drips_is_given_up_too(dripping, monkeypatch):
    monkeypatch.setenv("http_proxy", dripping(b"HTTP/1.1 200 OK\r\n"))
    with pytest.raises(NoReplyError, match="deadline"):
        Client("http://rollouts.example", deadline=0.3).post({})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_is_not_followed(server, status):
    server.status, server.headers = status, {"Location": f"{server.url}/elsewhere"}
    assert Client(server.url, token="the-key").get("/health").status == status
    assert len(server.requests) == 1


def test_a_cookie_is_not_sent_back(server):
    server.headers = {"Set-Cookie": "a=b; Path=/"}
    client = Client(server.url)
    client.post({})
    client.post({})
    assert not any("Cookie" in headers for _, headers, _ in server.requests)


@pytest.mark.parametrize("token", ["two words", "line\n", "\r\nX: y", "é", ""])
def test_a_token_that_no_header_carries_is_refused_and_not_shown(monkeypatch, token):
    monkeypatch.setenv("THE_TOKEN", token)
    with pytest.raises(ValueError, match="THE_TOKEN") as error:
        Client("http://host", token_env="THE_TOKEN")
    assert not token or token not in str(error.value)
