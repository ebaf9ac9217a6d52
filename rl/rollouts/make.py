"""The rollout engine of a run: the engine itself, its checks, and the command of a server."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ...envs.http.addresses import is_loopback
from .access import KEY, server_key
from .base import RolloutEngine, RolloutError
from .colocate import ColocatedEngine
from .defaults import DEFAULTS, Defaults
from .exchange import EXCHANGE, check_folder
from .gate import HOSTS, Gate
from .served import ServedEngine
from .settings import RolloutConfig


@dataclass(frozen=True)
class Application:
    """A policy that is served to applications, not to a training: its weights stay what they are.

    Attributes:
        name: Name that requests ask for.
        defaults: File of what requests get unless they say something else, see :mod:`.defaults`.
        processor: Class inside vLLM, ``module:name``, that changes what requests may take; None for none.
        environment: Environment that this class reads.
    """

    name: str
    defaults: Path
    processor: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def make_engine(
    config: RolloutConfig, policy: Path | str, dtype: str, longest: int, run: Path
) -> RolloutEngine | None:
    """The engine of a run; None where the trainer answers by itself.

    Args:
        config: Settings of the rollouts.
        policy: Folder, or name of the hub, of the weights that it starts with.
        dtype: Dtype of the policy.
        longest: Largest number of tokens of a prompt and an answer together.
        run: Folder of the run.

    Raises:
        RolloutError: vLLM is missing, a server is not there, or others may write where weights travel.
    """
    if config.engine == "transformers":
        return None
    if config.engine == "vllm-colocate":
        if config.threads is not None:
            os.environ["VLLM_CPU_OMP_THREADS_BIND"] = config.threads
        return ColocatedEngine(policy, config.engine_options(dtype, longest))
    return ServedEngine(
        config.servers,
        exchange_folder(config, run),
        patience=config.patience,
        timeout=config.timeout,
        dtype=config.engine_dtype(dtype),
        key=server_key(run),
        nccl_port=None if config.over_files else config.nccl_port,
    )


def check_served(config: RolloutConfig, run: Path) -> None:
    """Refuse a key or a folder for weights that servers cannot use, before anything is trained.

    Args:
        run: Folder of the run; the key is made there if there is none yet.

    Raises:
        RolloutError: the key is invalid or known to others, or others may write where weights travel.
    """
    if config.engine != "vllm-server":
        return
    server_key(run)
    exchange = exchange_folder(config, run)
    if exchange is not None:
        check_folder(exchange)


def exchange_folder(config: RolloutConfig, run: Path) -> Path | None:
    """Folder of weights that travel as files, by settings that trainer and servers share; None over NCCL."""
    if not config.over_files:
        return None
    if config.exchange is not None:
        return config.exchange.absolute()
    here = all(is_loopback(urlsplit(server).hostname) for server in config.servers)
    memory = Path("/dev/shm")
    return memory / f"recrl-{os.getuid()}" if here and memory.is_dir() else run.absolute() / "exchange"


def server_command(
    config: RolloutConfig,
    policy: Path | str,
    dtype: str,
    longest: int,
    host: str,
    port: int,
    exposed: bool,
    run: Path,
    application: Application | None = None,
) -> tuple[list[str], dict[str, str]]:
    """The command that serves a policy, and what its environment needs.

    The key is made if there is none yet.

    Args:
        config, policy, dtype, longest, run: Arguments as of :func:`make_engine`.
        host, port: Address at which it listens.
        exposed: Whether other machines may reach it.
        application: What applications are served; None serves rollouts, and takes over weights.

    Raises:
        RolloutError: it would be reachable from elsewhere without leave, with an invalid key, or with weights
            that others can write.
    """
    if not is_loopback(host) and not exposed:
        raise RolloutError(
            f"--host {host} lets other machines reach this server, though none without its key; add --expose "
            "if they may, or leave --host at 127.0.0.1"
        )
    names = sorted({host, *(urlsplit(server).hostname or "" for server in config.servers)})
    environment = {
        "VLLM_API_KEY": "",  # the one of ours guards more
        KEY: server_key(run),
        HOSTS: json.dumps(None if exposed else names),
    }
    if application is None:
        environment["VLLM_SERVER_DEV_MODE"] = "1"  # the routes that exchange weights
        exchange = exchange_folder(config, run)
        if exchange is not None:
            check_folder(exchange)
            environment[EXCHANGE] = str(exchange)
    options = config.engine_options(dtype, longest) | {"tensor_parallel_size": config.tensor_parallel}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(policy)]
    command += ["--host", host, "--port", str(port)]
    command += ["--served-model-name", application.name if application is not None else "policy"]
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            command.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            command += [f"--{flag}", str(value)]
    if application is not None:
        environment[DEFAULTS] = str(application.defaults)
        command += ["--middleware", _path(Defaults)]
        if application.processor is not None:
            command += ["--logits-processors", application.processor]
            # The class is of the interface that vLLM had first; on a GPU its default is the other one.
            environment |= {"VLLM_USE_V2_MODEL_RUNNER": "0", **application.environment}
    else:
        command.append("--enable-scale-out")  # the route that takes and gives token ids
        backend = "recrl" if config.over_files else "nccl"
        command += ["--weight-transfer-config", json.dumps({"backend": backend})]
    command += ["--middleware", _path(Gate)]  # the last one is asked first
    if config.threads is not None:
        environment["VLLM_CPU_OMP_THREADS_BIND"] = config.threads
    return command, environment


def _path(middleware: type) -> str:
    return f"{middleware.__module__}.{middleware.__qualname__}"
