"""Figures of the benchmarks' reports: panels, and a PNG with one legend. Its import chooses the backend."""

import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def grid(count: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """A figure with ``count`` panels of ``width`` x ``height`` inches, ``columns`` a row, and its axes."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    size = (max(5.0, columns * width), rows * height + 0.8)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.ravel()[count:]:
        axis.set_axis_off()
    return figure, axes.ravel()


def _legend(figure: Any, entries: dict[str, Any], columns: int) -> None:
    """A legend below everything, in as many columns as the figure is wide enough for."""
    legend = figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=columns, fontsize=8
    )
    if columns > 1 and legend.get_window_extent().width > figure.bbox.width:
        legend.remove()
        _legend(figure, entries, columns - 1)


def save(figure: Any, path: Path, legend_of: Any) -> None:
    """Save a figure with one legend below everything, collected over the axes ``legend_of``."""
    entries: dict[str, Any] = {}
    for axis in legend_of:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        _legend(figure, entries, min(6, len(entries)))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)
