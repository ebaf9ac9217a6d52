"""The report of the benchmark: ``report.md`` and PNGs, rendered from ``scale.json`` alone."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...envs.markdown import table
from .. import BenchmarkError
from ..figures import grid, save

RESULT = "scale.json"
_MB = 1e6


def write(folder: Path) -> Path:
    """Render the report of a benchmark's folder.

    Returns:
        Path of ``report.md``.

    Raises:
        BenchmarkError: there are no results.
    """
    if not (folder / RESULT).exists():
        raise BenchmarkError(f"{folder / RESULT} is missing; run the benchmark first")
    found = json.loads((folder / RESULT).read_text())
    lines = ["# Scale"]
    for part, render in (("data", _data), ("training", _training), ("resume", _resume)):
        if part in found:
            lines += ["", *render(found[part]["found"], folder), "", _machine(found[part]["machine"])]
    path = folder / "report.md"
    path.write_text("\n".join(lines) + "\n")
    return path


def _machine(found: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {found[name]}" for name in ("torch", "transformers", "trl", "recrl"))
    return f"Measured on {found['cpu']}, {found['cores']} cores; {versions}."


def _data(records: Sequence[Mapping[str, Any]], folder: Path) -> list[str]:
    """Tables of logs of growing size."""
    first = records[0]
    per_event = [
        statistics.median(
            a / r["events"] / (b / first["events"])
            for a, b in zip(r["seconds"], first["seconds"], strict=True)
        )
        for r in records
    ]
    rows = [
        [
            f"{r['events']:,}",
            f"{r['users']:,}",
            f"{r['episodes']:,}",
            f"{statistics.median(r['seconds']):.1f}",
            f"{ratio:.2f}",
            f"{max(r['peak']) / _MB:,.0f}",
        ]
        for r, ratio in zip(records, per_event, strict=True)
    ]
    figure, axes = grid(2, 2, 3.8, 3.0)
    x = [r["events"] / 1e6 for r in records]
    middle = [statistics.median(r["seconds"]) for r in records]
    spread = [
        [m - min(r["seconds"]) for m, r in zip(middle, records, strict=True)],
        [max(r["seconds"]) - m for m, r in zip(middle, records, strict=True)],
    ]
    axes[0].errorbar(x, middle, yerr=spread, marker="o", label="measured")
    axes[0].plot(x, [middle[0] * v / x[0] for v in x], "k--", linewidth=0.8, label="the smallest log's pace")
    axes[1].plot(x, [max(r["peak"]) / _MB for r in records], marker="o", label="measured")
    for axis, name in zip(axes, ("seconds", "peak memory, MB"), strict=True):
        axis.set_xlabel("million events")
        axis.set_ylabel(name)
        axis.set_ylim(bottom=0)
    save(figure, folder / "plots" / "data.png", axes)
    return [
        "## Tables of a log",
        "",
        "A log in Parquet to catalogue, purchases and episodes, each build in a process of its own, in "
        f"turns. Medians of {len(first['seconds'])} builds; the peak is the largest. *Per event* is the time "
        "of an event over that in the smallest log.",
        "",
        table(["events", "users", "episodes", "seconds", "per event", "peak memory, MB"], rows),
        "",
        "![](plots/data.png)",
    ]


def _training(records: Sequence[Mapping[str, Any]], folder: Path) -> list[str]:
    """Steps on several processes."""
    own, whole = records[0], records[1]
    rows = [
        [
            r["name"],
            str(r["prompts"]),
            _seconds(r),
            "" if r["processes"] == 1 else _ratio(own, r, "seconds"),
            "" if r["processes"] == 1 else _ratio(whole, r, "seconds"),
            *(
                f"{statistics.median(one[key] for one in r['rounds']) / _MB:,.0f}"
                for key in ("states", "peak")
            ),
            f"{statistics.median(one['checkpoint_seconds'] for one in r['rounds']):.2f}",
            f"{statistics.median(one['checkpoint_bytes'] for one in r['rounds']) / _MB:,.0f}",
        ]
        for r in records
    ]
    figure, axes = grid(2, 2, 4.4, 3.2)
    names = [r["name"] for r in records]
    axes[0].barh(names, [_median(r, "seconds") for r in records])
    axes[0].set_xlabel("seconds a step")
    axes[1].barh(names, [_median(r, "states") / _MB for r in records])
    axes[1].set_xlabel("weights and optimiser states of a process, MB")
    axes[1].set_yticklabels([])
    for axis in axes:
        axis.invert_yaxis()
    save(figure, folder / "plots" / "training.png", [])
    return [
        "## Several processes",
        "",
        f"Constrained GRPO of a policy with {own['parameters'] / 1e6:.1f} M parameters in fp32, each process "
        "on one thread. *Weak* is the time of one process with the prompts of one over the time of all "
        "processes with the prompts of all (1 is ideal); *strong* is the time of one process with the "
        f"prompts of all over theirs ({records[-1]['processes']} is ideal). Kinds are launched in turns; "
        f"medians [least, most] of {len(own['rounds'])} rounds, ratios within a round. Memory is of the "
        "process that holds most; a checkpoint counts until it is sealed and named.",
        "",
        table(
            [
                *("", "prompts a step", "seconds a step", "weak", "strong", "weights and optimiser, MB"),
                *("peak memory, MB", "checkpoint, s", "checkpoint, MB"),
            ],
            rows,
        ),
        "",
        "![](plots/training.png)",
    ]


def _resume(found: Mapping[str, Any], folder: Path) -> list[str]:
    """Runs that were killed."""
    # Results of earlier versions, which stopped runs in their training alone, name no stage.
    trials = [{"stage": "training", "when": trial["signal"], **trial} for trial in found["trials"]]
    rows = [
        [
            name,
            str(len(chosen)),
            str(sum(not trial["apart"] for trial in chosen)),
        ]
        for name in dict.fromkeys(f"{trial['signal']}, {trial['stage']}" for trial in trials)
        if (chosen := [trial for trial in trials if f"{trial['signal']}, {trial['stage']}" == name])
    ]
    apart = [f"- {trial['when']}: {'; '.join(trial['apart'][:3])}" for trial in trials if trial["apart"]]
    return [
        "## Killed runs",
        "",
        f"A run of {found['steps']} steps, {found['epoch']} an epoch, with sampled answers, on one process. "
        "It gets a signal at a random moment of its warm start, of its training, of its evaluation, or "
        "anywhere from its start on, and goes on with `--resume auto`. *The same* means bit for bit: "
        "weights, multipliers, every logged figure of every step but times, every figure of the evaluation, "
        "and the files that are left.",
        "",
        table(["signal", "runs", "the same as the run that nobody touched"], rows),
        *(["", "Those that were not:", "", *apart] if apart else []),
    ]


def _median(record: Mapping[str, Any], key: str) -> float:
    return statistics.median(one[key] for one in record["rounds"])


def _seconds(record: Mapping[str, Any]) -> str:
    found = [one["seconds"] for one in record["rounds"]]
    return f"{statistics.median(found):.2f} [{min(found):.2f}, {max(found):.2f}]"


def _ratio(over: Mapping[str, Any], record: Mapping[str, Any], key: str) -> str:
    found = [a[key] / b[key] for a, b in zip(over["rounds"], record["rounds"], strict=True)]
    return f"{statistics.median(found):.2f} [{min(found):.2f}, {max(found):.2f}]"
