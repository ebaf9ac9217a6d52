"""A disk that is full or closed is told of in one line, whichever library met it, and takes nothing away."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import matplotlib.figure
import polars as pl
import pytest
import torch
from safetensors.torch import save_file
from whole_runs import here

from recrl.benchmarks.scale import resume
from recrl.envs.storage.sealed import write
from recrl.launch.faults import disk_fault

LARGEST = 4096  # bytes


@pytest.fixture
def small_files():
    """No file of this process may become larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _figure(path):
    figure = matplotlib.figure.Figure(figsize=(8, 8))
    figure.subplots().plot(range(1000))
    figure.savefig(path, dpi=300)


# Not torch.save, which says nothing of the disk: only checkpoints use it, and they explain themselves.
WRITERS = {
    "text": lambda path: path.write_text("x" * 2 * LARGEST),
    "aside": lambda path: write(path, "x" * 2 * LARGEST),
    "safetensors": lambda path: save_file({"x": torch.zeros(LARGEST)}, path),
    "arrow": lambda path: pl.DataFrame({"x": range(LARGEST)}).write_ipc(path),
    "parquet": lambda path: pl.DataFrame({"x": range(LARGEST)}).write_parquet(
        path, compression="uncompressed"
    ),
    "figure": _figure,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.usefixtures("small_files")
def test_each_library_that_writes_for_a_run(tmp_path, name):
    with pytest.raises(Exception) as error:  # noqa: PT011 (every library has its own)
        WRITERS[name](tmp_path / "file.png")
    said = disk_fault(error.value)
    assert said is not None
    assert "\n" not in said
    assert "output=..." in said


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (errno.ENOSPC, "no space is left, "),
        (errno.EDQUOT, "the quota is used up"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EIO, "the disk fails"),
    ],
)
def test_faults_of_the_disk_are_seen_behind_others(tmp_path, number, word):
    try:
        try:
            raise OSError(number, os.strerror(number), str(tmp_path / "metrics.jsonl"))
        except OSError as fault:
            raise RuntimeError("while reporting") from fault
    except RuntimeError as error:
        said = disk_fault(error)
    assert f"cannot write {tmp_path / 'metrics.jsonl'}: {word}" in said


@pytest.mark.parametrize(
    "error",
    [
        ValueError("permission"),
        KeyError("x"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "gone"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        RuntimeError("CUDA error: out of memory"),
    ],
)
def test_other_faults_are_not_taken_for_the_disks(error):
    assert disk_fault(error) is None


COMMAND = (
    "import resource, sys; limit = int(sys.argv.pop(1)); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)); "
    "from recrl.launch.cli import main; main(sys.argv[1:])"
)


def trained(config: Path, limit: int, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMAND, str(limit), "train", str(config), *overrides],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )


@pytest.mark.slow
def test_a_run_without_room_ends_with_one_line(tmp_path):
    """In its tables, in the checkpoint of its warm start, in a folder that is none."""
    config = resume.prepare(tmp_path / "small")
    run = f"output={tmp_path / 'run'}"
    for limit, words in (
        (0, "name another folder by TMPDIR"),
        (40_000, "File too large"),
        (250_000, "warm_start could not be written after step 8"),
    ):
        done = trained(config, limit, run)
        assert done.returncode == 2, done.stderr[-3000:]
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    (tmp_path / "file").write_text("mine")
    said = here("train", str(config), f"output={tmp_path / 'file' / 'run'}", code=2)
    assert f"{tmp_path / 'file'} is a file" in said.replace("\n", " ")
