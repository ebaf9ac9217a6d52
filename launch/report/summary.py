"""What a report says first, and the settings that it was made with, as lines of Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...envs.markdown import table, text

FACTS = "facts.json"
"""File of a run folder with what the first lines tell: ``episodes`` that trained, ``answers`` that a policy
sampled in the evaluation, and the ``valid`` share of them by policy, where answers list options."""

# Share of sampled answers that name an option, below which nothing else in a report can be trusted.
_HALF = 0.5
_SETTINGS = (
    *("seed", "policy.model", "policy.dtype", "policy.lora", "policy.quantization"),
    *("warm_start.steps", "warm_start.prompts_per_step", "warm_start.lists_per_prompt"),
    *("warm_start.learning_rate", "warm_start.rehearsal"),
    *("train.steps", "train.prompts_per_step", "train.group_size", "train.micro_batches", "train.reuse"),
    *("train.learning_rate", "train.schedule", "train.warmup_steps", "train.max_grad_norm", "train.kl"),
    *("train.loss", "train.temperature", "train.top_p", "train.max_answer_tokens", "train.trl"),
    *("optimizer.rule", "optimizer.credit", "optimizer.objective_unit", "optimizer.duals"),
    *("optimizer.reference", "rollout.engine", "evaluation.users", "evaluation.decoding"),
)


def in_short(
    config: Mapping[str, Any],
    result: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> list[str]:
    """Section on whether the figures below can be read at all, and how much was seen for them."""
    return [
        "## In short",
        "",
        *_written(facts),
        *_seen(config, log, facts),
        *_apart(config, result, log),
    ]


def settings(config: Mapping[str, Any]) -> list[str]:
    """Section on the hyper-parameters of a run; those that an earlier version did not have are left out."""
    rows = []
    for name in _SETTINGS:
        node: Any = config
        for key in name.split("."):
            node = node.get(key) if isinstance(node, Mapping) else None
        if node not in (None, {}):
            rows.append([name, text(_value(node))])
    return ["## Settings", "", "All of them stand in config.yaml.", "", table(["setting", "value"], rows), ""]


def _written(facts: Mapping[str, Any]) -> list[str]:
    lines, answers = [], facts.get("answers", 0)
    for policy, share in facts.get("valid", {}).items():
        whose = f"{answers:,} answers that the {policy} policy sampled"
        if share == 0:
            lines.append(
                f"**Nothing valid was written**: not one of {whose} names an option. Bounds that are met "
                "below are met by empty answers."
            )
        elif share < _HALF:
            lines.append(
                f"**Little valid was written**: {share:.0%} of {whose} name an option. Bounds that are met "
                "below may be met by empty answers."
            )
    return [line for said in lines for line in (said, "")]


def _seen(config: Mapping[str, Any], log: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> list[str]:
    """Prompts that were trained on, and how often each episode was among them."""
    steps = {
        "constrained GRPO": len(log) * config["train"]["prompts_per_step"],
        "the warm start": config["warm_start"]["steps"] * config["warm_start"].get("prompts_per_step", 0),
    }
    episodes = facts.get("episodes")
    said = [
        f"{prompts:,} prompts by {stage}"
        + (f" ({_times(prompts / episodes)} an episode)" if episodes else "")
        for stage, prompts in steps.items()
        if prompts
    ]
    if not said:
        return []
    whole = f" of {episodes:,} training episodes" if episodes else ""
    return [f"Trained on {' and '.join(said)}{whole}.", ""]


def _apart(
    config: Mapping[str, Any], result: Mapping[str, Any], log: Sequence[Mapping[str, Any]]
) -> list[str]:
    """How far figures of the training are from those of the test: the objective and what is constrained."""
    late = log[-max(1, len(log) // 5) :]
    name, population = next(iter(result["populations"].items()))
    sampled = population["sampled"]["rewards"]
    held = [str(bound).split()[0] for bound in config["optimizer"]["constraints"]]
    rows = []
    for reward in dict.fromkeys([config["optimizer"]["objective"], *held]):
        values = [row.get(f"rewards/{reward}/mean") for row in late]
        trained = [value for value in values if value is not None]
        tested = [*sampled.get(reward, {}).values()][-1:]
        if trained and tested and tested[0]:
            train, test = float(np.mean(trained)), tested[0]["mean"]
            rows.append([text(reward), f"{train:.3f}", f"{test:.3f}", f"{test - train:+.3f}"])
    if not rows:
        return []
    return [
        f"Sampled answers of the trained policy, in the last {len(late)} training steps and to {name}:",
        "",
        table(["reward", "training", "test", "apart"], rows),
        "",
    ]


def _times(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _value(node: Any) -> str:
    if isinstance(node, Mapping):
        return ", ".join(f"{key} {_value(value)}" for key, value in node.items() if value is not None)
    return f"{node:g}" if isinstance(node, float) else str(node)
