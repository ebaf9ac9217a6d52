"""What processes leave when they, or those who started them, are killed."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import psutil
import pytest

from recrl.launch.children import child, shared_memory_swept

# Shared memory as vLLM's processes have it, whose tracker dies with them.
MAKER = """
import os, signal, time
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
made = SharedMemory(create=True, size=1000)
resource_tracker.unregister(made._name, "shared_memory")
print(made.name, flush=True)
time.sleep(100)
"""

PARENT = """
import sys
from recrl.launch.children import child
with child([sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(100)"], {}) as found:
    print(found.pid, flush=True)
    found.wait()
"""


@pytest.fixture
def mine():
    """Shared memory of this process; the tests look after it themselves."""
    made = []

    def make() -> Path:
        made.append(SharedMemory(create=True, size=1000))
        return Path("/dev/shm") / made[-1].name

    yield make
    for one in made:
        one.close()
        if (Path("/dev/shm") / one.name).exists():
            one.unlink()
        else:
            resource_tracker.unregister(one._name, "shared_memory")


def killed_maker() -> Path:
    with child([sys.executable, "-c", MAKER], {**os.environ}, stdout=subprocess.PIPE, text=True) as maker:
        name = maker.stdout.readline().strip()
        maker.send_signal(signal.SIGKILL)
        maker.wait()
        maker.stdout.close()
    return Path("/dev/shm") / name


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="Linux alone shows shared memory as files")
def test_shared_memory_of_killed_processes_is_taken_away_and_no_other(mine):
    before = killed_maker()
    assert before.exists(), "nobody swept here"
    try:
        with shared_memory_swept():
            left, used = killed_maker(), mine()
            assert left.exists()
        assert not left.exists()
        assert used.exists(), "it is mapped"
        assert before.exists(), "somebody else's, from before"
    finally:
        before.unlink()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends children")
def test_a_child_ends_with_a_parent_that_is_killed():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        said = {parent.stdout.readline().strip() for _ in range(2)}
        (number,) = (int(word) for word in said - {"begun"})
        found = psutil.Process(number)
        parent.kill()
    until = time.monotonic() + 10
    while lives(found):
        assert time.monotonic() < until
        time.sleep(0.02)


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
