"""What stands in the way of processes that start."""

import os
import subprocess
import sys

from torch.utils.file_baton import FileBaton

from recrl.rl.distributed.processes import free_build_locks

HOLD = """
import sys, time
from torch.utils.file_baton import FileBaton
assert FileBaton(sys.argv[1]).try_acquire()
print("compiling", flush=True)
time.sleep(60)
"""


def aged(path, seconds=3600):
    before = path.stat().st_mtime - seconds
    os.utime(path, (before, before))


def test_the_lock_of_a_compilation_that_was_killed_is_taken_away(tmp_path):
    lock = tmp_path / "cpu" / "shm" / "lock"
    lock.parent.mkdir(parents=True)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "compiling\n"
        aged(lock)
        free_build_locks(tmp_path)
        assert lock.exists()  # it still compiles
    finally:
        holder.kill()
        holder.communicate()
    assert not FileBaton(str(lock)).try_acquire()  # so everybody would wait
    free_build_locks(tmp_path)
    assert FileBaton(str(lock)).try_acquire()


def test_a_young_lock_may_be_another_machines(tmp_path):
    lock = tmp_path / "shm" / "lock"
    lock.parent.mkdir()
    lock.touch()
    free_build_locks(tmp_path)
    assert lock.exists()
    aged(lock)
    free_build_locks(tmp_path)
    assert not lock.exists()
