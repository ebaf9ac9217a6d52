"""``recrl serve``: the rollout server of a run, started with what its configuration says."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

from ...rl import policy
from ...rl.policy.folders import holds_policy
from ...rl.policy.loading import whole_model
from ...rl.rollouts.base import RolloutError
from ...rl.rollouts.make import server_command
from ...rl.rollouts.settings import RolloutConfig
from ...rl.trainer.make import serving_length
from ..children import child, shared_memory_swept
from ..config.schema import RunConfig
from ..run.progress import Display
from ..run.setup import Setup, prepare_setup
from ..signals import stopping
from .health import healthy

_LOOK_EVERY = 2.0  # seconds


def serve(config: RunConfig, *, host: str, port: int, exposed: bool) -> int:
    """Serve until the process is stopped; return the server's exit code.

    A run that has no policy yet is waited for: ``recrl train`` makes it before it asks the server.

    Raises:
        RolloutError: no vLLM, or a server that others could reach without leave.
    """
    if find_spec("vllm") is None:
        raise RolloutError("recrl serve needs vLLM; install recrl[vllm] on CUDA, see README for a CPU")
    display = Display()
    warm = config.folder / "warm"
    # Refuses before it waits.
    dtype = config.policy.dtype
    server_command(config.rollout, warm, dtype, 1, host, port, exposed, config.folder)
    if not holds_policy(warm):
        display.say(f"waiting for {warm}; start the training now: recrl train ... rollout=vllm-server")
    while not holds_policy(warm):
        time.sleep(_LOOK_EVERY)
    setup = prepare_setup(config, display)
    command, environment = server_command(
        config.rollout, whole_model(warm), dtype, _longest(setup, warm), host, port, exposed, config.folder
    )
    display.say(f"serving {warm} at http://{host}:{port}")
    return _run(command, {**os.environ, **environment})


@contextmanager
def running(
    config: RolloutConfig,
    folder: Path,
    dtype: str,
    longest: int,
    port: int,
    *,
    run: Path,
    patience: float,
    log: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A server on loopback, ready to answer, for as long as the context lasts.

    Args:
        config, folder, dtype, longest, run: See :func:`recrl.rl.rollouts.make.server_command`.
        patience: Seconds until it must be ready.
        log: File of its output; stderr by default.

    Raises:
        RolloutError: the server ended, or was not ready in time.
    """
    command, environment = server_command(
        config, folder, dtype, longest, "127.0.0.1", port, exposed=False, run=run
    )
    with ExitStack() as stack:
        stream = stack.enter_context(log.open("ab") if log else os.fdopen(os.dup(sys.stderr.fileno()), "wb"))
        stack.enter_context(shared_memory_swept())
        server = stack.enter_context(
            child(command, {**os.environ, **environment}, stdout=stream, stderr=stream)
        )
        until = time.monotonic() + patience
        while not healthy(f"http://127.0.0.1:{port}"):
            if server.poll() is not None:
                raise RolloutError(
                    f"the rollout server ended with code {server.returncode}; see {log or 'above'}"
                )
            if time.monotonic() > until:
                raise RolloutError(
                    f"the rollout server was not ready after {patience:g} s; see {log or 'above'}"
                )
            time.sleep(0.2)
        yield server


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _longest(setup: Setup, warm: Path) -> int:
    config = setup.config
    _, tokenizer = policy.load(config.policy.at(warm))
    return serving_length(config.train, setup.training_rows, tokenizer, setup.answer_tokens(tokenizer))


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Exit code of a server that ends with this process."""
    with shared_memory_swept(), child(command, environment) as server:

        def stop(number: int, frame: FrameType | None) -> None:
            os.killpg(server.pid, signal.SIGTERM)

        with stopping(stop):
            return server.wait()
