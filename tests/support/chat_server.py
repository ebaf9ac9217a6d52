"""Servers with an OpenAI-compatible interface: one that answers as it is told, and one at fault."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Says what the last message says, in capitals, unless told to answer with something else."""

    def __init__(self, handler=None):
        super().__init__(("127.0.0.1", 0), handler or Handler)
        self.requests, self.status, self.answer, self.wait, self.drip = [], 200, None, 0.0, False
        self.flying, self.most = 0, 0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_):
        """A client that has gone is none."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.requests.append((self.path, dict(self.headers), body))
            server.flying += 1
            server.most = max(server.most, server.flying)
        time.sleep(server.wait)
        with server.lock:
            server.flying -= 1
        answer = server.answer or said(body["messages"][-1]["content"].upper())
        self.send_response(server.status)
        self.send_header("Content-Length", str(len(answer.encode())))
        self.end_headers()
        for i in range(100 if server.drip else 0):
            try:
                self.wfile.write(answer[i : i + 1].encode())
                time.sleep(0.05)
            except OSError:
                return
        if not server.drip:
            self.wfile.write(answer.encode())

    def log_message(self, *_):
        pass


def said(text, ended="stop", **message):
    """Body of an answer; ``message`` has further fields of the message."""
    answer = {
        "choices": [{"message": {"content": text, **message}, "finish_reason": ended}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    }
    return json.dumps(answer)


HUGE = said("x" * 10_000_000)
CALL = [{"type": "function", "function": {"name": "buy", "arguments": "{}"}}]
FAULTS = {
    "slow": "late",
    "silent": "late",
    "refused": "refused",
    "empty": "empty",
    "cut off": "cut off",
    "garbage": "garbage",
    "wrong schema": "shape",
    "tool call": "tool call",
    "10 MB": "too long",
}
"""Fault that a question names between two stars -> reason of the missing answer."""


class Faulty(Handler):
    """Answers ``good`` to every question but those that name a fault: ``*slow*``.

    The server has the attributes ``good``, and ``patience``: seconds after which a client has given up.
    """

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((self.path, dict(self.headers), body))
        asked = body["messages"][-1]["content"]
        fault = next((name for name in FAULTS if f"*{name}*" in asked), "")
        good = self.server.good
        answers = {
            "refused": said(None, "stop", refusal="I cannot help with that."),
            "empty": said(" "),
            "cut off": said(good[: len(good) // 2], "length"),
            "garbage": "<html>502</html>",
            "wrong schema": said('{"tone": "shouting"}'),
            "tool call": said(None, "tool_calls", tool_calls=CALL),
            "10 MB": HUGE,
        }
        try:
            if fault == "silent":
                time.sleep(self.server.patience)
                return
            answer = answers.get(fault, said(good)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            begun = time.monotonic()
            for i in range(0, len(answer) if fault == "slow" else 0):
                if time.monotonic() - begun > self.server.patience:
                    return
                self.wfile.write(answer[i : i + 1])
                time.sleep(0.05)
            if fault != "slow":
                self.wfile.write(answer)
        except OSError:  # the client has gone
            self.close_connection = True
