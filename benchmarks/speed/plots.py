"""Figures of the report, as PNG. Each function draws one file from the records of one model's sweep.

A kind keeps its colour and marker in all figures. Bars span the rounds.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ..figures import grid, save
from .cells import CHECKPOINT, FLEX, NO_CHECKPOINT, OURS, ROWS, SAMPLERS, STOCK

Record: TypeAlias = Mapping[str, Any]

_LOOKS = {
    STOCK: {"color": "black", "marker": "s"},
    NO_CHECKPOINT: {"color": "grey", "marker": "D"},
    ROWS: {"color": "C0", "marker": "^"},
    OURS: {"color": "C3", "marker": "o"},
    CHECKPOINT: {"color": "C2", "marker": "<"},
    FLEX: {"color": "C1", "marker": "v"},
}

_LIMIT: dict[str, Any] = {"color": "black", "linewidth": 0.8, "linestyle": "--"}


def cost(records: Sequence[Record], warmup: int, along: str, path: Path) -> None:
    """Seconds of a step along ``group_size`` or ``prompt``, a panel for each value of the other.

    Args:
        records: Records of one model.
        warmup: Number of first steps that do not count.
        along: Field of the cells.
        path: Path of the PNG.
    """
    other = "prompt" if along == "group_size" else "group_size"
    names = {"prompt": "P, tokens of the prompt", "group_size": "G, answers a prompt"}
    values = sorted({record["cell"][other] for record in records})
    figure, axes = grid(len(values), 3, 3.8, 3.2)
    for axis, value in zip(axes, values, strict=False):
        row = sorted(
            (record for record in records if record["cell"][other] == value),
            key=lambda record: record["cell"][along],
        )
        for kind, look in _LOOKS.items():
            if not all(kind in record["summary"]["medians"] for record in row):
                continue
            x = [record["cell"][along] for record in row]
            y = [record["summary"]["medians"][kind]["whole"] for record in row]
            rounds = [[s["whole"] for s in record["kinds"][kind]["steps"][warmup:]] for record in row]
            below = [middle - min(found) for middle, found in zip(y, rounds, strict=True)]
            above = [max(found) - middle for middle, found in zip(y, rounds, strict=True)]
            axis.errorbar(x, y, yerr=[below, above], label=kind, elinewidth=0.8, markersize=5, **look)
            axis.set_xticks(x)
        axis.set_title(f"{'P' if other == 'prompt' else 'G'} = {value}", fontsize=9)
        axis.set_xlabel(names[along])
        axis.set_ylabel("seconds a step")
        axis.set_ylim(bottom=0)
    save(figure, path, axes)


def limit(records: Sequence[Record], path: Path) -> None:
    """Ratios of forward + backward against the ratio of tokens, a panel for each kind that is compared."""
    pairs = {pair for record in records for pair in record["summary"]["ratios"]}
    compared = [kind for kind in (STOCK, ROWS) if f"{kind}/{OURS}" in pairs]
    figure, axes = grid(len(compared), 2, 4.6, 3.8)
    prompts = sorted({record["cell"]["prompt"] for record in records})
    for axis, kind in zip(axes, compared, strict=False):
        pair, highest = f"{kind}/{OURS}", 1.0
        for k, prompt in enumerate(prompts):
            chosen = [record for record in records if record["cell"]["prompt"] == prompt]
            shown = [record["summary"] for record in chosen if pair in record["summary"]["ratios"]]
            if not shown:
                continue
            x = [found["token_ratio"] for found in shown]
            spreads = [found["ratios"][pair]["forward_backward"] for found in shown]
            y = [found["median"] for found in spreads]
            bars = [
                [found["median"] - found["low"] for found in spreads],
                [found["high"] - found["median"] for found in spreads],
            ]
            label = f"P = {prompt}, a point for each G"
            axis.errorbar(x, y, yerr=bars, label=label, color=f"C{k}", marker="osD^v"[k % 5], markersize=5)
            highest = max(highest, *x)
        axis.plot([1, highest], [1, highest], label="the limit", **_LIMIT)
        axis.set_title(f"{kind} over {OURS}", fontsize=9)
        axis.set_xlabel("limit, G (P + C) / (P + G C)")
        axis.set_ylabel("forward + backward, ratio of seconds")
        axis.set_ylim(bottom=0)
    save(figure, path, axes)


def rollouts(records: Sequence[Record], path: Path) -> None:
    """Tokens a second of each sampler, a panel for each cell."""
    figure, axes = grid(len(records), 2, 4.6, 2.6)
    for axis, record in zip(axes, records, strict=False):
        found = record["summary"]["tokens_per_second"]
        kinds = [kind for kind in SAMPLERS if kind in found]
        middle = [found[kind]["median"] for kind in kinds]
        below = [found[kind]["median"] - found[kind]["low"] for kind in kinds]
        above = [found[kind]["high"] - found[kind]["median"] for kind in kinds]
        axis.barh(kinds, middle, xerr=[below, above], color="C0", error_kw={"elinewidth": 0.8})
        axis.invert_yaxis()
        cell = record["cell"]
        axis.set_title(f"{cell['model']}, P = {cell['prompt']}, G = {cell['group_size']}", fontsize=9)
        axis.set_xlabel("tokens a second")
    save(figure, path, ())
