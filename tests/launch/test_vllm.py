"""Rollouts on vLLM from the command line: whole runs, a run's own server, and what works here."""

import asyncio
import signal
from pathlib import Path

import pytest
import requests
import yaml
from test_distributed import free_port
from test_run import SMALL, finished, lines, recrl

from recrl.envs.llm import ChatConfig, ChatError, Endpoint

pytest.importorskip("vllm", reason="rollouts on vLLM are optional; `make test` installs it")

KEY = "RECRL_API_KEY"


@pytest.fixture
def config(tmp_path, cache) -> Path:
    """A head of vLLM has at least 32 dimensions on a CPU."""
    path = tmp_path / "small.yaml"
    changes = {
        "policy": {"tiny": {"hidden": 128, "vocabulary": 400}},
        "rollout": {"kv_cache": 0.1, "patience": 240},
        "data": {"cache": str(cache)},
        "output": str(tmp_path / "run"),
    }
    path.write_text(yaml.safe_dump({**SMALL, **changes}))
    return path


def check(run: Path) -> None:
    """Every step was sampled from the weights before it, and the run came to its end."""
    log = lines(run)
    assert [row["step"] for row in log] == [1, 2, 3, 4]
    assert max(row["rollout/logp_difference/max"] for row in log) <= 1e-4
    assert all(row["time/weight_sync"] > 0 for row in log)
    assert "weight sync" in (run / "report.md").read_text()
    assert (run / "policy" / "model.safetensors").exists()


def test_a_run_and_its_server_with_a_key(config, tmp_path, panel_task, monkeypatch):
    monkeypatch.setenv(KEY, "sesame")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    # It waits for the policy that the training makes.
    server = recrl("serve", str(config), "--port", str(port))
    try:
        finished("train", str(config), "rollout=vllm-server", f"rollout.servers=[{address}]")
        refused = requests.post(f"{address}/update_weights", json={}, timeout=10)
        assert refused.status_code == 401
        assert server.poll() is None
        # It is a judge too, though of a policy that has hardly learned to speak.
        grades = {"structured_outputs": {"choice": ["good", "bad"]}}
        judge = ChatConfig(url=f"{address}/v1", model="policy", token_env=KEY, max_tokens=32)
        held = Endpoint(judge.model_copy(update={"options": grades}))
        (grade,) = held.chat(["Is this list good?"])
        assert grade in ("good", "bad")
        assert asyncio.run(held.ask("Is this list good?")) == grade
        with pytest.raises(ChatError, match="cut off at max_tokens=32"):
            Endpoint(judge).chat(["Is this list good?"])
    finally:
        server.send_signal(signal.SIGTERM)
        output, _ = server.communicate(timeout=60)
    assert "waiting for" in output
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{address}/health", timeout=10)
    check(tmp_path / "run")


def test_two_processes_with_an_engine_each(config, tmp_path, panel_task):
    finished(
        *("launch", str(config), "rollout=vllm-colocate"),
        *("--strategy", "ddp", "--gpus", "2", "--port", str(free_port())),
    )
    check(tmp_path / "run")


def test_the_doctor_tries_every_engine(tmp_path):
    output = finished("doctor")
    for name in ("transformers", "vllm-colocate", "vllm-server"):
        assert any(f" {name} " in line and "works" in line for line in output.splitlines())
    assert "weights taken over" in output
