"""Commands of recrl that begin with TRL imported: a process that has imported it is forked for each.

``ENVIRONMENT``  environment of every command, forked or not: that of the tests when they began
``LATER``        variables that a command reads when it uses them, and that a test may therefore set
``Forked``       a command that runs
``start``        a command as ``python -m recrl.launch.cli`` starts it, but for what it imports; on Linux

The forked process has a single thread, nothing of recrl but what imports TRL, and ends with the tests.
"""

import atexit
import functools
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import IO

from recrl.rl.rollouts.access import KEY
from recrl.rl.trainer.without_vllm import import_trl

LATER = {KEY, "HTTP_PROXY", "NETRC", "PYTHONPATH"}
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in LATER - {"PYTHONPATH"}},
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


class Forked:
    """What tests use of ``subprocess.Popen``; the command leads a session of its own."""

    def __init__(self, pid: int, output: int, code: int) -> None:
        self.pid, self.returncode = pid, None
        self.stdout, self._code = open(output), open(code)  # noqa: SIM115

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._code], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("recrl", timeout)
            self.returncode = int(self._code.read())
        return self.returncode

    def communicate(self, timeout: float) -> tuple[str, None]:
        """What it says to its end; with its session it is killed when that is late."""
        with ThreadPoolExecutor(1) as reading:
            try:
                said = reading.submit(self.stdout.read).result(timeout)
            except TimeoutError:
                os.killpg(self.pid, signal.SIGKILL)
                raise
        self.wait(timeout)
        return said, None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def start(arguments: tuple[str, ...], environment: Mapping[str, str], log: IO[bytes] | None = None) -> Forked:
    """Start a command in the working folder.

    Args:
        environment: Variables beside ``ENVIRONMENT``, of ``LATER``: another may have been read already.
        log: File that takes what it says, in place of ``stdout``.
    """
    assert environment.keys() <= LATER, f"{[*environment]}: start it anew"
    (output, said), (ended, code) = os.pipe(), os.pipe()
    command = {"arguments": arguments, "environment": {**ENVIRONMENT, **environment}, "folder": os.getcwd()}
    socket.send_fds(_parent(), [json.dumps(command).encode()], [log.fileno() if log else said, code])
    os.close(said)
    os.close(code)
    return Forked(int(_parent().recv(100)), output, ended)


@functools.cache
def _parent() -> socket.socket:
    """Socket of the process that is forked."""
    mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Arrow's allocator would start a thread.
    environment = {**ENVIRONMENT, "JE_ARROW_MALLOC_CONF": "background_thread:false"}
    command, null = [sys.executable, __file__, str(other.fileno())], subprocess.DEVNULL
    process = subprocess.Popen(
        command, env=environment, pass_fds=[other.fileno()], stdin=null, stdout=null, start_new_session=True
    )
    other.close()
    atexit.register(process.wait, 60)
    atexit.register(mine.close)  # before it is waited for
    return mine


def _forked(channel: socket.socket) -> dict:
    """The next command, in the process that is forked for it; the one that forks ends with its channel."""
    running: dict[int, tuple[int, int]] = {}  # descriptor of a process -> its number, and where its code goes
    while True:
        for ready in select.select([channel, *running], [], [])[0]:
            if ready is not channel:
                number, code = running.pop(ready)
                with suppress(BrokenPipeError):
                    os.write(code, str(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])).encode())
                os.close(ready)
                os.close(code)
                continue
            command, (*descriptors,), _, _ = socket.recv_fds(channel, 2**20, 2)
            if not command:
                for number, _ in running.values():
                    with suppress(ProcessLookupError):
                        os.killpg(number, signal.SIGKILL)
                raise SystemExit
            output, code = descriptors
            assert os.listdir("/proc/self/task") == [str(os.getpid())], "it has several threads"
            if (number := os.fork()) == 0:
                os.setsid()
                for stream in (1, 2):
                    os.dup2(output, stream)
                channel.close()
                for descriptor in (output, code, *running, *(end for _, end in running.values())):
                    os.close(descriptor)
                return json.loads(command)
            running[os.pidfd_open(number)] = number, code
            channel.send(str(number).encode())
            os.close(output)


if __name__ == "__main__":
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # as a command sets it that nobody watches
    import_trl()
    wanted = _forked(socket.socket(fileno=int(sys.argv[1])))
    os.environ.clear()
    os.environ.update(wanted["environment"])
    os.chdir(wanted["folder"])
    sys.path[:1] = [os.getcwd(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv[1:] = wanted["arguments"]
    runpy.run_module("recrl.launch.cli", run_name="__main__", alter_sys=True)
