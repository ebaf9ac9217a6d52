"""``recrl serve``: the rollout server of a run, or the policy of a finished one for applications.

``serve``           rollouts: the warm start, until the training hands its weights over
``serve_finished``  a policy that stays as it is, under the run's name
"""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

import torch
from transformers import PreTrainedTokenizerBase

from ...envs import task as tasks
from ...envs.task import Lines, Task
from ...rl import policy
from ...rl.decoding.forms import answer_room, deployed_length
from ...rl.decoding.grammar import answer_grammar, load_xgrammar
from ...rl.decoding.known import KNOWN, LISTED, PROCESSOR
from ...rl.policy import slots
from ...rl.policy.folders import holds_policy
from ...rl.policy.loading import whole_model
from ...rl.rollouts.base import RolloutError
from ...rl.rollouts.make import Application, server_command
from ...rl.rollouts.settings import RolloutConfig
from ...rl.trainer.make import serving_length
from ..children import child, shared_memory_swept
from ..config.schema import ConfigError, RunConfig
from ..run.finished import Whom
from ..run.folder import RunFolder
from ..run.progress import Display
from ..run.setup import Setup, prepare_setup
from ..run.writing import longest, whole
from ..signals import stopping
from .health import healthy
from .priced import know

_LOOK_EVERY = 2.0  # seconds
_SOME = 64  # rows that are looked at


def serve(config: RunConfig, *, host: str, port: int, exposed: bool) -> int:
    """Serve until the process is stopped; return the server's exit code.

    A run that has no policy yet is waited for: ``recrl train`` makes it before it asks the server.

    Raises:
        ConfigError: the run's folder is somebody else's.
        RolloutError: no vLLM, or a server that others could reach without leave.
    """
    _check_vllm()
    RunFolder(config.folder).refuse_strangers()  # before a key is written into it
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


def serve_finished(
    config: RunConfig, folder: Path, whom: Whom, *, host: str, port: int, exposed: bool
) -> int:
    """Serve a policy of a finished run to applications until the process is stopped; return the exit code.

    Lists are those that are deployed: to the prompts of known users under the prices by which the run's
    constraints hold for them.

    Args:
        folder: Folder of the policy.
        whom: Users who are known.

    Raises:
        RolloutError: no vLLM, or a server that others could reach without leave.
        TaskError, AudienceError, DataError: these users cannot be answered.
    """
    _check_vllm()
    slots.refuse(folder)
    display = Display()
    with tempfile.TemporaryDirectory(prefix="recrl-served-") as scratch:
        application = Application(config.name, Path(scratch) / "defaults.json")
        # Refuses before anything is loaded.
        server_command(
            config.rollout, folder, config.policy.dtype, 1, host, port, exposed, config.folder, application
        )
        task = tasks.make(config.task, config.data).as_trained(config.folder)
        if _distinct(config, task):
            known = Path(scratch) / "known"
            know(config, task, folder, whom, known, display)
            gc.collect()  # the policy that prices were fitted by leaves its memory to the server
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            application = replace(application, processor=PROCESSOR, environment={KNOWN: str(known)})
        elif whom != Whom():
            raise ConfigError(
                "--users, --at and --limit say who gets lists under prices; here nobody does: leave them out"
            )
        model, tokenizer = policy.load(config.policy.whole(folder))
        served = whole(folder, model, tokenizer, Path(scratch))
        application.defaults.write_text(json.dumps(_defaults(config, task, tokenizer, display)))
        room = config.train.max_answer_tokens or answer_room(task.form, tokenizer)
        vocabulary = int(model.config.get_text_config().vocab_size)
        room = max(room, deployed_length(task.form, tokenizer, vocabulary, config.evaluation.decoding))
        command, environment = server_command(
            config.rollout,
            served,
            config.policy.dtype,
            longest(model, tokenizer, task.rows("test"), room),
            host,
            port,
            exposed,
            config.folder,
            application,
        )
        del model
        display.say(f"serving {folder} as {config.name!r} at http://{host}:{port}/v1")
        return _run(command, {**os.environ, **environment})


def _defaults(
    config: RunConfig, task: Task, tokenizer: PreTrainedTokenizerBase, display: Display
) -> dict[str, object]:
    """What requests get unless they say something else: greedy, and lists as the run deploys them."""
    defaults: dict[str, object] = {"temperature": 0.0}
    if _distinct(config, task):
        return {**defaults, "vllm_xargs": {LISTED: 1}}
    said = "served answers are under no prices: they do not hold the run's constraints"
    if isinstance(task.form, Lines) and config.evaluation.decoding == "grammar":
        known = load_xgrammar().TokenizerInfo.from_huggingface(tokenizer)
        grammar = answer_grammar(task.form, leading_space=known.add_prefix_space)
        defaults["structured_outputs"] = {"grammar": grammar}
        said += (
            f"; each names one to {task.form.count} of {len(task.form.options)} options, one a line, and may "
            "name one twice"
        )
        if any(task.barred(row) for row in task.rows("test", _SOME)):
            said += ", or one that its prompt's answer may not name (data.protocol.repeats=false)"
    elif isinstance(task.form, Lines):
        said += "; they are not limited to the catalogue (evaluation.decoding=free)"
    display.say(f"{said}. recrl recommend writes what holds them")
    return defaults


def _distinct(config: RunConfig, task: Task) -> bool:
    """Whether answers are lists of different options."""
    return isinstance(task.form, Lines) and config.evaluation.decoding == "distinct"


def _check_vllm() -> None:
    if find_spec("vllm") is None:
        raise RolloutError("recrl serve needs vLLM; install recrl[vllm] on CUDA, see README for a CPU")


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
        own = stack.enter_context(_private())
        server = stack.enter_context(
            child(command, {**os.environ, **environment, **own}, stdout=stream, stderr=stream)
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


@contextmanager
def _private() -> Iterator[dict[str, str]]:
    """Environment of a server whose processes talk to each other in a folder that no other user can enter,
    whatever the umask says, and that is gone with them."""
    with tempfile.TemporaryDirectory(prefix="recrl-") as folder:
        yield {"VLLM_RPC_BASE_PATH": folder}


def _longest(setup: Setup, warm: Path) -> int:
    config = setup.config
    _, tokenizer = policy.load(config.policy.at(warm))
    return serving_length(config.train, setup.training_rows, tokenizer, setup.answer_tokens(tokenizer))


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Exit code of a server that ends with this process."""
    with shared_memory_swept(), _private() as own, child(command, {**environment, **own}) as server:

        def stop(number: int, frame: FrameType | None) -> None:
            os.killpg(server.pid, signal.SIGTERM)

        with stopping(stop):
            return server.wait()
