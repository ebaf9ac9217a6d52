"""Rollouts on vLLM from the command line: whole runs, a run's own server, and what works here."""

import asyncio
import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from operator import eq, ne
from pathlib import Path
from threading import Thread

import numpy as np
import polars as pl
import psutil
import pytest
import yaml
from attacks import ask, attack
from ranks import free_port
from whole_runs import SMALL, finished, here, lines, recrl

from recrl.envs import task as tasks
from recrl.envs.chat.endpoint import Endpoint
from recrl.envs.chat.models import ChatError
from recrl.envs.chat.settings import ChatConfig
from recrl.envs.http.addresses import is_loopback
from recrl.launch.cluster.health import healthy
from recrl.launch.config.reading import load
from recrl.rl import policy
from recrl.rl.decoding.deploy import deploy
from recrl.rl.rollouts.access import KEY, KEY_FILE

if find_spec("vllm") is None:
    pytest.skip("rollouts on vLLM are optional; `make test` installs it", allow_module_level=True)
pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path, cache) -> Path:
    return small(tmp_path, cache)


def small(folder: Path, cache: Path) -> Path:
    """A head of vLLM has at least 32 dimensions on a CPU."""
    path = folder / "small.yaml"
    changes = {
        "policy": {"tiny": {"hidden": 128, "vocabulary": 400}},
        "rollout": {"kv_cache": 0.1, "patience": 240},
        "data": {"cache": str(cache)},
        "output": str(folder / "run"),
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


def test_a_run_and_its_server_which_lets_nobody_in(config, tmp_path, panel_task, monkeypatch):
    monkeypatch.delenv(KEY, raising=False)
    # Neither is asked: a password from the one would go in the key's place, the key to the other.
    (tmp_path / "netrc").write_text("default login me password mine\n")
    proxies = {"NETRC": str(tmp_path / "netrc"), "HTTP_PROXY": "http://127.0.0.1:9"}
    for name, value in proxies.items():
        monkeypatch.setenv(name, value)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    settings = (str(config), "rollout=vllm-server", f"rollout.servers=[{address}]")
    # It waits for the policy that the training makes.
    server = recrl("serve", *settings, "--port", str(port), environment=proxies, anew=True)
    said = [server.stdout.readline()]
    while "waiting for" not in said[-1]:
        assert server.poll() is None, said
        said.append(server.stdout.readline())
    listener = Thread(target=lambda: said.extend(server.stdout))  # what nobody reads holds it up
    listener.start()
    try:
        finished("train", *settings, environment=proxies)
        key = (tmp_path / "run" / KEY_FILE).read_text()
        table = attack(port, key)
        print(f"attacks: {table.tried} tried, {table.refused} refused, {len(table.silent)} silent")
        assert table.silent == []
        assert table.tried == table.refused > 1000
        assert server.poll() is None
        assert key not in "".join(Path(f"/proc/{server.pid}/cmdline").read_text())
        monkeypatch.setenv(KEY, key)
        # It is a judge too, though of a policy that has hardly learned to speak.
        grades = {"structured_outputs": {"choice": ["good", "bad"]}}
        judge = ChatConfig(url=f"{address}/v1", model="policy", token_env=KEY, max_tokens=32)
        held = Endpoint(judge.model_copy(update={"options": grades}))
        (grade,) = held.chat(["Is this list good?"])
        assert grade in ("good", "bad")
        assert asyncio.run(held.ask("Is this list good?")) == grade
        with pytest.raises(ChatError, match="cut off at max_tokens=32"):
            Endpoint(judge).chat(["Is this list good?"])
        assert len(told_apart(port, key, tmp_path)) == 1
        assert open_to_others(server.pid) == []
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)
        listener.join()
    assert key not in "".join(said)
    assert not healthy(address)
    check(tmp_path / "run")


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache, panel_task) -> Path:
    """A finished run with a bound that its lists meet by prices alone."""
    folder = tmp_path_factory.mktemp("finished")
    bounds = '["novelty >= 0.85 (mean)", "duplicates <= 0.03 (mean)"]'
    changes = ("train.learning_rate=0.003", "evaluation.max_episodes=8", "evaluation.hold=auto")
    changes += (f"optimizer.constraints={bounds}",)
    here("train", str(small(folder, cache)), *changes)
    return folder / "run"


@pytest.fixture(scope="module")
def lists(run) -> pl.DataFrame:
    """What 24 users are recommended by transformers."""
    output = run.parent / "recs.parquet"
    here("recommend", str(run), "--limit", "24", "--output", str(output))
    return pl.read_parquet(output)


def test_vllm_recommends_what_transformers_does(run, lists, tmp_path):
    output = tmp_path / "recs.parquet"
    # Not here: vLLM closes the log handlers that it finds, and one of absl's then closes pytest's stderr.
    finished("recommend", str(run), "--limit", "24", "--output", str(output), "rollout=vllm-colocate")
    found = pl.read_parquet(output)
    assert found.drop("logprob").equals(lists.drop("logprob"))
    np.testing.assert_allclose(found["logprob"], lists["logprob"], atol=1e-3)
    assert not (tmp_path / ".recs.parquet.asked").exists()


