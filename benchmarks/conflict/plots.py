"""Figures of the benchmark's report, as PNG. Each function draws one file from records and numbers alone.

A rule keeps its colour and marker in all figures of a report. Bands and bars span all seeds unless a title
says otherwise.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..figures import grid, plt, save
from .statistics import Profile

Record: TypeAlias = Mapping[str, Any]
Style: TypeAlias = Mapping[str, Mapping[str, Any]]

_COLOURS = [*(f"C{k}" for k in (0, 1, 2, 4, 5, 6, 8, 9)), "black", "olive", "navy", "teal"]
_MARKERS = "osD^v<>PXhpd"


def styles(rules: Sequence[str]) -> Style:
    """Colour and marker of each rule; `lagrangian` stands out in red."""
    others = [rule for rule in rules if rule != "lagrangian"]
    found: dict[str, dict[str, Any]] = {
        rule: {"color": _COLOURS[k % len(_COLOURS)], "marker": _MARKERS[k % len(_MARKERS)]}
        for k, rule in enumerate(others)
    }
    return {"lagrangian": {"color": "C3", "marker": "o", "zorder": 5}} | found


def pareto(records: Sequence[Record], lines: Mapping[str, Any], style: Style, path: Path) -> None:
    """Objective against the smallest slack of a run, a panel for each problem.

    Args:
        records: Records of every rule.
        lines: Lines `slack` and `objective`, the best that any policy attains, by problem; may lack some.
        style: Style from `styles`.
        path: Path of the PNG.
    """
    problems = list(dict.fromkeys(r["problem"] for r in records))
    figure, axes = grid(len(problems), 4, 3.6, 3.1)
    for axis, problem in zip(axes, problems, strict=False):
        line = lines.get(problem)
        if line and line["slack"]:
            axis.plot(line["slack"], line["objective"], color="grey", linewidth=1.2, zorder=1)
        for rule, look in style.items():
            runs = [r for r in records if r["problem"] == problem and r["rule"] == rule]
            if not runs:
                continue
            x = np.array([min(r["slacks"].values(), default=0.0) for r in runs])
            y = np.array([r["objective"] for r in runs])
            spread = {"xerr": _spread(x), "yerr": _spread(y), "elinewidth": 0.8, "markersize": 5}
            axis.errorbar(np.median(x), np.median(y), **spread, linestyle="none", label=rule, **look)
        best = next(r for r in records if r["problem"] == problem)["oracle"]["objective"]
        if best is not None:
            at = {"marker": "*", "s": 260, "color": "gold", "edgecolors": "black", "zorder": 1.5}
            axis.scatter(_slack_of_optimum(line, best), best, label="optimum", **at)
        axis.axvline(0, color="black", linewidth=0.8, linestyle="--")
        axis.set_title(problem if best is not None else f"{problem} (no feasible policy)", fontsize=9)
        axis.set_xlabel("smallest slack", fontsize=8)
        axis.set_ylabel("objective", fontsize=8)
        axis.tick_params(labelsize=7)
    save(figure, path, axes[: len(problems)])


def _slack_of_optimum(line: Mapping[str, Sequence[float]] | None, best: float) -> float:
    """Slack at which the line leaves the optimum: 0, or beyond for constraints that are met for free."""
    points = zip(line["slack"], line["objective"], strict=True) if line else ()
    return max((s for s, value in points if value >= best - 1e-6 * abs(best)), default=0.0)


def trajectories(records: Sequence[Record], style: Style, path: Path) -> None:
    """Slack and price over steps, a row for each constraint of each problem, for rules that learn prices."""
    rows = [
        (problem, name)
        for problem in dict.fromkeys(r["problem"] for r in records)
        for name in next(r for r in records if r["problem"] == problem)["slacks"]
    ]
    figure, axes = grid(2 * len(rows), 2, 5.0, 2.3)
    for (slack, price), (problem, name) in zip(axes.reshape(-1, 2), rows, strict=True):
        runs = [r for r in records if r["problem"] == problem]
        top, highest = 0.0, 0.0
        for rule, look in style.items():
            chosen = [r for r in runs if r["rule"] == rule and r["prices"].get(name) is not None]
            if not chosen:
                continue
            steps = chosen[0]["trace"]["step"]
            _band(slack, steps, [r["trace"]["slacks"][name] for r in chosen], look["color"], rule)
            prices = np.array([r["trace"]["prices"][name] for r in chosen], dtype=float)
            _band(price, steps, prices, look["color"], rule)
            median = np.median(prices, axis=0)
            top, highest = max(top, median[len(steps) // 2 :].max()), max(highest, median.max())
        slack.axhline(0, color="black", linewidth=0.8, linestyle="--")
        slack.set_ylabel("slack", fontsize=8)
        price.set_ylabel("price", fontsize=8)
        for axis in (slack, price):
            axis.set_title(f"{problem}: {name}", fontsize=9)
            axis.tick_params(labelsize=7)
        true = runs[0]["oracle"]["prices"][name]
        if true is not None:
            low, high = runs[0]["oracle"]["intervals"][name]
            price.axhspan(low, true if high is None else high, color="gold", alpha=0.5, linewidth=0)
            price.axhline(true, color="black", linewidth=1.0, linestyle="--", label="optimum")
            top = max(top, true)
        # The axis is scaled to where the runs settle; overshoots at the start may leave the frame.
        top = max(top, 0.02 * highest) or 1.0
        price.set_ylim(-0.05 * top, 1.6 * top)
    for axis in axes[-2:]:
        axis.set_xlabel("step", fontsize=8)
    save(figure, path, axes)


def profiles(found: Mapping[str, Profile], style: Style, path: Path) -> None:
    """Share of runs that score above a level, with bootstrap bands; on the right near the optimum."""
    figure, (whole, near) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for axis, low in ((whole, 0.0), (near, 0.9)):
        for rule, profile in found.items():
            shown = profile.taus >= low
            colour = style[rule]["color"]
            axis.plot(profile.taus[shown], profile.share[shown], color=colour, label=rule, linewidth=1.5)
            band = (profile.low[shown], profile.high[shown])
            axis.fill_between(profile.taus[shown], *band, color=colour, alpha=0.12, linewidth=0)
        axis.set_xlabel("score (1 = constrained optimum)")
        axis.set_ylabel("share of runs above it")
        axis.set_ylim(-0.02, 1.02)
    save(figure, path, [whole])


def learning_curves(curves: Mapping[str, Sequence[Record]], path: Path) -> None:
    """Objective and smallest slack over steps, a line for each set of runs.

    Args:
        curves: Records of one problem, by label.
        path: Path of the PNG.
    """
    figure, (top, bottom) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    best = None
    for k, (label, runs) in enumerate(curves.items()):
        steps, best = runs[0]["trace"]["step"], runs[0]["oracle"]["objective"]
        _band(top, steps, [r["trace"]["objective"] for r in runs], f"C{k}", label)
        least = [np.min([*r["trace"]["slacks"].values()], axis=0) for r in runs]
        _band(bottom, steps, least, f"C{k}", label)
    if best is not None:
        top.axhline(best, color="black", linewidth=1.0, linestyle="--", label="optimum")
    bottom.axhline(0, color="black", linewidth=0.8, linestyle="--")
    for axis, name in ((top, "objective"), (bottom, "smallest slack")):
        axis.set_xlabel("step")
        axis.set_ylabel(name)
    save(figure, path, [top])


def fixed_multipliers(learned: Sequence[Record], grid: Sequence[Record], path: Path) -> None:
    """Objective against the smallest slack: learned multipliers, and a grid of fixed ones with its labels."""
    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    learned_label = "learned, one point a seed"
    for runs, label, colour, marker in ((grid, "fixed", "grey", "s"), (learned, learned_label, "C3", "o")):
        x = [min(r["slacks"].values()) for r in runs]
        axis.scatter(x, [r["objective"] for r in runs], s=28, label=label, color=colour, marker=marker)
    for r in grid:
        text = ", ".join(f"{value:g}" for value in r["multipliers"].values())
        at = (min(r["slacks"].values()), r["objective"])
        axis.annotate(text, at, textcoords="offset points", xytext=(4, 3), fontsize=6, color="grey")
    best: dict[str, Any] = {"marker": "*", "s": 260, "color": "gold", "edgecolors": "black", "zorder": 0.5}
    axis.scatter(0.0, grid[0]["oracle"]["objective"], label="optimum over all policies", **best)
    axis.axvline(0, color="black", linewidth=0.8, linestyle="--")
    axis.set_xlabel("smallest slack")
    axis.set_ylabel("objective")
    save(figure, path, [axis])


def matrix(names: Sequence[str], values: np.ndarray, path: Path) -> None:
    """Correlations `[name, name]` as a heat map; NaN stays empty."""
    size = 2.2 + 0.75 * len(names)
    figure, axis = plt.subplots(figsize=(size + 1, size), layout="constrained")
    shown = axis.imshow(values, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axis.set_yticks(range(len(names)), names)
    for i, j in np.ndindex(values.shape):
        if np.isfinite(values[i, j]):
            colour = "white" if abs(values[i, j]) > 0.6 else "black"
            axis.text(j, i, f"{values[i, j]:+.2f}", ha="center", va="center", color=colour, fontsize=9)
    figure.colorbar(shown, label="correlation within prompts")
    save(figure, path, [])


def sweeps(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Objective and price along a sweep of one bound, a row for each sweep.

    Args:
        found: Sweeps: `title`, `bound`, `objective`, `price` (lists), `objective name`, `constraint`,
            `sampled` (point of the sampling policy: bound and objective) and `asked` (bound or None).
        path: Path of the PNG.
    """
    figure, axes = grid(2 * len(found), 2, 5.0, 3.0)
    for (left, right), sweep in zip(axes.reshape(-1, 2), found, strict=True):
        left.plot(sweep["bound"], sweep["objective"], color="C0", label="best of the sampled answers")
        left.scatter(*sweep["sampled"], color="black", marker="s", label="sampling policy", zorder=3)
        left.set_ylabel(sweep["objective name"])
        right.step(sweep["bound"], sweep["price"], where="mid", color="C3")
        right.set_ylabel("price")
        for axis in (left, right):
            axis.set_xlabel(sweep["constraint"])
            axis.set_title(sweep["title"], fontsize=9)
            if sweep["asked"] is not None:
                axis.axvline(sweep["asked"], color="black", linewidth=0.8, linestyle="--", label="asked for")
    save(figure, path, axes[:1])


def _band(axis: Any, steps: Sequence[int], curves: Any, colour: str, label: str) -> None:
    """Median over seeds, and their span."""
    values = np.asarray(curves, dtype=float)
    axis.plot(steps, np.median(values, axis=0), color=colour, label=label, linewidth=1.4)
    axis.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0)


def _spread(values: np.ndarray) -> np.ndarray:
    middle = np.median(values)
    return np.array([[middle - values.min()], [values.max() - middle]])
