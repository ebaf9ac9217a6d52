"""The section ``judge`` of a configuration, and settings of every other model that is asked in words."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, field_validator

from ..http.addresses import check_url
from ..settings import MANY, PATIENCE, Between, Text, check_plain


class ChatConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """A language model behind an OpenAI-compatible interface."""

    url: Annotated[str, Text(4000)]
    """Address of the interface, up to the version: ``http://127.0.0.1:8000/v1``."""
    model: Annotated[str, Text()]
    """Name of the model there."""
    token_env: Annotated[str, Text(), Field(pattern=r"^\w+$")] | None = None
    """Environment variable that holds the key, where one is needed."""
    temperature: Annotated[float, Between(0, 100)] = 0.0
    """Sampling temperature; 0 takes the likeliest answer."""
    max_tokens: Annotated[int, Between(1, MANY)] = 256
    """Tokens of the longest answer; one that is cut off is an error."""
    timeout: Annotated[float, Between(0.001, PATIENCE)] = 60.0
    """Longest time to connect, and longest silence of the server, in seconds."""
    deadline: Annotated[float, Between(1e-3, PATIENCE)] = 600.0
    """Seconds until an answer must be whole."""
    concurrency: Annotated[int, Between(1, 1000)] = 32
    """Questions under way at once, from this process."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further fields of a request, such as ``seed`` or ``reasoning_effort``; null leaves out a usual one."""

    @field_validator("url")
    @classmethod
    def _usable(cls, url: str) -> str:
        return check_url(url)

    @field_validator("options")
    @classmethod
    def _plain(cls, options: dict[str, Any]) -> dict[str, Any]:
        check_plain(options)
        return options
