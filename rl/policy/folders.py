"""Whether a folder holds a whole model, adapters, or neither."""

from pathlib import Path

ADAPTER_SETTINGS = "adapter_config.json"
"""File of peft that tells a folder of adapters."""


def holds_policy(folder: Path) -> bool:
    """Whether a folder holds a model or adapters."""
    return (folder / "config.json").exists() or holds_adapters(folder)


def holds_adapters(folder: Path) -> bool:
    """Whether a folder holds adapters, not a whole model."""
    return (folder / ADAPTER_SETTINGS).is_file()
