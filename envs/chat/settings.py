"""The section ``judge`` of a configuration, and settings of every other model that is asked in words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from ..http.addresses import check_url
from ..settings import MANY, PATIENCE, Between, Each, Place, Text, check_plain

# Settings that mean something to some backends alone.
_OF_SERVERS = ("url", "token_env", "timeout", "concurrency", "retries", "backoff", "options")
_IN_PROCESS = ("context", "batch", "dtype")
_OF_VLLM = ("kv_cache", "gpu_memory")


class ChatConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """A language model that is asked in words."""

    backend: Literal["endpoint", "transformers", "vllm"] = "endpoint"
    """Where it runs: ``endpoint`` (a server with an OpenAI-compatible interface), or in this process by
    ``transformers`` or ``vllm``."""
    url: Annotated[str, Text(4000)] | None = None
    """Address of the server, including the version: ``http://127.0.0.1:8000/v1``."""
    model: Annotated[str, Text()]
    """Name of the model on the server; in this process a folder, a hub name, or ``smollm2``."""
    token_env: Annotated[str, Text(), Field(pattern=r"^\w+$")] | None = None
    """Environment variable that holds the server's key, where one is needed."""
    temperature: Annotated[float, Between(0, 100)] = 0.0
    """Sampling temperature; 0 takes the likeliest answer."""
    seed: Annotated[int, Between(0, 2**31 - 2**16)] | None = None
    """Seed of sampled answers; null leaves it to a server, and is 0 in this process."""
    max_tokens: Annotated[int, Between(1, MANY)] = 256
    """Tokens of the longest answer; one that is cut off is missing."""
    stop: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Each(4)] = ()
    """Texts that end an answer, and are no part of it."""
    timeout: Annotated[float, Between(0.001, PATIENCE)] = 60.0
    """Longest time to connect, and longest silence of the server, in seconds."""
    deadline: Annotated[float, Between(1e-3, PATIENCE)] = 600.0
    """Seconds until an answer must be whole, retries included."""
    retries: Annotated[int, Between(0, 100)] = 2
    """Further attempts where a server is away, silent or busy (status 408, 425, 429, 500, 502, 503, 504)."""
    backoff: Annotated[float, Between(0, PATIENCE)] = 0.5
    """Seconds before the first of them, doubled each time and moved by chance; a server's ``Retry-After`` is
    waited for."""
    concurrency: Annotated[int, Between(1, 1000)] = 32
    """Questions under way at once at a server, from this process."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further fields of a request, such as ``reasoning_effort``; null leaves out a usual one."""
    cache: Annotated[Path, Place()] | None = None
    """Folder of answers that are not asked for again; by default none are kept."""
    cache_entries: Annotated[int, Between(1, MANY)] = 100_000
    """Number of answers that are kept, in about."""
    batch: Annotated[int, Between(1, 100_000)] = 16
    """Conversations that are answered at once in this process."""
    context: Annotated[int, Between(1, MANY)] | None = None
    """Tokens of a conversation and its answer together, in this process; by default the model's window."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic in this process; ``auto``: bfloat16 on a GPU, float32 else."""
    kv_cache: Annotated[float, Between(0.001, 100_000)] = 1.0
    """GiB for keys and values of vLLM in this process."""
    gpu_memory: Annotated[float, Between(0.01, 1)] = 0.3
    """Share of a GPU's memory that vLLM may count on; its keys and values take ``kv_cache`` of it."""

    @field_validator("url")
    @classmethod
    def _usable(cls, url: str | None) -> str | None:
        return url if url is None else check_url(url)

    @field_validator("options")
    @classmethod
    def _plain(cls, options: dict[str, Any]) -> dict[str, Any]:
        check_plain(options)
        return options

    @model_validator(mode="after")
    def _of_its_backend(self) -> ChatConfig:
        if self.backend == "endpoint" and self.url is None:
            raise ValueError(
                "url is missing: name the server, such as url=http://127.0.0.1:8000/v1, or set "
                "backend=transformers to run the model in this process"
            )
        idle = {
            "endpoint": (*_IN_PROCESS, *_OF_VLLM),
            "transformers": (*_OF_SERVERS, *_OF_VLLM),
            "vllm": _OF_SERVERS,
        }[self.backend]
        for name in idle:
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True):
                raise ValueError(f"{name} has no meaning with backend={self.backend}; leave it out")
        return self
