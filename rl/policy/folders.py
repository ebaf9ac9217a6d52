"""What a folder holds, a whole model, adapters, or neither, and whether a model is pre-trained."""

from pathlib import Path

ADAPTER_SETTINGS = "adapter_config.json"
"""File of peft that tells a folder of adapters."""

# Bytes of weights below which a model is no pre-trained one: 25 million weights in float32.
_SMALL = 100_000_000


def holds_policy(folder: Path) -> bool:
    """Whether a folder holds a model or adapters."""
    return (folder / "config.json").exists() or holds_adapters(folder)


def holds_adapters(folder: Path) -> bool:
    """Whether a folder holds adapters, not a whole model."""
    return (folder / ADAPTER_SETTINGS).is_file()


def is_pretrained(model: str) -> bool:
    """Whether ``policy.model`` names a language model that learned from text, by the size of its weights.

    The tiny policy has learned nothing but what a run taught it, wherever it is saved.
    """
    if model == "tiny":
        return False
    folder = Path(model)
    if holds_adapters(folder):
        folder /= "base"  # a model without a name of its own stands there
    weights = [*folder.glob("*.safetensors")] if folder.is_dir() else []
    return not weights or sum(file.stat().st_size for file in weights) > _SMALL
