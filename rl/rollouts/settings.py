"""The section ``rollout`` of a configuration, and the engine that it makes."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

import torch
from pydantic import BaseModel, StrictBool, field_validator, model_validator

from ...envs.http.client import check_url, is_loopback
from ...envs.settings import PATIENCE, SWITCH, Between, Each, Place, Text
from .access import KEY, server_key
from .base import RolloutEngine, RolloutError
from .colocate import ColocatedEngine
from .exchange import EXCHANGE, check_folder
from .gate import HOSTS, Gate
from .served import ServedEngine

Engine = Literal["transformers", "vllm-colocate", "vllm-server"]
ENGINES: tuple[Engine, ...] = get_args(Engine)

_GIB = 2**30
_CORES = r"\d{1,5}(?:-\d{1,5})?"
# What vLLM reads; `auto` and `nobind` are its own words.
_THREADS = re.compile(rf"auto|nobind|all|{_CORES}(?:[,|]{_CORES})*")


class RolloutConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Where answers are sampled during training."""

    engine: Engine = "transformers"
    """``transformers`` (in the trainer, no further installation), ``vllm-colocate`` (vLLM in each process) or
    ``vllm-server`` (vLLM in processes of its own, started by ``recrl serve``)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the engine; ``auto`` is the policy's."""
    correction: Annotated[Literal["auto", "on", "off"], SWITCH] = "auto"
    """Weigh tokens by how much likelier the trainer finds them than the engine did (truncated importance
    sampling, one more forward pass); ``auto``: where the engine computes in 16 bits."""
    prefix_caching: StrictBool = True
    """Read a prompt once for all its answers."""
    kv_cache: Annotated[float, Between(0.001, 100_000)] = 1.0
    """GiB for keys and values, in each engine."""
    gpu_memory: Annotated[float, Between(0.01, 1)] = 0.3
    """Share of a GPU's memory that an engine may count on; its keys and values take ``kv_cache`` of it."""
    compiled: StrictBool = False
    """Compile the model, with graphs on CUDA: a start that takes minutes, faster answers."""
    threads: Annotated[str, Text()] | None = None
    """CPU only: cores of an engine (``0-3``); by default the trainer's where it is colocated, all for a
    server."""
    sequences: Annotated[int, Between(1, 100_000)] = 256
    """Answers that an engine works on at once."""
    tensor_parallel: Annotated[int, Between(1, 1024)] = 1
    """GPUs of a server; a colocated engine has the one of its process."""
    servers: Annotated[tuple[Annotated[str, Text(4000)], ...], Each(least=1)] = ("http://127.0.0.1:8000",)
    """Addresses of the servers; all answer, and all hold the same weights."""
    transfer: Literal["auto", "files", "nccl"] = "auto"
    """How weights reach servers: ``files`` over a folder that both see (any device; survives a restarted
    server), ``nccl`` between GPUs; ``auto``: NCCL on CUDA."""
    exchange: Annotated[Path, Place()] | None = None
    """That folder; by default ``/dev/shm`` where all servers are on this machine, else the run's own."""
    nccl_port: Annotated[int, Between(1, 65_535)] = 51216
    """First port of the weights' way over NCCL, one for each server."""
    patience: Annotated[float, Between(0.001, PATIENCE)] = 300.0
    """Seconds that a server may be away or fail before the run stops."""
    timeout: Annotated[float, Between(0.001, PATIENCE)] = 600.0
    """Seconds that the answers to one prompt may take."""

    @field_validator("servers")
    @classmethod
    def _addresses(cls, servers: tuple[str, ...]) -> tuple[str, ...]:
        for server in servers:
            check_url(server, "an entry")
        return servers

    @field_validator("threads")
    @classmethod
    def _cores(cls, threads: str | None) -> str | None:
        if threads is not None and not _THREADS.fullmatch(threads):
            raise ValueError(
                "must name cores, such as 0-3 or 0,2,4-7; with | between those of several engines"
            )
        return threads

    @model_validator(mode="after")
    def _ports(self) -> "RolloutConfig":
        last = self.nccl_port + len(self.servers) - 1
        if last > 65_535:
            raise ValueError(
                f"rollout.nccl_port={self.nccl_port} and a port for each of {len(self.servers)} servers end "
                f"at {last}, past 65535; choose a lower one"
            )
        return self

    @property
    def over_files(self) -> bool:
        """Whether weights travel as files."""
        return self.transfer == "files" or (self.transfer == "auto" and not torch.cuda.is_available())

    def engine_dtype(self, policy: str) -> str:
        """The engine's arithmetic for a policy's."""
        return policy if self.dtype == "auto" else self.dtype

    def corrects(self, policy: str) -> bool:
        """Whether tokens are weighed, for a policy's dtype."""
        return self.correction == "on" or (
            self.correction == "auto" and self.engine_dtype(policy) != "float32"
        )

    def engine_options(self, policy: str, longest: int) -> dict[str, Any]:
        """Engine arguments of vLLM.

        Args:
            policy: Its dtype.
            longest: Tokens of a prompt and an answer together, at most.
        """
        return {
            "dtype": self.engine_dtype(policy),
            "max_model_len": longest,
            "max_num_seqs": self.sequences,
            "enable_prefix_caching": self.prefix_caching,
            # A prompt read in parts discards draws, and vLLM 0.32 cannot take a seed's draws back on a CPU.
            "enable_chunked_prefill": torch.cuda.is_available(),
            "kv_cache_memory_bytes": int(self.kv_cache * _GIB),
            "gpu_memory_utilization": self.gpu_memory,
            "enforce_eager": not self.compiled,
            # A recommended temperature beside the weights must not reach the rollouts.
            "generation_config": "vllm",
            # Of the distribution that tokens are drawn from, not of the one before temperature and
            # truncation.
            "logprobs_mode": "processed_logprobs",
        }


