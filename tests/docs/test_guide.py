"""Every snippet of the guide to rewards runs, in order, in a folder of its own.

A snippet that begins with the name of a file is that file. Other Python runs, and so does every command of
recrl.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from places import ROOT
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
from whole_runs import finished

GUIDE = ROOT / "docs" / "rewards.md"
SNIPPET = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SNIPPETS = SNIPPET.findall(GUIDE.read_text())
# The example package is installed, found and used in tests/launch/run/test_plugin.py.
ELSEWHERE = ("pip install ./examples/reward-plugin",)


def reward_model(folder):
    words = {word: i for i, word in enumerate(("[PAD]", "[UNK]", "milk", "tea", "What", "next", "?"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=1,
        pad_token_id=0,
    )
    BertForSequenceClassification(config).save_pretrained(folder)


class Judge(BaseHTTPRequestHandler):
    """Grades without reason, but always the same."""

    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        said = {
            "message": {"content": ["Good", "Average", "Bad"][zlib.crc32(asked) % 3]},
            "finish_reason": "stop",
        }
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"choices": [said]}).encode())

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def judge():
    """Its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Judge) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cache, judge):
    """With the guide's files, and a reward model of any kind under the name that it uses."""
    made = tmp_path_factory.mktemp("guide")
    for kind, text in SNIPPETS:
        name = re.match(r"# (\S+\.(?:py|yaml))\n", text)
        if name is None:
            continue
        if kind == "yaml":
            # Only the places of tables and judge are others.
            tree = {**yaml.safe_load(text), "data": {"cache": str(cache)}}
            if "judge" in tree:
                tree["judge"]["url"] = judge
            text = yaml.safe_dump(tree)
        (made / name[1]).write_text(text)
    reward_model(made / "my-reward-model")
    return made


def run(folder, *command):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def named(text):
    first = next(line for line in text.splitlines() if line)
    return first.removeprefix("# ")


def test_the_guide_shows_every_way():
    kinds = [kind for kind, _ in SNIPPETS]
    assert kinds.count("python") >= 6
    assert kinds.count("yaml") >= 2
    assert kinds.count("bash") >= 3


@pytest.mark.parametrize(
    "text", [text for kind, text in SNIPPETS if kind == "python" and "# " not in text[:2]], ids=named
)
def test_a_program_of_the_guide_runs(folder, text):
    ended = run(folder, "-c", text)
    assert ended.returncode == 0, ended.stderr[-3000:]


# A check reads the panel and asks models, in a process of its own.
COMMANDS = [
    pytest.param(line, marks=pytest.mark.slow if " check " in line else ())
    for kind, text in SNIPPETS
    if kind == "bash"
    for line in text.splitlines()
    if line not in ELSEWHERE
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_guide_runs(folder, panel_task, monkeypatch, command):
    program, *arguments = shlex.split(command)
    assert program == "recrl"
    monkeypatch.chdir(folder)
    said = finished(*arguments, anew="check" not in arguments)
    if "check" in arguments:
        assert "determinism" in said
        assert "fail " not in said


def test_every_shipped_reward_is_in_the_guide():
    listed = run(GUIDE.parents[1], "-c", "from recrl.rewards import known; print(*known())")
    assert listed.returncode == 0, listed.stderr
    text = GUIDE.read_text()
    for name in listed.stdout.split():
        assert f"`{name}`" in text, name
