"""The report of a hybrid representation, as Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...envs.storage import sealed
from . import plots
from .seeds import Seed, combined


def write(seeds: Sequence[Seed], folder: Path) -> Path:
    """Write ``report.md`` and its figure.

    Returns:
        Path of the report.

    Raises:
        ConfigError: see :func:`recrl.launch.hybrid.seeds.combined`.
    """
    found = combined(seeds)
    plots.quality(found, seeds, folder / "plots" / "quality.png")
    sealed.write(folder / "report.md", _written(found, seeds))
    return folder / "report.md"


def _written(found: Mapping[str, Any], seeds: Sequence[Seed]) -> str:
    model, long = found["model"], found["long"]
    return "\n".join(
        [
            "# Hybrid representation",
            "",
            f"{found['episodes']:,.0f} test episodes of {found['users']:,.0f} unseen users with "
            f"{found['least']:,.0f} products or more. "
            f"The model, {model['name']}, has {model['weights']:,.0f} weights and is frozen. "
            f"{_intervals(seeds)}",
            "",
            "## Quality",
            "",
            f"`{found['headline']}`, and the share of the full text's list that stands in an arm's. "
            "*recovered*: share of the gap between constant slot and full text. Truncated histories have "
            f"{_listed([one.found['kept'] for one in seeds])} products; Cost says what they cost beside "
            "the hybrid prompt.",
            "",
            "![Quality of each arm](plots/quality.png)",
            "",
            *_quality(found),
            "",
            "| difference of the same episodes | |",
            "|---|---|",
            *(f"| {name} | {_interval(one, '+')} |" for name, one in found["differences"].items()),
            *(f"| overlap: {n} | {_interval(one, '+')} |" for n, one in found["overlap differences"].items()),
            "",
            *(_seeds(found, seeds) if len(seeds) > 1 else ()),
            "## Cost",
            "",
            "GFLOP are of forward passes, attention and projection counted; a step is one prompt with eight "
            "answers. Its milliseconds are forward and backward, all weights trained, lookups included. "
            f"Of the {long['episodes']:,.0f} episodes with {long['products']:,.0f} products or more, "
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
                f"| {name} | {one['questions']:.0f} | {one['hybrid']:.3f} | {one['full text']:.3f} | "
                f"{one['majority']:.3f} | {one['permuted']:.3f} |"
                for name, one in found["perception"].items()
            ),
            "",
        ]
    )


def _intervals(seeds: Sequence[Seed]) -> str:
    """What the intervals are over."""
    if len(seeds) == 1:
        return "Intervals are 95 % bootstraps over users."
    told = f"Means over {len(seeds)} seeds of base model, teacher and adaptor"
    if lacking := [one.name for one in seeds if one.episodes is None]:
        return (
            f"{told}. Intervals are 95 % bootstraps over users, averaged over seeds, which is wide enough; "
            f"they say nothing of seeds, since {', '.join(lacking)} kept no values of single episodes."
        )
    return f"{told}. Intervals are 95 % bootstraps over users and seeds; those of single seeds over users."


def _quality(found: Mapping[str, Any], seed: str = "") -> list[str]:
    head = f"{seed}: prompt" if seed else "prompt"
    return [
        f"| {head} | {found['headline']} | overlap with full text | recovered |",
        "|---|---|---|---|",
        *(
            f"| {name} | {_interval(recall)} | {_interval(found['overlap'][name])} | "
            f"{_interval(found['recovered'][name]) if name in found['recovered'] else ''} |"
            for name, recall in found["recall"].items()
        ),
    ]


def _seeds(found: Mapping[str, Any], seeds: Sequence[Seed]) -> list[str]:
    """Figures of each seed."""
    lines = ["### Seeds", ""]
    for one in seeds:
        lines += [*_quality(one.found, one.name), ""]
    lines += [f"| difference | {' | '.join(one.name for one in seeds)} |", "|---" * (len(seeds) + 1) + "|"]
    for part, name in (("differences", ""), ("overlap differences", "overlap: ")):
        for pair in found[part]:
            cells = [_interval(one.found[part][pair], "+") for one in seeds]
            lines.append(f"| {name}{pair} | {' | '.join(cells)} |")
    return [*lines, ""]


def _listed(values: Sequence[int]) -> str:
    """Different numbers, in words."""
    *head, last = map(str, dict.fromkeys(values))
    return f"{', '.join(head)} or {last}" if head else last


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
