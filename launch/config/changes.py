"""What a resumed run may change: its settings against those of the run that it goes on with."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from . import plain_yaml
from .reading import dump, load
from .schema import ConfigError, RunConfig

# Settings that leave the meaning of a checkpoint as it is: where things are, how long, how often, how fast.
_HARMLESS = re.compile(
    r"name|output|data\.cache"
    r"|policy\.(attention|trust_remote_code|lora\.merge)"
    r"|train\.(steps|save_every|heartbeat|collective_timeout|report_to)|warm_start\.save_every"
    r"|train\.trl(\.(log_.*|logging_.*|num_completions_to_print|project|trackio_.*|dataloader_num_workers))?"
    r"|rollout\..*|evaluation\..*|hybrid\..*|task\.(cutoffs|sequential)"
    r"|judge\.(url|token_env|timeout|deadline|concurrency|retries|backoff)"
    r"|judge\.(cache|cache_entries|batch|kv_cache|gpu_memory)"
    r"|rewards\.[^.]+\.(batch_size|concurrency|workers|thread|timeout|retries|cache|max_missing|on_error)"
    r"|rewards\.[^.]+\.params\.(url|token_env|timeout|deadline)"
)


def compare(saved: Path, config: RunConfig, checkpoint: str) -> list[str]:
    """Settings that differ from a run's, and change nothing of what its checkpoint means.

    Args:
        saved: The ``config.yaml`` of that run.
        config: The settings now.
        checkpoint: Checkpoint that the run goes on from, for the error.

    Returns:
        ``setting before -> now``.

    Raises:
        ConfigError: a setting differs that the checkpoint depends on, or the saved ones cannot be read.
    """
    try:
        before = load(str(saved), resolve=False)
    except ConfigError as error:
        raise ConfigError(
            f"{saved} cannot be compared with the configuration now: {' '.join(str(error).split())[:300]}; "
            "mend it, or start anew with --fresh"
        ) from error
    changed = list(differences(before, config))
    grave = [text for setting, text in changed if not _HARMLESS.fullmatch(setting)]
    if grave:
        raise ConfigError(
            f"{checkpoint} was made with other settings: {', '.join(grave)}. Set them back; or start anew "
            f"with --fresh or another output=..., from its weights with policy={saved.parent / 'policy'} if "
            "wanted"
        )
    return [text for _, text in changed]


def differences(before: RunConfig, now: RunConfig) -> Iterator[tuple[str, str]]:
    """Settings that differ, each with ``setting before -> now``."""
    one, other = (_flat(plain_yaml.read(dump(config))) for config in (before, now))
    for setting in [*one, *(name for name in other if name not in one)]:
        was, is_now = one.get(setting), other.get(setting)
        if was != is_now:
            yield setting, f"{setting} {_short(was)} -> {_short(is_now)}"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted setting -> value; rewards by their names."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if f"{prefix}{key}" == "rewards":
            value = {entry["name"]: entry for entry in value}
            values["rewards"] = list(value)  # their order is the order of the columns
        if isinstance(value, Mapping) and value:
            values |= _flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
