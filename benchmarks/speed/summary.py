"""Figures of a cell: medians of each kind, and ratios of kinds.

``summarise``  everything that the report says about a cell
``spread``     a median with its smallest and largest value

A cell of training steps and one of samplers have figures of their own.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from .cells import EXPANSION, OURS, Cell

TIMES = ("whole", "rollout", "forward_backward")
"""Fields of a step that kinds are compared in."""
OTHER = "time/other"


def summarise(record: Mapping[str, Any], warmup: int) -> dict[str, Any]:
    """Figures of a record of :func:`.measure.execute`.

    Args:
        record: Record with ``cell`` and ``kinds``.
        warmup: Number of steps of each kind that do not count.

    Returns:
        ``token_ratio``, ``G(P+C) / (P+GC)``; ``medians``, for each kind its seconds, ``answer_tokens``,
        ``full_rows`` and peak memory; ``ratios``, for each pair ``kind/one of ours``, the `spread` of
        per-round ratios of each of :data:`TIMES`, and the ratios of peak memory, whole and beyond what was
        held before the first step; ``parts``, for each of our kinds the median seconds of the parts of a
        step. A kind without steps, for which memory did not suffice, is in none of them.

        For samplers, ``token_ratio``; ``medians`` with seconds of ``hand_over`` and ``sampling``;
        ``tokens_per_second`` and ``with_hand_over``, the `spread` over rounds; and ``faster``, the `spread`
        of the ratio of tokens per second to those of batch expansion.
    """
    cell = Cell.from_json(record["cell"])
    steps = {kind: found["steps"][warmup:] for kind, found in record["kinds"].items() if found["steps"]}
    if cell.samples:
        return {"token_ratio": cell.token_ratio, **_samplers(steps, cell)}
    return {
        "token_ratio": cell.token_ratio,
        "medians": {kind: _medians(found) for kind, found in steps.items()},
        "ratios": {
            f"{kind}/{ours}": {
                **{time: spread(_quotients(steps[kind], steps[ours], time)) for time in TIMES},
                "peak": steps[kind][-1]["peak"] / steps[ours][-1]["peak"],
                "net_peak": _net_peak(record, kind) / _net_peak(record, ours),
                "device_peak": _device_ratio(steps[kind][-1], steps[ours][-1]),
            }
            for ours in steps
            if ours.startswith(OURS)
            for kind in steps
            if kind != ours
        },
        "parts": {kind: _parts(found) for kind, found in steps.items() if found[0]["parts"]},
    }


def _samplers(steps: Mapping[str, Sequence[Mapping[str, Any]]], cell: Cell) -> dict[str, Any]:
    tokens = cell.groups * cell.group_size * cell.answer
    whole = {
        kind: [{**step, "whole": step["hand_over"] + step["sampling"]} for step in found]
        for kind, found in steps.items()
    }
    return {
        "medians": {
            kind: {field: median(step[field] for step in found) for field in ("hand_over", "sampling")}
            for kind, found in steps.items()
        },
        "tokens_per_second": {
            kind: spread([tokens / step["sampling"] for step in found]) for kind, found in steps.items()
        },
        "with_hand_over": {
            kind: spread([tokens / step["whole"] for step in found]) for kind, found in whole.items()
        },
        "faster": {
            field: {
                kind: spread(_quotients(whole[EXPANSION], found, field))
                for kind, found in whole.items()
                if EXPANSION in whole
            }
            for field in ("sampling", "whole")
        },
    }


def _net_peak(record: Mapping[str, Any], kind: str) -> float:
    """Main memory beyond what the worker held before its first step: libraries and policy."""
    found = record["kinds"][kind]
    return found["steps"][-1]["peak"] - found["start"]["memory"]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Spread ``median``, ``low``, ``high``: with few rounds the extremes say more than an interval would."""
    return {"median": median(values), "low": min(values), "high": max(values)}


def _medians(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    fields = (*TIMES, "inputs", "answer_tokens")
    last = steps[-1]  # the peak is that of all steps so far
    return {
        **{field: median(step[field] for step in steps) for field in fields},
        "full_rows": last["full_rows"],
        "peak": last["peak"],
        "device_peak": last["device_peak"],
    }


def _quotients(
    above: Sequence[Mapping[str, Any]], below: Sequence[Mapping[str, Any]], field: str
) -> list[float]:
    return [one[field] / other[field] for one, other in zip(above, below, strict=True)]


def _device_ratio(above: Mapping[str, Any], below: Mapping[str, Any]) -> float | None:
    return above["device_peak"] / below["device_peak"] if above["device_peak"] else None


def _parts(steps: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found = {name: median(step["parts"][name] for step in steps) for name in steps[0]["parts"]}
    found[OTHER] = median(step["whole"] - sum(step["parts"].values()) for step in steps)
    return found