def test_a_finished_run_is_served_as_it_was_trained_and_is_recommended(run, lists, monkeypatch):
    monkeypatch.delenv(KEY, raising=False)
    from openai import OpenAI  # a dependency of vLLM

    settings = load(str(run / "config.yaml"), [f"output={run}"])
    task = tasks.make(settings.task, settings.data)
    audience = task.audience()
    numbers = {name: number for number, name in enumerate(audience.names)}
    prompts = [row["prompt"] for row in audience.rows([numbers[user] for user in lists["user"]])]
    strangers = [row["prompt"] for row in task.rows("test", 24)]
    trained = policy.load(settings.policy.at(run / "policy"))
    own, other = (deploy(*trained, asked, task.form) for asked in (prompts, strangers))
    recommended = ["".join(f"{item}\n" for item in items) for items in lists["items"]]
    assert sum(map(ne, own, recommended)) > 12, "prices change nothing that shows"
    warm = deploy(*policy.load(settings.policy.at(run / "warm")), strangers, task.form)
    assert warm != other, "training changed nothing that shows"
    port = free_port()
    server = recrl("serve", str(run), "--port", str(port), "--limit", "24", anew=True)
    said: list[str] = []
    listener = Thread(target=lambda: said.extend(server.stdout))
    listener.start()
    try:
        until = time.monotonic() + 900
        while not healthy(f"http://127.0.0.1:{port}"):
            assert server.poll() is None, said
            assert time.monotonic() < until, said
            time.sleep(0.5)
        key = (run / KEY_FILE).read_text()
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0)
        assert [model.id for model in client.models.list()] == ["small"]

        def ask_for(prompt, **options):
            choice = client.chat.completions.create(model="small", messages=prompt, **options).choices[0]
            assert choice.finish_reason == "stop"
            return choice.message.content

        # Many at once, so that requests of all kinds enter and leave the same batch.
        with ThreadPoolExecutor(16) as pool:
            known = pool.map(partial(ask_for, temperature=0), prompts)
            unknown = pool.map(ask_for, strangers)
            drawn = pool.map(partial(ask_for, temperature=1, seed=1), prompts[:4])
            forced = {"structured_outputs": {"choice": ["good", "bad"]}}
            graded = pool.map(partial(ask_for, extra_body=forced), prompts[:4])
        equal = sum(map(eq, known, recommended)), sum(map(eq, unknown, other))
        print(f"{equal[0]} of {len(prompts)} as recommended, {equal[1]} of {len(strangers)} without prices")
        assert equal == (len(prompts), len(strangers))
        assert {*graded} <= {"good", "bad"}
        for text in drawn:
            assert len({*text.splitlines()} & {*task.catalog.tags}) == 10
        right = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        assert ask(port, "POST", "/v1/chat/completions", {**right, "Authorization": "Bearer no"})[0] == 401
        for method, path in (
            ("POST", "/update_weights"),
            ("POST", "/pause"),
            ("POST", "/inference/v1/generate"),
        ):
            assert ask(port, method, path, right)[0] in (403, 404), path
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)
        listener.join()
    told = " ".join("".join(said).split())
    assert (
        "a served list names 10 different options. Those to the prompts of 24 users as of 2017-12-25" in told
    )
    assert "hold novelty >= 0.85 (mean 0.85" in told
    assert "A list to any other prompt is under no prices" in told
    assert f"serving {run / 'policy'} as 'small'" in told


def open_to_others(server: int) -> list[str]:
    """Places where another user, or another machine, could speak to the processes of a server."""
    parent = psutil.Process(server)
    found = []
    for process in (parent, *parent.children(recursive=True)):
        for one in process.net_connections(kind="inet"):
            if one.status == psutil.CONN_LISTEN and not is_loopback(one.laddr.ip):
                found.append(f"{one.laddr}")
        for one in process.net_connections(kind="unix"):
            if one.laddr and Path(one.laddr).parent.stat().st_mode & 0o077:
                found.append(one.laddr)
    return found


def told_apart(port: int, key: str, folder: Path) -> set[tuple[int, str]]:
    """What a server says about names that are no version, and about paths: there, missing, a folder."""
    (folder / "there").write_text("x")
    names = [folder / "there", folder / "missing", folder, "/etc/passwd", "../../etc/passwd", "a/b", "\0", 7]
    given = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    said = set()
    for name in names:
        assert ask(port, "POST", "/start_weight_update", given)[0] == 200
        body = json.dumps({"update_info": {"version": str(name) if isinstance(name, Path) else name}})
        said.add(ask(port, "POST", "/update_weights", given, body.encode()))
    return said


def test_two_processes_with_an_engine_each(config, tmp_path, panel_task):
    finished(
        *("launch", str(config), "rollout=vllm-colocate"),
        *("--strategy", "ddp", "--gpus", "2", "--port", str(free_port())),
    )
    check(tmp_path / "run")


def test_the_doctor_tries_every_engine(tmp_path):
    """With vLLM's processes and compiled parts as a user has them."""
    usual = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "TORCHDYNAMO_DISABLE": "0"}
    output = finished("doctor", anew=True, environment=usual)
    for name in ("transformers", "vllm-colocate", "vllm-server"):
        assert any(f" {name} " in line and "works" in line for line in output.splitlines())
    assert "weights taken over" in output
