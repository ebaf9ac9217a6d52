"""Fourteen faults, how each ends, and a server that has two of them."""

import math
import os
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from recrl.rewards import RewardEngine, RewardError, RewardSpec

FILE = Path(__file__).with_name("faulty_rewards.py")
TIMEOUT = 0.5
BATCH = ["milk", "tea", "eggs", "salt"]
WHOLE = [0.25] * 4
LOST = [math.nan] * 4
ONE_LOST = [0.25, math.nan, 0.25, 0.25]

# Fault -> (settings beside it, the message when it raises or None, the scores when it may be missing).
FAULTS = {
    "raise": ({}, "raised ZeroDivisionError on samples 0..3: no views", LOST),
    "hang": ({}, "took longer than timeout=0.5 seconds", LOST),
    "nan": ({}, "sample 1: value is NaN; return None", ONE_LOST),
    "inf": ({}, "sample 1: value inf is outside the declared range", ONE_LOST),
    "none": ({}, None, ONE_LOST),  # says that there is no score: no fault
    "wrong length": ({}, "returned 3 values for the 4 samples 0..3", LOST),
    "wrong type": ({}, "sample 1: value '0.5' is a str; return a number", ONE_LOST),
    "out of range": ({}, "sample 1: value 1.5 is outside the declared range [0, 1]", ONE_LOST),
    "slow": ({}, None, WHOLE),  # within its time-out
    "flaky": ({"retries": 1}, None, WHOLE),  # healed by a retry
    "non-deterministic": ({}, None, None),  # not seen in training: recrl rewards check finds it
    "dies": ({"workers": 1}, "its process ended during the call, exit status 7", LOST),
    "endpoint 500": ({}, "status 500", LOST),
    "endpoint garbage": ({}, "its answer is not JSON", LOST),
}


class Broken(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(500 if self.path == "/500" else 200)
        self.end_headers()
        self.wfile.write(b"<html>oops</html>")

    def log_message(self, *_):
        pass


@contextmanager
def broken_server():
    """Its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def spec(fault, server, on_error, **settings):
    beside, _, _ = FAULTS[fault]
    where = {"use": f"{FILE}:fault", "params": {"kind": fault}, "range": (0, 1)}
    if fault.startswith("endpoint"):
        good = fault if os.environ.get("RANK") != "0" else None
        if good is None:  # this rank's is well
            where = {"use": f"{FILE}:fault", "params": {"kind": "fine"}, "range": (0, 1)}
        else:
            where = {"use": "http", "params": {"url": f"{server}/{fault.split()[1]}"}}
    options = {"timeout": TIMEOUT if not beside.get("workers") else 30.0, "on_error": on_error, **beside}
    return RewardSpec(name="faulty", **where, **{**options, **settings})


def engine(fault, server, on_error, **settings):
    """The faulty reward, and one that is well behind it."""
    well = RewardSpec(name="well", use=f"{FILE}:well", range=(0, 1))
    chosen = spec(fault, server, on_error, **settings)
    return RewardEngine([chosen, well], resources={}, columns=[])


def score(built):
    """What a rank sees: scores by reward, or the error; and the seconds that it took."""
    started = time.monotonic()
    try:
        found = built.score(["p"] * 4, BATCH, {}, 2)
    except RewardError as error:
        return {"error": str(error), "seconds": time.monotonic() - started}
    return {"scores": found.T.tolist(), "seconds": time.monotonic() - started}
