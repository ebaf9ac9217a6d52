"""Two gloo processes train like one: with DDP and DeepSpeed ZeRO-2; with credit per tag and a segment."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

SCRIPT = Path(__file__).with_name("fixed_rollouts.py")
BASE = {
    "compute_environment": "LOCAL_MACHINE",
    "use_cpu": True,
    "num_machines": 1,
    "machine_rank": 0,
    "mixed_precision": "no",
}
ACCELERATE = {
    "ddp": {**BASE, "distributed_type": "MULTI_GPU", "num_processes": 2},
    "deepspeed": {
        **BASE,
        "distributed_type": "DEEPSPEED",
        "num_processes": 2,
        "deepspeed_config": {"zero_stage": 2, "gradient_accumulation_steps": 1},
    },
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(output: Path, kind: str) -> Path:
    """Runs of fixed_rollouts.py with these processes; returns the folder that holds them."""
    command = [sys.executable]
    if kind in ACCELERATE:
        config = output.with_suffix(".yaml")
        config.write_text(yaml.safe_dump(ACCELERATE[kind]))
        command += [
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            str(config),
            "--main_process_port",
            str(free_port()),
        ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, str(SCRIPT), str(output), kind],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return output


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Weights and ranks of a run, by kind of launch and name; each kind is launched once."""
    folders = {}

    def load(kind, name):
        if kind not in folders:
            folders[kind] = launch(tmp_path_factory.mktemp(kind) / "runs", kind)
        folder = folders[kind] / name
        return torch.load(folder / "weights.pt"), json.loads((folder / "ranks.json").read_text())

    return load


@pytest.mark.parametrize(("kind", "name"), [("ddp", "sequence"), ("ddp", "tag"), ("deepspeed", "sequence")])
def test_two_processes_equal_one_on_the_same_rollouts(results, kind, name):
    expected, (single,) = results("one", name)
    weights, ranks = results(kind, name)
    assert len(ranks) == 2
    duals = ranks[0]["duals"]
    assert duals == ranks[1]["duals"], "the ranks hold different multipliers"
    assert duals["step"] == single["duals"]["step"] == 4
    for field in ("I", "xi", "count", "present"):
        for mine, theirs in zip(duals[field], single["duals"][field], strict=True):
            assert float.fromhex(mine) == pytest.approx(float.fromhex(theirs), abs=1e-6)
    moved = max((weights[name] - expected[name]).abs().max().item() for name in expected)
    assert moved < 1e-4


def test_the_ranks_held_different_numbers_of_tags_and_some_samples_of_the_segment(results):
    """Else the run above would not have shown that positions are brought to one length."""
    _, ranks = results("ddp", "tag")
    one, other = (rank["lengths"] for rank in ranks)
    assert len(one) == len(other) == 4
    assert any(mine != theirs for mine, theirs in zip(one, other, strict=True))
    objective, cold, everyone = (float.fromhex(count) for count in ranks[0]["duals"]["present"])
    assert 0 < cold < everyone == objective
    assert float.fromhex(ranks[0]["duals"]["I"][0]) > 0
