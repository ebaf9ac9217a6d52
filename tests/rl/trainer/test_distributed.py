"""Two gloo processes train like one, with DDP and DeepSpeed ZeRO-1, -2 and -3, on one host and on two.

The two read each prompt once, the one reads it for every answer.
"""

import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import hosts
import poisoned
import pytest
import resumed_ranks
import torch
from fixed_rollouts import RESUMED
from places import SUPPORT
from ranks import SCRIPT, STRATEGIES, launch
from safetensors.torch import load_file

from recrl.launch.children import end
from recrl.rl.distributed import checkpoints
from recrl.rl.distributed.checkpoints import CheckpointError

pytestmark = pytest.mark.slow

# Two hosts, each with one of the processes.
HOSTS = "zero3 on two hosts"
NO_HOSTS = pytest.param(
    HOSTS, "sequence", marks=pytest.mark.skipif(hosts.missing() is not None, reason=str(hosts.missing()))
)


def launch_on_two_hosts(output: Path) -> Path:
    """Folder of the runs; where one does not come to its end in two minutes, both begin once more."""
    try:
        return begin_on_two_hosts(output, 120)
    except subprocess.TimeoutExpired:
        return begin_on_two_hosts(output.with_name("again"), 300)


def begin_on_two_hosts(output: Path, timeout: float) -> Path:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    script = str(SUPPORT / "on_host.py")
    with hosts.two() as names, ExitStack() as stack:
        address = next(iter(names.values()))
        started = []
        for rank, name in enumerate(names):
            words = ["zero3", "2", str(rank), address, "29500"]
            words += [str(SUPPORT / "start.py"), str(SCRIPT), str(output), HOSTS]
            log = stack.enter_context((output.parent / f"{rank}.log").open("w"))
            process = subprocess.Popen(
                hosts.on(name, sys.executable, script, *words),
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            stack.callback(end, process)
            started.append(process)
        codes = [process.wait(timeout) for process in started]
    assert codes == [0, 0], [(output.parent / f"{rank}.log").read_text()[-3000:] for rank in (0, 1)]
    return output


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Folder of all runs of a kind of launch; each kind is launched once."""
    folders = {}

    def folder_of(kind):
        if kind not in folders:
            folder = tmp_path_factory.mktemp(kind.split()[0]) / "runs"
            folders[kind] = launch_on_two_hosts(folder) if kind == HOSTS else launch(folder, kind)
        return folders[kind]

    return folder_of


@pytest.fixture(scope="module")
def results(launched):
    """Weights and ranks of a run, by kind of launch and name."""

    def load(kind, name):
        folder = launched(kind) / name
        return torch.load(folder / "weights.pt"), json.loads((folder / "ranks.json").read_text())

    return load


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("ddp", "sequence"),
        ("ddp", "tag"),
        ("zero1", "sequence"),
        ("zero2", "sequence"),
        ("zero3", "sequence"),
        ("zero2", "slots"),
        ("zero3", "slots"),
        NO_HOSTS,
    ],
)
def test_two_processes_equal_one_on_the_same_rollouts(results, kind, name):
    expected, (single,) = results("one", name)
    weights, ranks = results(kind, name)
    assert len(ranks) == 2
    duals = ranks[0]["duals"]
    assert duals == ranks[1]["duals"], "the ranks hold different multipliers"
    assert duals["step"] == single["duals"]["step"] == {"sequence": 2, "tag": 4, "slots": 2}[name]
    for field in ("I", "xi", "count", "present"):
        for mine, theirs in zip(duals[field], single["duals"][field], strict=True):
            assert float.fromhex(mine) == pytest.approx(float.fromhex(theirs), abs=1e-6)
    apart = {name: (weights[name] - value).abs().max().item() for name, value in expected.items()}
    assert max(apart.values()) < 1e-4
    # Four groups of four, on two ranks.
    assert {rows for rows, _ in single["reads"]} == {16}
    assert all({rows for rows, _ in rank["reads"]} == {2} for rank in ranks)


@pytest.mark.parametrize("kind", STRATEGIES)
def test_each_rank_samples_answers_of_its_own(results, kind):
    """Two batches of two groups of four on each rank, and the weights stay the same everywhere."""
    weights, ranks = results(kind, "sampled")
    assert all(value.isfinite().all() for value in weights.values())
    for rank in ranks:
        answers, end = rank["answers"], rank["end"]
        assert len(answers) == 16
        assert all(1 <= len(a) <= 8 and end not in a[:-1] for a in answers)
        assert all(len(a) == 8 or a[-1] == end for a in answers)
        assert len({tuple(a) for a in answers}) > 8
    assert ranks[0]["answers"] != ranks[1]["answers"]
    assert ranks[0]["duals"] == ranks[1]["duals"]


def test_the_ranks_held_different_numbers_of_tags_and_some_samples_of_the_segment(results):
    """Else the run above would not have shown that positions are brought to one length."""
    _, ranks = results("ddp", "tag")
    one, other = (rank["lengths"] for rank in ranks)
    assert len(one) == len(other) == 4
    assert any(mine != theirs for mine, theirs in zip(one, other, strict=True))
    objective, cold, everyone = (float.fromhex(count) for count in ranks[0]["duals"]["present"])
    assert 0 < cold < everyone == objective
    assert float.fromhex(ranks[0]["duals"]["I"][0]) > 0


@pytest.mark.parametrize(
    ("kind", "trained"),
    [
        *((kind, trained) for kind in RESUMED for trained in ("all weights", "adapters")),
        ("zero2", "slots"),
        ("zero3", "slots"),
    ],
)
def test_a_run_of_two_processes_goes_on_as_if_it_had_not_stopped(launched, kind, trained):
    """With sampled answers, a batch that serves two steps, and an average of weights; that is the policy."""
    output, adapters = launched(kind) / f"resumed {trained}", trained == "adapters"
    found = torch.load(output / "resumed.pt", weights_only=False)
    whole, resumed = found["whole"], found["resumed"]
    assert resumed["duals"] == whole["duals"]
    for name, value in whole["weights"].items():
        assert torch.equal(resumed["weights"][name], value), name
    for run in ("whole", "parts"):
        folder = output / run / "policy"
        saved = load_file(folder / ("adapter_model.safetensors" if adapters else "model.safetensors"))
        for name, value in saved.items():
            name = re.sub(r"(\.lora_[AB])\.weight", r"\1.default.weight", name)
            assert torch.allclose(value, whole["average"][name].float(), rtol=1e-6, atol=1e-9), name
        moved = [not torch.equal(value, whole["weights"][name]) for name, value in whole["average"].items()]
        assert any(moved), "the average is that of one step"
    if adapters:
        for name, value in load_file(folder / "base" / "model.safetensors").items():
            found = whole["weights"].get(f"base_model.model.{name}")
            layer = f"base_model.model.{name.removesuffix('.weight')}.base_layer.weight"
            assert torch.equal(value, whole["weights"][layer] if found is None else found), name
    if kind != "ddp":
        assert_shards_run_no_code(output / "parts" / f"checkpoint-{resumed_ranks.MIDDLE}")


def assert_shards_run_no_code(checkpoint):
    """What DeepSpeed's own loader reads of the shards, as they are and with code in each."""
    from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

    engine, shards = TorchCheckpointEngine(), sorted(checkpoint.glob("global_step*/*.pt"))
    assert len(shards) >= 3
    for shard in shards:
        marker = checkpoint / "marker"
        with checkpoints.reading(checkpoint, "shards"):
            assert engine.load(str(shard), map_location="cpu")
        poisoned.plant(shard, marker)
        with (
            pytest.raises(CheckpointError, match=r"shards: it would call (io|_io)\.open"),
            checkpoints.reading(checkpoint, "shards"),
        ):
            engine.load(str(shard), map_location="cpu")
        assert not marker.exists()
