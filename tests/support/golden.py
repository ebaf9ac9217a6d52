"""The golden run: three steps of the warm start and three of the training, on one process and on two.

What such a run leaves is committed beside the test (``tests/launch/run/golden/``), and has to stay the same
bit for bit whatever is moved or rewritten. Record it anew only with a change that is meant to change numbers:

    .venv/bin/python tests/support/golden.py

Processors differ in their instructions and so in their roundings: the run takes those that all of them have.
"""

import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import torch
import yaml
from places import SUPPORT
from safetensors.torch import load_file

FOLDER = SUPPORT.parent / "launch" / "run" / "golden"

_SHARED: dict[str, Any] = {
    "name": "golden",
    "policy": {"tiny": {"hidden": 32, "vocabulary": 400}},
    "task": {"max_train_episodes": 60},
    "warm_start": {"steps": 3, "prompts_per_step": 4, "lists_per_prompt": 2},
    "rewards": [
        "recall",
        "novelty",
        "duplicates",
        "diversity",
        {"name": "both", "sum": {"recall": 1.0, "diversity": 0.5}},
    ],
    "train": {"steps": 3, "prompts_per_step": 4, "group_size": 4, "save_every": 3},
    "evaluation": {"max_episodes": 16, "hold": "off"},
}
KINDS: dict[str, tuple[int, dict[str, Any]]] = {
    "one": (
        1,
        {
            "optimizer": {
                "objective": "recall",
                "constraints": [
                    "novelty >= 0.3 (mean)",
                    "duplicates <= 0.03 (mean)",
                    "diversity >= 0.2 for 0.8 (rate)",
                ],
                "gradient_conflict_every": 2,
                "reference": {"prompts": 4, "answers": 8},
            },
            "train": {"kl": 0.01},
        },
    ),
    "two": (
        2,
        {
            "optimizer": {
                "objective": "recall",
                "constraints": ["novelty >= 0.1 -> 0.3 over 3 (mean)", "duplicates <= 0.03 (mean)"],
                "credit": "tag",
            },
            "train": {"micro_batches": 2},
            "evaluation": {"decoding": "grammar"},
        },
    ),
}
"""Number of processes and settings of each run."""

_LEFT_OUT = ("## Time", "## In short", "## Settings")
_TIMED = re.compile(r"(seconds|time|per_second|memory|transformers_version)", re.I)


def environment() -> dict[str, str]:
    """Environment variables under which every x86-64 processor rounds alike."""
    from numpy._core._multiarray_umath import __cpu_dispatch__

    # Nothing else of what other tests leave in the environment reaches the run.
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "OMP_NUM_THREADS": "1",
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OPENBLAS_CORETYPE": "Prescott",
        "NPY_DISABLE_CPU_FEATURES": " ".join(__cpu_dispatch__),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


# MKL's square roots are the nearest number on Intel's processors; on others some are the next but one.
_ROOTS = """
import torch
x = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
print(torch.equal(x.sqrt(), x.double().sqrt().float()))
"""


@functools.cache
def exact() -> bool:
    """Whether this processor can round as the one that the fixtures were recorded on."""
    found = subprocess.run(
        [sys.executable, "-c", _ROOTS], env=environment(), capture_output=True, text=True, check=True
    )
    return found.stdout.strip() == "True"


def run(kind: str, folder: Path, cache: Path) -> Path:
    """Do the run ``kind`` in ``folder``; the run folder."""
    processes, settings = KINDS[kind]
    tree = {key: {**value} if isinstance(value, dict) else value for key, value in _SHARED.items()}
    for section, values in settings.items():
        tree[section] = {**tree.get(section, {}), **values}
    output, config = folder / "run", folder / "golden.yaml"
    config.write_text(yaml.safe_dump({**tree, "output": str(output), "data": {"cache": str(cache)}}))
    command = ["launch", str(config), "--strategy", "ddp", "--gpus", str(processes)]
    done = subprocess.run(
        [sys.executable, "-m", "recrl.launch.cli", *(command if processes > 1 else ["train", str(config)])],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return output


def written(folder: Path) -> dict[str, str]:
    """What a run left, as texts that are the same for the same run: name of the fixture -> content."""
    metrics = [_untimed(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    warm = [_untimed(json.loads(line)) for line in (folder / "warm_start.jsonl").read_text().splitlines()]
    (checkpoint,) = (folder / "checkpoints").glob("checkpoint-*")
    return {
        "metrics.jsonl": "".join(json.dumps(row) + "\n" for row in metrics),
        "warm_start.jsonl": "".join(json.dumps(row) + "\n" for row in warm),
        "evaluation.json": (folder / "evaluation.json").read_text() + "\n",
        "examples.json": (folder / "examples.json").read_text() + "\n",
        "report.md": _tables((folder / "report.md").read_text()),
        "checkpoint.json": json.dumps(
            {
                **{f"checkpoint/{name}": value for name, value in _contents(checkpoint).items()},
                **{f"policy/{name}": value for name, value in _contents(folder / "policy").items()},
                **{f"warm/{name}": value for name, value in _contents(folder / "warm").items()},
            },
            indent=1,
        )
        + "\n",
    }


def _untimed(tree: Any) -> Any:
    """Without seconds, and without the names of folders."""
    if isinstance(tree, dict):
        return {key: _untimed(value) for key, value in tree.items() if not _TIMED.search(str(key))}
    if isinstance(tree, list):
        return [_untimed(value) for value in tree]
    if isinstance(tree, str) and os.sep in tree:
        return Path(tree).name
    return tree


def _tables(report: str) -> str:
    """The report but for what the fixtures do not hold: where the time went, the summary and the settings."""
    parts = re.split(r"(?m)^(?=## )", report)
    return "".join(part for part in parts if not part.startswith(_LEFT_OUT))


def _contents(folder: Path) -> dict[str, Any]:
    """Each file: a number for the bytes of each tensor, settings and states as they are."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            found[name] = {key: _crc(value) for key, value in sorted(load_file(path).items())}
        elif path.suffix == ".json" and path.name not in ("manifest.json", "tokenizer.json"):
            text = json.dumps(_untimed(json.loads(path.read_text())))
            found[name] = json.loads(text) if len(text) < 4000 else zlib.crc32(text.encode())
        elif path.name == "tokenizer.json":
            found[name] = zlib.crc32(path.read_bytes())
        elif path.is_file():
            found[name] = "there"
    return found


def _crc(value: torch.Tensor) -> str:
    content = value.contiguous().view(torch.uint8).numpy().tobytes() if value.numel() else b""
    return f"{str(value.dtype).removeprefix('torch.')} {[*value.shape]} {zlib.crc32(content):08x}"


def record() -> None:
    """Write the fixtures anew."""
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as temporary:
            folder = run(kind, Path(temporary), Path(temporary) / "cache")
            (FOLDER / kind).mkdir(parents=True, exist_ok=True)
            for name, content in written(folder).items():
                (FOLDER / kind / name).write_text(content)


if __name__ == "__main__":
    record()