def make_engine(
    config: RolloutConfig, policy: Path | str, dtype: str, longest: int, run: Path
) -> RolloutEngine | None:
    """The engine of a run; None where the trainer answers by itself.

    Args:
        config: Which.
        policy: Folder, or name of the hub, of the weights that it starts with.
        dtype: Of the policy.
        longest: Tokens of a prompt and an answer together, at most.
        run: The run's folder.

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
    """Refuse, before anything is trained, a key or a folder for weights that servers cannot use.

    Args:
        run: The run's folder; the key is made there where there is none yet.

    Raises:
        RolloutError: the key is none or known to others, or others may write where weights travel.
    """
    if config.engine != "vllm-server":
        return
    server_key(run)
    exchange = exchange_folder(config, run)
    if exchange is not None:
        check_folder(exchange)


def exchange_folder(config: RolloutConfig, run: Path) -> Path | None:
    """Where weights travel as files, by the settings that trainer and servers share; None over NCCL."""
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
) -> tuple[list[str], dict[str, str]]:
    """The command that serves a policy, and what its environment needs.

    The key is made where there is none yet.

    Args:
        config, policy, dtype, longest, run: See :func:`make_engine`.
        host, port: Where it listens.
        exposed: Whether other machines may reach it.

    Raises:
        RolloutError: it would be reachable from elsewhere without leave, with a key that is none, or with
            weights that others can write.
    """
    if not is_loopback(host) and not exposed:
        raise RolloutError(
            f"--host {host} lets other machines reach this server, though none without its key; add --expose "
            "if they may, or leave --host at 127.0.0.1"
        )
    names = sorted({host, *(urlsplit(server).hostname or "" for server in config.servers)})
    environment = {
        "VLLM_SERVER_DEV_MODE": "1",  # the routes that exchange weights
        "VLLM_API_KEY": "",  # the one of ours guards more
        KEY: server_key(run),
        HOSTS: json.dumps(None if exposed else names),
    }
    exchange = exchange_folder(config, run)
    if exchange is not None:
        check_folder(exchange)
        environment[EXCHANGE] = str(exchange)
    options = config.engine_options(dtype, longest) | {"tensor_parallel_size": config.tensor_parallel}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(policy)]
    command += ["--host", host, "--port", str(port), "--served-model-name", "policy"]
    command.append("--enable-scale-out")  # the route that takes and gives token ids
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            command.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            command += [f"--{flag}", str(value)]
    backend = "recrl" if config.over_files else "nccl"
    command += ["--weight-transfer-config", json.dumps({"backend": backend})]
    command += ["--middleware", f"{Gate.__module__}.{Gate.__qualname__}"]
    if config.threads is not None:
        environment["VLLM_CPU_OMP_THREADS_BIND"] = config.threads
    return command, environment
