"""The report of a flywheel: what judge and reward say of each round's policy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...envs.markdown import table
from ...envs.storage.sealed import write

_TITLES = {
    "superior": "superior, by the judge",
    "accepted": "without a defect, by the judge",
    "score": "reward judge_score",
}


def write_report(folder: Path, rounds: Sequence[Mapping[str, Any]], stopped: int | None) -> Path:
    """Write ``report.md`` and ``plots/probe.png``.

    Args:
        rounds: Means of the probes, the warm start's first.
        stopped: Round at which reward and judge parted; None if they did not.

    Returns:
        The report.
    """
    (folder / "plots").mkdir(exist_ok=True)
    _plot(rounds, folder / "plots" / "probe.png")
    rows = [
        [
            "warm start" if number == 0 else f"round {number}",
            *(_interval(means.get(name)) for name in _TITLES),
            *(_share(means.get("agreement", {}).get(name)) for name in ("judge", "blind")),
        ]
        for number, means in enumerate(rounds)
    ]
    ends = (
        f"Reward and judge parted in round {stopped}: round {stopped - 1} has the last policy to use."
        if stopped is not None
        else "Reward and judge did not part."
    )
    lines = [
        "# Flywheel",
        "",
        "Each policy's own samples on unseen rows. Means with 95 % intervals over users; pairs are those of "
        "held-out users that the distilled model puts in the judge's order, with the prompt and without it.",
        "",
        table(["policy", *_TITLES.values(), "pairs", "pairs, text alone"], rows),
        "",
        f"{ends} Human agreement: not measured.",
        "",
        *_bounds(rounds),
        "![What judge and reward say of each round's policy](plots/probe.png)",
        "",
    ]
    path = folder / "report.md"
    write(path, "\n".join(lines))
    return path


def _bounds(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """How far the texts that each policy shows are from the bounds; nothing where nothing is known."""
    known = {f"round {number}": one["bounds"] for number, one in enumerate(rounds) if "bounds" in one}
    if not known:
        return []
    rows = [
        [name, *(_slack(of.get(name)) for of in known.values())]
        for name in dict.fromkeys(name for of in known.values() for name in of)
    ]
    return [
        "Slacks of the bounds in the texts that are shown, on unseen rows; below 0 a bound is missed:",
        "",
        table(["bound", *known], rows),
        "",
    ]


def _slack(found: Mapping[str, float] | None) -> str:
    return "-" if found is None else f"{found['mean']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def _interval(found: Mapping[str, float] | None) -> str:
    return "-" if found is None else f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _share(found: Mapping[str, float] | None) -> str:
    return "-" if found is None else f"{found['share']:.3f}"


def _plot(rounds: Sequence[Mapping[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, title in _TITLES.items():
        known = [(number, means[name]) for number, means in enumerate(rounds) if name in means]
        if not known:
            continue
        at, found = zip(*known, strict=True)
        means = [one["mean"] for one in found]
        apart = [[max(0.0, one["mean"] - one["low"]) for one in found]]
        apart += [[max(0.0, one["high"] - one["mean"]) for one in found]]
        axis.errorbar(at, means, apart, marker="o", capsize=3, label=title)
    axis.set_xlabel("round")
    axis.set_ylim(-0.02, 1.02)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
