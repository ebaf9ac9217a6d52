"""Scripts on one process and on two."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from places import STRATEGIES as CONFIGS
from places import SUPPORT

SCRIPT = SUPPORT / "fixed_rollouts.py"
# As shipped; without a GPU all of these work over gloo.
STRATEGIES = ("ddp", "zero1", "zero2", "zero3")
# DeepSpeed compiles its operations where it can, and works where it cannot.
WITHOUT_COMPILER = "zero1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(output: Path, kind: str, *arguments: str, script: Path = SCRIPT, timeout: float = 300) -> Path:
    """Runs of a script with these processes; returns the folder that holds them."""
    output.mkdir(parents=True, exist_ok=True)
    command = [sys.executable]
    if kind in STRATEGIES:
        command += ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / f"{kind}.yaml")]
        command += ["--num_processes", "2", "--main_process_port", str(free_port())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    if kind == WITHOUT_COMPILER:  # nor anything that was compiled before
        environment |= {"CXX": "no-such-compiler", "TORCH_EXTENSIONS_DIR": str(output / "extensions")}
    done = subprocess.run(
        [*command, str(SUPPORT / "start.py"), str(script), str(output), kind, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return output
