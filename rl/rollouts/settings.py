"""The section ``rollout`` of a configuration."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, StrictBool, field_validator, model_validator

from ...envs.http.addresses import check_url
from ...envs.settings import PATIENCE, SWITCH, Between, Each, Place, Text

Engine = Literal["transformers", "vllm-colocate", "vllm-server"]
ENGINES: tuple[Engine, ...] = get_args(Engine)

_GIB = 2**30
_CORES = r"\d{1,5}(?:-\d{1,5})?"
# Form that vLLM reads; `auto` and `nobind` are its own words.
_THREADS = re.compile(rf"auto|nobind|all|{_CORES}(?:[,|]{_CORES})*")


class RolloutConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Where answers are sampled during training."""

    engine: Engine = "transformers"
    """Engine: ``transformers`` (in the trainer, no further installation), ``vllm-colocate`` (vLLM in each
    process) or ``vllm-server`` (vLLM in processes of its own, started by ``recrl serve``)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the engine; ``auto`` is the policy's."""
    correction: Annotated[Literal["auto", "on", "off"], SWITCH] = "auto"
    """Weigh tokens by how much likelier the trainer finds them than the engine did (truncated importance
    sampling, one more forward pass); ``auto``: if the engine computes in 16 bits."""
    prefix_caching: StrictBool = True
    """Read a prompt once for all its answers."""
    kv_cache: Annotated[float, Between(0.001, 100_000)] = 1.0
    """GiB for keys and values, in each engine."""
    gpu_memory: Annotated[float, Between(0.01, 1)] = 0.3
    """Share of a GPU's memory that an engine may count on; its keys and values take ``kv_cache`` of it."""
    compiled: StrictBool = False
    """Compile the model, with graphs on CUDA: the start takes minutes, answers are faster."""
    threads: Annotated[str, Text()] | None = None
    """Cores of an engine on a CPU (``0-3``); by default the trainer's if colocated, all for a server."""
    sequences: Annotated[int, Between(1, 100_000)] = 256
    """Answers that an engine works on at once."""
    tensor_parallel: Annotated[int, Between(1, 1024)] = 1
    """GPUs of a server; a colocated engine has the one of its process."""
    servers: Annotated[tuple[Annotated[str, Text(4000)], ...], Each(least=1)] = ("http://127.0.0.1:8000",)
    """Addresses of the servers; all answer, and all hold the same weights."""
    transfer: Literal["auto", "files", "nccl"] = "auto"
    """Way of weights to servers: ``files`` over a folder that both see (any device; survives a restarted
    server), ``nccl`` between GPUs; ``auto``: NCCL on CUDA."""
    exchange: Annotated[Path, Place()] | None = None
    """Folder of ``files``; by default ``/dev/shm`` if all servers are on this machine, else the run's own."""
    nccl_port: Annotated[int, Between(1, 65_535)] = 51216
    """First of the ports over which weights travel by NCCL, one for each server."""
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
        return self.transfer == "files" or (self.transfer == "auto" and not _on_cuda())

    def engine_dtype(self, policy: str) -> str:
        """Dtype of the engine for a policy's dtype."""
        return policy if self.dtype == "auto" else self.dtype

    def corrects(self, policy: str) -> bool:
        """Whether tokens are weighed, for a policy's dtype."""
        return self.correction == "on" or (
            self.correction == "auto" and self.engine_dtype(policy) != "float32"
        )

    def engine_options(self, policy: str, longest: int) -> dict[str, Any]:
        """Engine arguments of vLLM.

        Args:
            policy: Dtype of the policy.
            longest: Largest number of tokens of a prompt and an answer together.
        """
        return {
            "dtype": self.engine_dtype(policy),
            "max_model_len": longest,
            "max_num_seqs": self.sequences,
            "enable_prefix_caching": self.prefix_caching,
            # A prompt read in parts discards draws, and vLLM 0.32 cannot take a seed's draws back on a CPU.
            "enable_chunked_prefill": _on_cuda(),
            "kv_cache_memory_bytes": int(self.kv_cache * _GIB),
            "gpu_memory_utilization": self.gpu_memory,
            "enforce_eager": not self.compiled,
            # A recommended temperature beside the weights must not reach the rollouts.
            "generation_config": "vllm",
            # Log-probabilities of the distribution that tokens are drawn from, after temperature and
            # truncation.
            "logprobs_mode": "processed_logprobs",
        }


def _on_cuda() -> bool:
    import torch  # which checking a configuration does without

    return torch.cuda.is_available()
