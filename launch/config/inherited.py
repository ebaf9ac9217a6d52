"""Settings of the tiny policy, which a pre-trained one must not inherit unseen.

The tiny policy learns from random weights: by many supervised steps, at rates that would undo what a
pre-trained model knows. A file that was written for it, and the defaults, have its numbers.
"""

from collections.abc import Mapping
from typing import Any

from ...rl.policy.folders import is_pretrained
from .schema import ConfigError, RunConfig

FOR_PRETRAINED = "llm"
"""The shipped configuration of a pre-trained model."""


def check_inherited(config: RunConfig, file: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """Refuse a pre-trained policy with numbers that were chosen for the tiny one.

    Args:
        config: The resolved configuration.
        file: Settings of the file that it was read from.
        overrides: Settings that were given beside the file.

    Raises:
        ConfigError: a setting is the tiny policy's, by the file or by default.
    """
    model = config.policy.model
    if not is_pretrained(model):
        return
    if _given(overrides, "policy.tiny"):
        raise ConfigError(
            f"policy.tiny is the size of policy.model=tiny, but policy.model={model}; leave one of them out"
        )
    chosen = [overrides, *([file] if is_pretrained(_model(file)) else [])]
    settings = {"train.learning_rate": config.train.learning_rate}
    if config.warm_start.steps:
        settings["warm_start.steps"] = config.warm_start.steps
        settings["warm_start.learning_rate"] = config.warm_start.learning_rate
    inherited = [
        f"{name}={value:g}"
        for name, value in settings.items()
        if not any(_given(tree, name) for tree in chosen)
    ]
    if inherited:
        raise ConfigError(
            f"policy.model={model} is pre-trained, but {', '.join(inherited)} would train the tiny policy, "
            f"from random weights; begin with the configuration for pre-trained models (recrl train "
            f"{FOR_PRETRAINED} policy={model}), or set each of them here"
        )


def _model(tree: Mapping[str, Any]) -> str:
    section = tree.get("policy")
    return str(section.get("model", "tiny")) if isinstance(section, Mapping) else "tiny"


def _given(tree: Any, setting: str) -> bool:
    for key in setting.split("."):
        if not isinstance(tree, Mapping) or key not in tree:
            return False
        tree = tree[key]
    return True
