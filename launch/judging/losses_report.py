"""``report.md`` and its plot, from the figures of a comparison of losses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...envs.markdown import table


def write(folder: Path, found: Mapping[str, Any]) -> Path:
    """Render figures into a folder; the path of the report."""
    _plot(found, folder / "plots")
    path = folder / "report.md"
    path.write_text("\n\n".join(_sections(found)) + "\n", encoding="utf-8")
    return path


def _sections(found: Mapping[str, Any]) -> list[str]:
    plan, parts = found["plan"], list(found["contexts"])
    start = "random weights" if plan["start"] is None else f"the warm start of `{plan['start']}`"
    sections = [
        "# Losses that teach a judge",
        f"{plan['seeds']} seeds; each arm starts from {start} ({found['weights'] / 1e6:.2f} million weights) "
        f"and learns for {plan['steps']} steps of {plan['contexts_per_step']} contexts from the same "
        f"{plan['contexts']:,} contexts of up to eight candidates. Grades by construction: a rich truth is "
        "superior, a plain truth average, a lie or another defect bad, rich or plain. Shares of pairs of one "
        "context in the right order, a tie counts half; 95 % intervals, households resampled. Human "
        "agreement: not measured.",
        "Held-out contexts: "
        + ", ".join(f"{count} {part}" for part, count in found["contexts"].items())
        + ".",
    ]
    for name, arms in found["shares"].items():
        sections += [
            f"## {name[0].upper()}{name[1:]}",
            table(
                ["arm", *(f"held-out {part}" for part in parts)],
                [[arm, *(_figure(of[part]) for part in parts)] for arm, of in arms.items()],
            ),
            f"{found['first']} less another, and seeds in which it is above:",
            table(
                ["arm", *(f"held-out {part}" for part in parts)],
                [
                    [arm, *(f"{_signed(of[part])}, {of[part]['seeds']} of {plan['seeds']}" for part in parts)]
                    for arm, of in found["differences"][name].items()
                ],
            ),
        ]
    seconds = ", ".join(f"{arm} {value / plan['seeds']:.0f}" for arm, value in found["seconds"].items())
    return [*sections, "![Shares](plots/losses.png)", f"Processor seconds of an arm and seed: {seconds}."]


def _figure(one: Mapping[str, float]) -> str:
    return f"{one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"


def _signed(one: Mapping[str, float]) -> str:
    return f"{one['mean']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"


def _plot(found: Mapping[str, Any], folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    parts = list(found["contexts"])
    drawn, axes = plt.subplots(1, len(found["shares"]), figsize=(13, 4), layout="constrained", sharey=True)
    for axis, (name, arms) in zip(axes, found["shares"].items(), strict=True):
        axis.axhline(0.5, color="grey", linewidth=0.8)
        for number, (arm, of) in enumerate(arms.items()):
            means = [of[part]["mean"] for part in parts]
            apart = [[of[part]["mean"] - of[part]["low"] for part in parts]]
            apart += [[of[part]["high"] - of[part]["mean"] for part in parts]]
            at = [i + 0.14 * (number - (len(arms) - 1) / 2) for i in range(len(parts))]
            errors = [[max(0.0, one) for one in side] for side in apart]
            axis.errorbar(at, means, errors, fmt="o", markersize=4, capsize=2, label=arm)
        axis.set_xticks(range(len(parts)), parts)
        axis.set_title(name, fontsize=10)
    axes[0].set(ylabel="share of pairs in the right order", ylim=(0, 1.02))
    handles, names = axes[0].get_legend_handles_labels()
    drawn.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=8)
    drawn.savefig(folder / "losses.png", dpi=90)
    plt.close(drawn)
