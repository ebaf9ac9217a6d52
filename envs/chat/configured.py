"""Models that a configuration describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .cache import Cache
from .ledger import Ledger
from .models import ChatModel
from .settings import ChatConfig

# How an answer is waited for changes nothing in it.
_IDLE = {
    *("token_env", "timeout", "deadline", "retries", "backoff", "concurrency"),
    *("cache", "cache_entries", "batch", "kv_cache", "gpu_memory"),
}


class ConfiguredModel(ChatModel):
    """What the backends of a configuration have in common.

    Args:
        config: Settings of the model.
        ledger: Ledger that counts; by default one of its own.

    Raises:
        ValueError: the folder of the cache is a file.
    """

    def __init__(self, config: ChatConfig, *, ledger: Ledger | None = None) -> None:
        cache = None if config.cache is None else Cache(config.cache, config.cache_entries)
        super().__init__(cache=cache, ledger=ledger)
        self.config = config
        self.greedy = config.temperature == 0

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.config.model_dump(mode="json", exclude=_IDLE)
