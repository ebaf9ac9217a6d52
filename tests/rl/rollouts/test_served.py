"""What becomes of a rollout server's faults, played by a small server that answers as it is told to."""

import json
import os
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import poisoned
import pytest
import torch
from accelerate import PartialState
from safetensors import SafetensorError, safe_open

from recrl.rl.rollouts.access import KEY, KEY_FILE
from recrl.rl.rollouts.base import Answer, Request, RolloutError, fault
from recrl.rl.rollouts.exchange import sweep, weights_file
from recrl.rl.rollouts.gate import ROUTES
from recrl.rl.rollouts.guard import check_versions, compare
from recrl.rl.rollouts.make import Application, server_command
from recrl.rl.rollouts.served import ServedEngine
from recrl.rl.rollouts.settings import RolloutConfig
from recrl.rl.sampling import Sampling

SECRET = "a-key-of-twenty-four-chars"
SAMPLING = Sampling(max_tokens=3, ends=(9,))
REQUESTS = [Request((1, 2), 2, 0), Request((3,), 2, 1)]


class Server:
    """Holds a version of weights, and spoils its next answers by the functions of ``spoil``."""

    def __init__(self):
        self.version, self.spoil, self.calls, self.loaded = "default", [], [], []
        self.key, self.folder = SECRET, None

    def answer(self, path, body):
        path = path.partition("?")[0]
        self.calls.append(path)
        if path == "/weight_info":
            return {"weight_version": self.version}
        if path == "/get_world_size":
            return {"world_size": 1}
        if path == "/update_weights":
            with safe_open(weights_file(self.folder, body["update_info"]["version"]), "pt") as file:
                self.loaded.append(file.get_tensor("w").tolist())
        if path == "/finish_weight_update":
            self.version = body["weight_version"]
        if path != "/inference/v1/generate":
            return {"success": True}
        choices = [
            {
                "index": i,
                "token_ids": [5, 9],
                "logprobs": {"content": [{"token_id": 5, "logprob": -1.0}, {"token_id": 9, "logprob": -0.5}]},
                "weight_versions": [{"version": self.version, "start": 0, "end": 2}],
            }
            for i in reversed(range(body["sampling_params"]["n"]))
        ]
        found = {"choices": choices}
        if self.spoil:
            found = self.spoil.pop(0)(found)
        return found


