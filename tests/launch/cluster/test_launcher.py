"""``recrl launch``: what it would start, and what it refuses."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner
from whole_runs import SMALL, finished, lines

from recrl.launch.cli import app
from recrl.launch.cluster import launcher
from recrl.launch.config.reading import load
from recrl.launch.config.schema import ConfigError
from recrl.rl.distributed import checkpoints

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")


def dry(*arguments):
    """The words of every command, and what is set before them."""
    found = CliRunner().invoke(app, ["launch", "demo", "--dry-run", *map(str, arguments)])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    commands = [shlex.split(line) for line in found.output.splitlines()]
    parted = []
    for words in commands:
        settings = dict(word.split("=", 1) for word in words if "=" in word and words.index(word) < 3)
        parted.append((settings, words[len(settings) :]))
    return parted


def after(words, flag):
    return words[words.index(flag) + 1]


@NO_GPU
def test_several_machines():
    ((settings, words),) = dry(
        *("--strategy", "zero3", "--nodes", 4, "--gpus", 8, "--node-rank", 2, "--address", "127.0.0.1"),
        *("train.prompts_per_step=64", "--resume", "auto", "--grace", 300),
    )
    assert settings == {
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "300",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }
    assert words[1:3] == ["-m", "accelerate.commands.launch"]
    assert Path(after(words, "--config_file")).name == "zero3.yaml"
    assert [after(words, f"--{name}") for name in ("num_processes", "num_machines", "machine_rank")] == [
        "32",
        "4",
        "2",
    ]
    assert (after(words, "--main_process_ip"), after(words, "--main_process_port")) == ("127.0.0.1", "29500")
    assert words[-5:] == ["recrl.launch.train", "demo", "train.prompts_per_step=64", "--resume", "auto"]


@NO_GPU
def test_servers_of_this_machine_are_started_on_the_first_one_only():
    servers = "rollout.servers=[http://127.0.0.1:8001, http://localhost:8002, http://far:8000]"
    asked = ("--gpus", 2, "rollout=vllm-server", servers)
    *found, (_, training) = dry(*asked)
    assert [after(words, "--port") for _, words in found] == ["8001", "8002"]
    assert all(words[3:7] == ["serve", "demo", "rollout=vllm-server", servers] for _, words in found)
    assert "recrl.launch.train" in training
    assert len(dry(*asked, "--nodes", 2, "--node-rank", 1, "--address", "127.0.0.1")) == 1


@NO_GPU
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("train.prompts_per_step=24", "--nodes", 4, "--gpus", 8, "--address", "127.0.0.1"),
            r"(?s)prompts_per_step=24 \* train\.group_size=8.* 32 processes .*a multiple of 32, such as 32",
        ),
        (("--gpus", 2, "--strategy", "cpu"), "starts one process whatever is asked for, and 2 are wanted"),
        (("--gpus", 1, "--strategy", "ddp"), "needs two processes or more"),
        (("--gpus", 2, "--strategy", "zero9"), "'zero9' is unknown; use cpu, ddp, zero1"),
        (("--gpus", 2, "--strategy", "mine.yaml"), "mine.yaml: no such file"),
        (("--gpus", 2, "--nodes", 2), "--nodes 2 needs --address"),
        (("--gpus", 2, "--nodes", 2, "--node-rank", 2, "--address", "x"), "ranks go from 0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(arguments, message):
    with pytest.raises(ConfigError, match=message):
        dry(*arguments)


@NO_GPU
@pytest.mark.parametrize(
    ("strategy", "cluster", "message"),
    [
        ("fsdp2", launcher.Cluster(processes=2), "would silently be ddp"),
        (
            "ddp",
            launcher.Cluster(nodes=2, processes=2, address="no.such.host.invalid"),
            "--address no.such.host.invalid: ",
        ),
    ],
)
def test_what_this_machine_cannot_be_part_of_is_refused(strategy, cluster, message):
    with pytest.raises(ConfigError, match=message):
        launcher.plan(load("demo"), strategy, cluster, ["demo"], [])


def test_a_dry_run_asks_neither_gpus_nor_the_resolver(monkeypatch):
    monkeypatch.setattr(launcher, "gpus", lambda: 1)
    monkeypatch.setattr(launcher.socket, "getaddrinfo", None)  # a call fails
    asked = ("--strategy", "fsdp2", "--nodes", 4, "--gpus", 4, "train.prompts_per_step=32")
    ((settings, words),) = dry(*asked, "--address", "first-machine")
    assert settings["GLOO_SOCKET_IFNAME"] == "interface-to-first-machine"
    assert after(words, "--main_process_ip") == "first-machine"
    ((settings, _),) = dry(*asked, "--address", "first-machine", "--interface", "eth1")
    assert settings["NCCL_SOCKET_IFNAME"] == "eth1"


LEFT = """
import atexit
import os
from pathlib import Path

import torch


@atexit.register
def say():
    file = Path(__file__).with_name(f"still-{os.environ.get('RANK')}")
    file.write_text(str(torch.distributed.is_initialized()))


def constant(completions):
    return [0.5] * len(completions)
"""


@pytest.mark.slow
@NO_GPU
def test_a_whole_run_whose_weights_are_spread_over_two_processes(tmp_path, cache, panel_task):
    """ZeRO-3 to its end: policy, evaluation and report; then nobody is spoken to any more."""
    run = tmp_path / "run"
    (tmp_path / "left.py").write_text(LEFT)
    watching = {"name": "constant", "use": f"{tmp_path / 'left.py'}:constant", "range": [0, 1]}
    config = {**SMALL, "output": str(run), "data": {"cache": str(cache)}}
    config["rewards"] = [*SMALL["rewards"], watching]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    finished("launch", str(tmp_path / "config.yaml"), "--strategy", "zero3", "--gpus", "2")
    assert [row["step"] for row in lines(run)] == [1, 2, 3, 4]
    manifest = checkpoints.read(run / "checkpoints" / "checkpoint-4")
    assert (manifest.strategy, manifest.processes) == ("zero3", 2)
    assert sum("optim_states" in name for name in manifest.files) == 2
    warm, trained = (load_file(run / name / "model.safetensors") for name in ("warm", "policy"))
    assert trained.keys() == warm.keys()
    assert all(trained[name].shape == value.shape for name, value in warm.items())
    assert not all(trained[name].equal(value) for name, value in warm.items())
    assert (run / "report.md").exists()
    assert [(tmp_path / f"still-{rank}").read_text() for rank in (0, 1)] == ["False", "False"]


@pytest.mark.slow
@NO_GPU
def test_processes_that_would_be_one_are_refused(tmp_path):
    """An accelerate file with MULTI_CPU starts one process; recrl says so wherever it is started from."""
    file = tmp_path / "multi_cpu.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "compute_environment": "LOCAL_MACHINE",
                "distributed_type": "MULTI_CPU",
                "num_processes": 2,
                "num_machines": 1,
                "use_cpu": True,
                "mixed_precision": "no",
            }
        )
    )
    with pytest.raises(ConfigError, match="starts one process"):
        launcher.plan(load("demo"), str(file), launcher.Cluster(processes=2), ["demo"], [])
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(file),
    ]
    done = subprocess.run(
        [*command, "-m", "recrl.launch.train", "demo", f"output={tmp_path / 'run'}"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert "was asked for several processes and started one" in done.stderr
    assert done.returncode != 0
    assert not (tmp_path / "run").exists()
