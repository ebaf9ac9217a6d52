"""Two gloo processes train like one, with DDP and with DeepSpeed ZeRO-2."""

import json
import os
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


def run(output: Path, kind: str | None, port: int) -> tuple[dict, list]:
    command = [sys.executable]
    if kind:
        config = output.with_suffix(".yaml")
        config.write_text(yaml.safe_dump(ACCELERATE[kind]))
        command += [
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            str(config),
            "--main_process_port",
            str(port),
        ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, str(SCRIPT), str(output), *([kind] if kind else [])],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return torch.load(output / "weights.pt"), json.loads((output / "duals.json").read_text())


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    return run(tmp_path_factory.mktemp("one") / "run", None, 0)


@pytest.mark.parametrize(("kind", "port"), [("ddp", 29611), ("deepspeed", 29612)])
def test_two_processes_equal_one_on_the_same_rollouts(one_process, kind, port, tmp_path):
    weights, duals = run(tmp_path / "run", kind, port)
    expected, single = one_process
    assert len(duals) == 2
    assert duals[0] == duals[1], "the ranks hold different multipliers"
    assert duals[0]["step"] == single[0]["step"] == 4
    for field in ("I", "xi"):
        for mine, theirs in zip(duals[0][field], single[0][field], strict=True):
            assert float.fromhex(mine) == pytest.approx(float.fromhex(theirs), abs=1e-6)
    moved = max((weights[name] - expected[name]).abs().max().item() for name in expected)
    assert moved < 1e-4