@contextmanager
def running(server, port=0):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply(None)

        def do_POST(self):
            self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "null"))

        def reply(self, body):
            if self.headers["Authorization"] != f"Bearer {server.key}":
                self.send_response(401)
                self.end_headers()
                return
            found = server.answer(self.path, body)
            text = json.dumps(found).encode() if not isinstance(found, int) else b"{}"
            self.send_response(found if isinstance(found, int) else 200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def weights():
    yield "w", torch.tensor([1.0, 2.0])


@contextmanager
def served(tmp_path, *servers, patience=5.0, timeout=5.0, key=SECRET):
    PartialState(cpu=True)
    contexts = [running(server) for server in servers]
    addresses = [context.__enter__() for context in contexts]
    for server in servers:
        server.folder = tmp_path / "exchange"
    engine = ServedEngine(
        addresses, tmp_path / "exchange", patience=patience, timeout=timeout, dtype="float32", key=key
    )
    try:
        yield engine
    finally:
        engine.close()
        for context in contexts:
            context.__exit__(None, None, None)


def nan(found):
    found["choices"][0]["logprobs"]["content"][0]["logprob"] = None
    return found


def short(found):
    return {"choices": found["choices"][:1]}


def broken_off(found):
    found["choices"][0]["token_ids"] = [5]
    found["choices"][0]["logprobs"]["content"].pop()
    return found


def too_long(found):
    found["choices"][0]["token_ids"] = [5, 5, 5, 9]
    found["choices"][0]["logprobs"]["content"] = [{"token_id": t, "logprob": -1.0} for t in (5, 5, 5, 9)]
    return found


def other_tokens(found):
    found["choices"][0]["logprobs"]["content"][0]["token_id"] = 4
    return found


def stale(found):
    found["choices"][0]["weight_versions"] = [{"version": "old", "start": 0, "end": 2}]
    return found


def failed(found):
    return 500


FAULTS = (nan, short, broken_off, too_long, other_tokens, stale, failed)


def test_every_server_takes_the_weights_and_a_share_of_the_prompts(tmp_path):
    one, other = Server(), Server()
    with served(tmp_path, one, other) as engine:
        engine.update("run-0", weights)
        groups = list(engine.generate(REQUESTS, SAMPLING))
        engine.update("run-1", weights)
        assert [p.name for p in (tmp_path / "exchange").iterdir()] == ["weights-run-1.safetensors"]
    assert one.version == other.version == "run-1"
    assert one.loaded == other.loaded == [[1.0, 2.0]] * 2
    assert one.calls.count("/inference/v1/generate") == other.calls.count("/inference/v1/generate") == 1
    assert [len(group) for group in groups] == [2, 2]
    assert groups[0][0] == Answer((5, 9), (-1.0, -0.5), ("run-0",))
    assert one.calls.count("/reset_prefix_cache") == 2
    assert not list((tmp_path / "exchange").iterdir()), "weights were left behind"


@pytest.mark.parametrize("spoil", FAULTS)
def test_a_faulty_answer_is_asked_for_again_whole(tmp_path, spoil):
    server = Server()
    with served(tmp_path, server) as engine:
        engine.update("v", weights)
        server.spoil = [spoil]
        groups = list(engine.generate(REQUESTS, SAMPLING))
    assert [[answer.tokens for answer in group] for group in groups] == [[(5, 9)] * 2] * 2
    assert server.calls.count("/inference/v1/generate") == 3


@pytest.mark.parametrize("spoil", FAULTS)
def test_a_fault_that_lasts_stops_the_run(tmp_path, spoil):
    server = Server()
    with served(tmp_path, server, patience=0.5) as engine:
        engine.update("v", weights)
        server.spoil = [spoil] * 1000
        with pytest.raises(RolloutError, match=r"after 0\.5 s \(rollout\.patience\)"):
            list(engine.generate(REQUESTS, SAMPLING))


def test_a_server_that_lost_its_weights_gets_them_again(tmp_path):
    server = Server()
    with served(tmp_path, server) as engine:
        engine.update("v", weights)
        server.version = "default"  # as after a restart
        groups = list(engine.generate(REQUESTS, SAMPLING))
    assert server.loaded == [[1.0, 2.0]] * 2
    assert {answer.versions for group in groups for answer in group} == {("v",)}


def test_a_server_that_restarts_between_the_check_and_the_answer_is_found_out(tmp_path):
    server = Server()
    with served(tmp_path, server) as engine:
        engine.update("v", weights)

        def restart(found):
            server.version = "default"
            return stale(found)

        server.spoil = [restart]
        groups = list(engine.generate(REQUESTS[:1], SAMPLING))
    assert server.loaded == [[1.0, 2.0]] * 2
    assert groups[0][0].versions == ("v",)


def test_another_server_answers_for_a_slow_one(tmp_path):
    slow, quick = Server(), Server()
    with served(tmp_path, slow, quick, timeout=0.3) as engine:
        engine.update("v", weights)

        def late(found):
            time.sleep(1.0)
            return found

        slow.spoil = [late]
        list(engine.generate(REQUESTS[:1], SAMPLING))
    assert quick.calls.count("/inference/v1/generate") == 1


def test_weights_on_their_way_are_the_owners_alone(tmp_path):
    before = os.umask(0)
    try:
        with served(tmp_path, Server()) as engine:
            engine.update("v", weights)
            (tmp_path / "exchange" / "weights-w.partial").write_text("of an earlier run, for all to read")
            engine.update("w", weights)
            (file,) = (tmp_path / "exchange").iterdir()
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    finally:
        os.umask(before)


KILLED = """
import sys, time
from pathlib import Path
from recrl.rl.rollouts.exchange import held, unswept
path = Path(sys.argv[1])
with unswept(path.parent):
    path.touch()
    print("writing", flush=True)
    sys.stdin.readline()
    holding = held(path)
print("written", flush=True)
time.sleep(100)
"""


def test_weights_that_a_killed_training_left_are_swept_away_and_no_others(tmp_path):
    folder = tmp_path / "exchange"
    with served(tmp_path, Server()) as alive:
        alive.update("v", weights)
        for name in ("weights-dead.safetensors", "weights-dead.partial"):
            command, pipe = [sys.executable, "-c", KILLED, str(folder / name)], subprocess.PIPE
            with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
                for word in (b"writing\n", b"written\n"):
                    assert process.stdout.readline() == word
                    sweep(folder)
                    assert (folder / name).exists()
                    process.stdin.write(b"\n")
                    process.stdin.flush()
                process.kill()
        with served(tmp_path, Server()):
            assert [path.name for path in folder.iterdir()] == ["weights-v.safetensors"]


def test_weights_without_room_leave_nothing(tmp_path):
    with served(tmp_path, Server()) as engine:
        engine.update("v", weights)
        with poisoned.full_disk(1000), pytest.raises(SafetensorError, match="File too large"):
            engine.update("w", lambda: [("w", torch.ones(1000))])
        assert [path.name for path in (tmp_path / "exchange").iterdir()] == ["weights-v.safetensors"]


def test_a_folder_for_weights_that_others_can_write_to_stops_the_run_before_it_begins(tmp_path):
    (tmp_path / "exchange").mkdir()
    (tmp_path / "exchange").chmod(0o777)
    with pytest.raises(RolloutError, match=r"^rollout\.exchange=.*mode 0777"), served(tmp_path, Server()):
        pass


def test_an_empty_batch_asks_nobody(tmp_path):
    server = Server()
    with served(tmp_path, server) as engine:
        engine.update("v", weights)
        assert list(engine.generate([], SAMPLING)) == []


def test_another_key_is_refused_at_once_and_not_shown(tmp_path):
    with (
        pytest.raises(RolloutError, match=f"refuses the key: set {KEY}") as raised,
        served(tmp_path, Server(), key="another-key-of-24-letters"),
    ):
        pass
    assert "another-key" not in str(raised.value)


@pytest.mark.parametrize("spoil", [lambda _: [1], lambda _: {}, lambda _: {"choices": 3}])
def test_an_answer_of_another_form_is_asked_for_again(tmp_path, spoil):
    server = Server()
    with served(tmp_path, server) as engine:
        engine.update("v", weights)
        server.spoil = [spoil]
        assert len(list(engine.generate(REQUESTS, SAMPLING))) == 2


@pytest.mark.slow
def test_weights_between_gpus_go_by_the_key_and_by_routes_that_are_open(tmp_path):
    pytest.importorskip("vllm", reason="TRL's client needs it")
    from recrl.rl.rollouts.nccl import Sender

    server = Server()
    with running(server) as address:
        sender = Sender(address, SECRET, 1, 5.0)
        assert sender.get_world_size() == 1
        sender.reset_prefix_cache()
        with pytest.raises(RolloutError, match=r"set rollout\.transfer=files"):
            sender.init_communicator("cpu")
    assert server.calls == ["/get_world_size", "/reset_prefix_cache"]
    assert set(server.calls) <= {path for _, path in ROUTES}


def test_a_server_is_shown_to_others_only_on_purpose_and_always_with_a_key(tmp_path, monkeypatch):
    config = RolloutConfig(engine="vllm-server", transfer="files")
    monkeypatch.delenv(KEY, raising=False)
    arguments = (config, tmp_path, "float32", 64, "0.0.0.0", 8000)
    with pytest.raises(RolloutError, match="--expose"):
        server_command(*arguments, exposed=False, run=tmp_path)
    assert not list(tmp_path.iterdir())
    command, environment = server_command(*arguments, exposed=True, run=tmp_path)
    assert command[command.index("--middleware") + 1] == "recrl.rl.rollouts.gate.Gate"
    key = (tmp_path / KEY_FILE).read_text()
    assert environment[KEY] == key
    assert key not in " ".join(command), "a command line can be read by everybody"
    assert environment["VLLM_SERVER_DEV_MODE"] == "1"


def test_only_a_server_for_applications_changes_what_may_be_drawn(tmp_path, monkeypatch):
    monkeypatch.delenv(KEY, raising=False)
    config = RolloutConfig(engine="vllm-server", transfer="files", exchange=tmp_path / "exchange")
    given = (config, tmp_path, "float32", 64, "127.0.0.1", 8000, False, tmp_path)
    command, environment = server_command(*given)
    assert "--logits-processors" not in command
    assert "VLLM_USE_V2_MODEL_RUNNER" not in environment
    application = Application("demo", tmp_path / "defaults.json", "package.module:Class", {"SEEN": "there"})
    command, environment = server_command(*given, application)
    assert command[command.index("--logits-processors") + 1] == "package.module:Class"
    assert environment["SEEN"] == "there"
    assert environment["VLLM_USE_V2_MODEL_RUNNER"] == "0"
    assert "VLLM_SERVER_DEV_MODE" not in environment


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer((5, 9), (-1.0, -0.1), ()), None),
        (Answer((5, 5, 5), (-1.0, -0.1, -1.0), ()), None),
        (Answer((), (), ()), "0 tokens"),
        (Answer((5, 9), (-1.0,), ()), "1 log-probabilities"),
        (Answer((5, 9), (float("nan"), -1.0), ()), "finite"),
        (Answer((5, 9), (float("-inf"), -1.0), ()), "finite"),
        (Answer((5, 9), (0.5, -1.0), ()), "finite"),
        (Answer((5, 5), (-1.0, -1.0), ()), "broke off"),
        (Answer((5, 5, 5, 9), (-1.0,) * 4, ()), "4 tokens"),
    ],
)
def test_what_is_wrong_with_an_answer(answer, why):
    found = fault(answer, SAMPLING)
    assert found is None if why is None else why in found


def test_versions_of_every_token_are_looked_at():
    good = Answer((5,), (-1.0,), ("a-3",))
    check_versions([good, good], "a-3")
    for versions in ((), ("a-2",), ("a-2", "a-3")):
        with pytest.raises(RolloutError, match="policy is at 'a-3'"):
            check_versions([good, Answer((5,), (-1.0,), versions)], "a-3")


def test_truncation_explains_a_likelier_token_up_to_the_mass_it_keeps():
    own = torch.tensor([-1.0, -1.0, -1.0])
    engine = torch.tensor([-1.0 + 0.1, -1.0 + 0.3, -1.0 - 0.2])
    apart, ratio = compare(engine, own, 0.8)  # -log 0.8 = 0.223
    assert apart.tolist() == pytest.approx([0.0, 0.3 - 0.22314, 0.2], abs=1e-5)
    assert ratio.tolist() == pytest.approx([0.904837, 0.740818, 1.221403], abs=1e-5)
    assert compare(engine, own, 0.0)[0].tolist() == pytest.approx([0.0, 0.0, 0.2], abs=1e-6)
