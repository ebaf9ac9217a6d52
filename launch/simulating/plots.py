"""Plots of an A/B test and of a simulator's fidelity, as PNG."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from ...envs.simulator.fidelity import Fidelity


def differences(metrics: Mapping[str, Any], path: Path) -> None:
    """Relative difference of each metric with its interval."""
    figure, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for row, one in enumerate(metrics.values()):
        scale = 100 / one["a"]["mean"] if one["a"]["mean"] else np.nan
        _interval(axis, one["difference"], row, scale, "C0" if one["holm"] <= 0.05 else "0.6")
    axis.set_yticks(range(len(metrics)), list(metrics))
    axis.invert_yaxis()
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_xscale("symlog", linthresh=10)  # a metric may change by a multiple, others by a percent
    axis.set_xticks([-100, -10, -5, 0, 5, 10, 100], ["-100", "-10", "-5", "0", "5", "10", "100"])
    axis.set_xlabel("B less A, % of A (grey: not settled after Holm)")
    _save(figure, path)


def sweep(metrics: Mapping[str, Any], swept: Mapping[str, Any], path: Path) -> None:
    """Difference of each metric under each scenario and in the second simulator."""
    figure, axes = plt.subplots(2, 4, figsize=(13, 6.4), layout="constrained", sharey=True)
    names = ["base", *swept]
    for axis, (metric, one) in zip(axes.ravel(), metrics.items(), strict=True):
        for row, name in enumerate(names):
            found = one["difference"] if name == "base" else swept[name][metric]
            _interval(axis, found, row, 1.0, _colour(found))
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.tick_params(axis="x", labelsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_title(metric, fontsize=10)
    axes[0, 0].invert_yaxis()
    figure.supxlabel("B less A, 95 % intervals over shoppers", fontsize=10)
    _save(figure, path)


def looks(metrics: Mapping[str, Any], path: Path) -> None:
    """Intervals that hold at all looks, as shoppers come in."""
    figure, axes = plt.subplots(2, 4, figsize=(13, 5.6), layout="constrained")
    for axis, (metric, one) in zip(axes.ravel(), metrics.items(), strict=True):
        at = [look["shoppers"] for look in one["looks"]]
        axis.fill_between(at, [x["low"] for x in one["looks"]], [x["high"] for x in one["looks"]], alpha=0.3)
        axis.plot(at, [x["mean"] for x in one["looks"]], marker="o", markersize=3)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_title(metric, fontsize=10)
        axis.tick_params(labelsize=8)
    figure.supxlabel("shoppers", fontsize=10)
    figure.supylabel("B less A", fontsize=10)
    _save(figure, path)


def fidelity(found: Fidelity, path: Path) -> None:
    """Weeks, sizes of baskets, purchases of each tag and calibration: real against simulated."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    weeks, sizes, tags, tenths = axes.ravel()
    for column, name in ((1, "real"), (2, "simulated")):
        weeks.plot(found.per_week[:, 0], found.per_week[:, column], label=name, marker="o", markersize=3)
    weeks.set(xlabel="week", ylabel="share of households that come", ylim=(0, 1))
    weeks.legend(frameon=False)
    most = int(np.quantile(found.sizes[0], 0.995))
    for name, values in zip(("real", "simulated"), found.sizes, strict=True):
        share = np.bincount(np.minimum(values, most), minlength=most + 1) / len(values)
        sizes.step(range(most + 1), share, where="mid", label=name)
    sizes.set(xlabel="tags of a visit", ylabel="share of visits")
    sizes.legend(frameon=False)
    tags.loglog(*(np.maximum(one, 1) for one in found.purchases_of), ".", markersize=4)
    ends = (1, max(one.max() for one in found.purchases_of))
    tags.plot(ends, ends, color="black", linewidth=0.8)
    tags.set(xlabel="purchases of a tag, real", ylabel="simulated")
    tenths.loglog(*np.maximum(found.calibration, 1e-5).T, marker="o", markersize=4)
    ends = (found.calibration.min(), 1)
    tenths.plot(ends, ends, color="black", linewidth=0.8)
    tenths.set(xlabel="forecast of a purchase, by tenths", ylabel="share bought")
    _save(figure, path)


def _colour(found: Mapping[str, float]) -> str:
    return "C0" if found["low"] > 0 else "C3" if found["high"] < 0 else "0.6"


def _interval(axis: Any, found: Mapping[str, float], row: int, scale: float, colour: str) -> None:
    axis.plot((scale * found["low"], scale * found["high"]), (row, row), color=colour, linewidth=1.5)
    axis.plot(scale * found["mean"], row, "o", color=colour, markersize=5)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)
