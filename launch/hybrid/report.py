"""The report of a hybrid representation, as Markdown."""

from collections.abc import Mapping
from typing import Any


def written(found: Mapping[str, Any]) -> str:
    """The report of what :func:`recrl.launch.hybrid.measuring.measure` found."""
    model, long = found["model"], found["long"]
    return "\n".join(
        [
            "# Hybrid representation",
            "",
            f"{found['episodes']:,} test episodes of {found['users']:,} unseen users with "
            f"{found['least']:,} products or more. "
            f"The model, {model['name']}, has {model['weights']:,} weights and is frozen. Intervals are 95 % "
            "bootstraps over users.",
            "",
            "## Quality",
            "",
            f"`{found['headline']}`, and the share of the full text's list that stands in an arm's. "
            "*recovered*: share of the gap between constant slot and full text. Truncated histories have "
            f"{found['kept']} products, which cost about as many tokens as the hybrid prompt (see Cost).",
            "",
            f"| prompt | {found['headline']} | overlap with full text | recovered |",
            "|---|---|---|---|",
            *(
                f"| {name} | {_interval(recall)} | {_interval(found['overlap'][name])} | "
                f"{_interval(found['recovered'][name]) if name in found['recovered'] else ''} |"
                for name, recall in found["recall"].items()
            ),
            "",
            "| difference of the same episodes | |",
            "|---|---|",
            *(f"| {name} | {_interval(one, '+')} |" for name, one in found["differences"].items()),
            *(f"| overlap: {n} | {_interval(one, '+')} |" for n, one in found["overlap differences"].items()),
            "",
            "## Cost",
            "",
            "GFLOP are of forward passes, attention and projection counted; a step is one prompt with eight "
            "answers. Its milliseconds are forward and backward, all weights trained, lookups included. "
            f"Of the {long['episodes']:,} episodes with {long['products']:,} products or more, "
            f"{found['products']:.0f} of them in a prompt on average.",
            "",
            "| prompt | tokens | full text is longer | prefill, GFLOP | of it attention | adaptor | "
            "step, GFLOP | prefill, ms | step, ms |",
            "|---|---|---|---|---|---|---|---|---|",
            *(_cost(name, one) for name, one in found["costs"].items()),
            "",
            "## Self-perception",
            "",
            "Share of questions about one entity that are answered word for word. The adaptor has seen "
            "neither the strings nor, in the second half, any entity of their types. The base model of "
            "`recrl hybrid base` was taught these questions as text, so *full text* is not held out.",
            "",
            "| held out | questions | hybrid | full text | majority | permuted |",
            "|---|---|---|---|---|---|",
            *(
                f"| {name} | {one['questions']} | {one['hybrid']:.3f} | {one['full text']:.3f} | "
                f"{one['majority']:.3f} | {one['permuted']:.3f} |"
                for name, one in found["perception"].items()
            ),
            "",
        ]
    )


def _interval(one: Mapping[str, float], sign: str = "") -> str:
    return f"{one['mean']:{sign}.3f} [{one['low']:{sign}.3f}, {one['high']:{sign}.3f}]"


def _cost(name: str, one: Mapping[str, Any]) -> str:
    prefill, step = one["prefill arithmetic"], one["step arithmetic"]
    took = one["seconds"]
    return (
        f"| {name} | {one['tokens']:,.0f} | {one['ratio']:.1f}x | {prefill['total'] / 1e9:.2f} | "
        f"{prefill['attention'] / 1e9:.2f} | {prefill['adaptor'] / 1e9:.2f} | {step['total'] / 1e9:.2f} | "
        f"{1e3 * took['prefill']:,.1f} | {1e3 * took['step']:,.1f} |"
    )
