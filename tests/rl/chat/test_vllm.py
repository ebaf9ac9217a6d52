"""vLLM as a model that is asked in words: in this process beside transformers, and as a server."""

import json
import os
import random
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from made_up_household import CATALOG, DATA, VECTORS, row
from places import SUPPORT
from ranks import free_port
from small_llm import smollm2

from recrl.envs.agents.arbiter import arbitrated
from recrl.envs.agents.asked import AskedArbiter, AskedExpert, AskedPlanner
from recrl.envs.agents.experts import Asking
from recrl.envs.agents.planner import Household
from recrl.envs.agents.style import Guideline
from recrl.envs.agents.styled import Guide, Styled, Writer
from recrl.envs.agents.team import Budget, Team
from recrl.envs.chat.settings import ChatConfig
from recrl.launch.cluster.serve import running
from recrl.rl.chat.make import make_chat
from recrl.rl.policy.loading import load, save_policy
from recrl.rl.policy.settings import PolicyConfig
from recrl.rl.rollouts.access import KEY, server_key
from recrl.rl.rollouts.settings import RolloutConfig

if find_spec("vllm") is None:
    pytest.skip("vLLM is optional; `make test` installs it", allow_module_level=True)
pytestmark = pytest.mark.slow


def _torch_number():
    return torch.rand(1, generator=torch.Generator().manual_seed(1)).item()


def test_both_backends_of_this_process_give_the_same_greedy_answers(tmp_path):
    # A head of vLLM has at least 32 dimensions on a CPU.
    config = PolicyConfig(model="tiny", tiny={"hidden": 128, "vocabulary": 400})
    save_policy(*load(config, texts=["What next?", "Say yes."]), tmp_path / "policy")
    command = [sys.executable, SUPPORT / "chat_backends.py", tmp_path / "policy", tmp_path / "found.json"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    one, other = found["transformers"], found["vllm"]
    # vLLM seeds the whole process: that is put back.
    one.pop("numbers")
    numbers = [random.Random(1).random(), np.random.RandomState(1).random(), _torch_number()]
    assert other.pop("numbers") == numbers
    assert one == other
    assert all(isinstance(Guideline.model_validate_json(text), Guideline) for text, *_ in one["shaped"])
    assert len({text for text, *_ in one["shaped"]}) > 1
    assert one["late"] == "late"


ITEMS = ("oat milk", "tea", "rye bread", "apples", "soap", "pasta", "coffee", "yoghurt", "rice", "cheese")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Address of SmolLM2-135M on a vLLM server."""
    folder = tmp_path_factory.mktemp("smollm2")
    port = free_port()
    config = RolloutConfig(engine="vllm-server", servers=(f"http://127.0.0.1:{port}",), kv_cache=0.2)
    options = {"run": folder, "patience": 240, "log": folder / "log.txt"}
    with running(config, smollm2(), "float32", 1024, port, **options):
        os.environ[KEY] = server_key(folder)
        try:
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            del os.environ[KEY]


def test_a_real_server_answers_both_stages_of_meta_prompting(address):
    given = {"url": address, "model": "policy", "token_env": KEY, "max_tokens": 120, "stop": ("\n\n",)}
    model = make_chat(ChatConfig(**given))
    answerer = Styled(Guide(model), Writer(model))
    ask = "Say in one short sentence why somebody who often buys {} may like it. Write the sentence alone."
    rows = [{"prompt": [{"role": "user", "content": ask.format(item)}]} for item in ITEMS]
    texts = answerer(rows)
    guided, written = model.ledger["guideline"], model.ledger["writer"]
    print(f"{10 - answerer.unguided} of 10 guidelines parse, {sum(map(bool, texts))} of 10 texts are whole")
    assert answerer.unguided == guided.missing.total() <= 2
    assert sum(map(bool, texts)) == 10 - written.missing.total() >= 5
    assert guided.prompt_tokens > 10 * 100
    assert 0 < written.completion_tokens <= 10 * 120


def test_a_real_server_plays_all_roles_of_a_team_under_schemas(address):
    given = {"url": address, "model": "policy", "token_env": KEY, "max_tokens": 300, "timeout": 200}
    model = make_chat(ChatConfig(**given))
    team = Team(
        AskedPlanner(model, Household(DATA, VECTORS), CATALOG, 2),
        AskedExpert(model, CATALOG),
        AskedArbiter(model, CATALOG, 3),
        Asking(CATALOG, 3),
        Budget(personas=2, tags=6, slots=3),
    )
    passages = team.passages([row("\n".join(ITEMS[i : i + 4])) for i in range(6)])
    assert all(1 <= len(set(passage.answer)) == len(passage.answer) <= 3 for passage in passages)
    AskedArbiter(model, CATALOG, 3)([arbitrated(row(), [(0, 1, 6)], [1.0])])
    answered = 0
    for role in ("planner", "expert", "arbiter"):
        usage = model.ledger[role]
        print(f"{role}: {usage.questions} asked, {dict(usage.missing)} missing")
        # Whoever is asked answers in the shape, or a small model's reason is counted.
        assert usage.missing.keys() <= {"cut off", "shape"}
        assert usage.prompt_tokens > 50
        answered += usage.questions - usage.missing.total()
    assert answered
