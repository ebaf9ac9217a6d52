"""The report of the benchmark: ``report.md`` and PNGs, rendered from ``speed.json`` alone.

Every sentence with a number is generated from the file.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ...envs.markdown import table
from . import measure, plots
from .cells import KINDS, NO_CHECKPOINT, OURS, ROWS, SAMPLERS, STOCK, Cell

Record: TypeAlias = Mapping[str, Any]

_MISSING = "-"
_NAMES = {"whole": "whole step", "rollout": "rollout", "forward_backward": "forward + backward"}
_ORDER = ("forward_backward", "rollout", "whole")
_PRIMARY = (STOCK, ROWS)


def write(folder: Path) -> Path:
    """Render the report of a benchmark's folder.

    Returns:
        Path of ``report.md``.

    Raises:
        BenchmarkError: there are no results.
    """
    found = measure.read(folder)
    records, warmup = sorted(found["cells"], key=_place), found["settings"]["warmup"]
    path = folder / "report.md"
    trained = [record for record in records if not _cell(record).samples]
    sampled = [record for record in records if _cell(record).samples]
    lines = ["# Speed", "", *_setting(found)]
    if trained:
        lines += _training(trained, warmup, folder, "device_peak" if found["machine"]["gpu"] else "peak")
    if sampled:
        lines += _sampling(sampled, folder)
    path.write_text("\n".join(lines).rstrip() + "\n")
    return path


def _training(records: Sequence[Record], warmup: int, folder: Path, memory: str) -> list[str]:
    return [
        *_ratios(records, memory),
        *_checkpointing(records, memory),
        *_growth(records),
        *_sizes(records),
        *_figures(_swept(records), warmup, folder),
        *_parts(records),
        *_seconds(records, memory),
    ]


def _sampling(records: Sequence[Record], folder: Path) -> list[str]:
    """Engines that sample answers."""
    head = ["cell and kind", "tokens/s", "times expansion", "weights handed over, s"]
    head += ["tokens/s, hand-over included", "times expansion"]
    rows = []
    for record in records:
        found = record["summary"]
        for kind, medians in found["medians"].items():
            rows.append(
                [
                    f"{_cell(record)}, {record['cell']['groups']} prompts, `{kind}`",
                    _spread(found["tokens_per_second"][kind], 0),
                    _spread(found["faster"]["sampling"].get(kind)),
                    f"{medians['hand_over']:.2f}",
                    _spread(found["with_hand_over"][kind], 0),
                    _spread(found["faster"]["whole"].get(kind)),
                ]
            )
    picture = folder / "plots" / "rollouts.png"
    plots.rollouts(records, picture)
    text = (
        "Tokens that an engine samples in a second, and how many times those of batch expansion in the same "
        "round: medians over rounds with [smallest, largest]. All answers have C tokens, whatever they say; "
        "every round has new prompts and, as after an optimiser's step, weights to take over."
    )
    plot = [f"![Tokens a second](plots/{picture.name})", ""]
    return ["## Rollout engines", "", text, "", table(head, rows), "", *plot, *_faults(records)]


def _setting(found: Mapping[str, Any]) -> list[str]:
    machine, settings, records = found["machine"], found["settings"], found["cells"]
    kinds = dict.fromkeys(kind for record in records for kind in record["kinds"])
    groups = sorted({record["cell"]["groups"] for record in records})
    answers = sorted({record["cell"]["answer"] for record in records})
    where = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    precision = "bf16" if settings["device"] == "cuda" else "fp32"
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "transformers", "trl", "recrl"))
    text = (
        f"{where}; {precision}; {versions}. P = tokens of a prompt, C = {_or(answers)} = tokens of an "
        f"answer, G = answers a prompt, {_or(groups)} prompts a step. Every kind has the same weights, "
        f"prompts, rewards, sampling settings, seed ({settings['seed']}) and AdamW. Kinds take turns step by "
        f"step, each in a process of its own; rounds that warm up: {settings['warmup']}, rounds that count: "
        f"{settings['rounds']}. A ratio is the median over rounds of the ratio within a round, with its "
        "[smallest, largest]."
    )
    texts = {name: kind.text for name, kind in KINDS.items()} | {
        name: sampler.text for name, sampler in SAMPLERS.items()
    }
    return [text, "", *(f"- `{kind}`: {texts[kind]}" for kind in kinds), ""]


def _ratios(records: Sequence[Record], memory: str) -> list[str]:
    head = [
        "cell",
        "limit G(P+C)/(P+GC)",
        *(f"{_NAMES[time]}, {kind}" for time in _ORDER for kind in _PRIMARY),
        *(f"peak memory, {kind}" for kind in _PRIMARY),
        *(f"... beyond the start, {kind}" for kind in _PRIMARY),
    ]
    rows = []
    for record in records:
        ratios = record["summary"]["ratios"]
        for ours in _ours(record):
            pairs = [ratios.get(f"{kind}/{ours}") for kind in _PRIMARY]
            timed = [_spread(p and p[time]) for time in _ORDER for p in pairs]
            peaks = [_number(p and p[field]) for field in (memory, "net_peak") for p in pairs]
            rows.append([_label(record, ours), f"{record['summary']['token_ratio']:.2f}", *timed, *peaks])
    losses = [
        f"- {_label(record, ours)}: {_NAMES[time]} {_spread(found[time])} against `{kind}`"
        for record in records
        for ours in _ours(record)
        for kind in record["kinds"]
        if (found := record["summary"]["ratios"].get(f"{kind}/{ours}")) and not kind.startswith(OURS)
        for time in _ORDER
        if found[time]["median"] < 1
    ]
    fallbacks = [
        f"- {_label(record, ours)}: {why}"
        for record in records
        for ours in _ours(record)
        if (why := record["summary"]["medians"][ours]["full_rows"])
    ]
    return [
        "## How many times less",
        "",
        "The seconds, or bytes, of the named kind over those of recrl: above 1, recrl takes less. The limit "
        "counts tokens that are read; a ratio to `trl` can exceed it, since gradient checkpointing and "
        "logits of prompt tokens are in it too. Main memory includes the libraries; beyond the start it is "
        "what a process took on top of what it held before its first step, libraries and policy.",
        "",
        table(head, rows),
        "",
        *_bullets("Where recrl is slower:", losses),
        *_bullets("Where recrl reads full rows as well, and why:", fallbacks),
    ]


def _checkpointing(records: Sequence[Record], memory: str) -> list[str]:
    found = [
        record for record in records if {STOCK, NO_CHECKPOINT, OURS} <= record["summary"]["medians"].keys()
    ]
    if not found:
        return []
    lines = ["## How much of it is gradient checkpointing", ""]
    lines += ["TRL recomputes activations by default, recrl does not. Ratios over `shared`:", ""]
    for record in found:
        ratios = record["summary"]["ratios"]
        rows = [
            [
                f"`{kind}`",
                *(_spread(ratios[f"{kind}/{OURS}"][time]) for time in _ORDER),
                *(_number(ratios[f"{kind}/{OURS}"][field]) for field in (memory, "net_peak")),
            ]
            for kind in record["summary"]["medians"]
            if kind != OURS
        ]
        head = [
            str(_cell(record)),
            *(_NAMES[time] for time in _ORDER),
            "peak memory",
            "... beyond the start",
        ]
        lines += [table(head, rows), ""]
    return lines


def _growth(records: Sequence[Record]) -> list[str]:
    """Lines on what more answers a prompt cost."""
    rows = []
    sizes = sorted({record["cell"]["group_size"] for record in _swept(records)})
    for prompt in sorted({record["cell"]["prompt"] for record in _swept(records)}):
        row = {r["cell"]["group_size"]: r for r in _swept(records) if r["cell"]["prompt"] == prompt}
        if len(sizes) < 2 or set(row) != set(sizes):
            continue
        kinds = [kind for kind in KINDS if all(kind in r["summary"]["medians"] for r in row.values())]
        for kind in kinds:
            seconds = [row[size]["summary"]["medians"][kind]["whole"] for size in sizes]
            cells = [f"{one:.2f} s ({one / seconds[0]:.2f})" for one in seconds]
            rows.append([f"P = {prompt}, `{kind}`", *cells])
    if not rows:
        return []
    return [
        "## What more answers cost",
        "",
        "Median seconds of a step, and in brackets how many times those of the smallest group.",
        "",
        table(["", *(f"G = {size}" for size in sizes)], rows),
        "",
    ]


def _sizes(records: Sequence[Record]) -> list[str]:
    """The headline cell of each model."""
    points = Counter((r["cell"]["prompt"], r["cell"]["group_size"]) for r in records)
    point, models = points.most_common(1)[0]
    if models < 2:
        return []
    chosen = [r for r in records if (r["cell"]["prompt"], r["cell"]["group_size"]) == point]
    head = ["model", "parameters", "prompts a step", "limit", *(f"step, {kind}" for kind in _PRIMARY)]
    head += [f"forward + backward, {kind}" for kind in _PRIMARY]
    rows = []
    for record in sorted(chosen, key=lambda r: r["parameters"]):
        for ours in _ours(record):
            pairs = [record["summary"]["ratios"].get(f"{kind}/{ours}") for kind in _PRIMARY]
            rows.append(
                [
                    record["cell"]["model"] + ("" if ours == OURS else f" `{ours}`"),
                    f"{record['parameters'] / 1e6:.1f} M",
                    str(record["cell"]["groups"]),
                    f"{record['summary']['token_ratio']:.2f}",
                    *(_spread(p and p["whole"]) for p in pairs),
                    *(_spread(p and p["forward_backward"]) for p in pairs),
                ]
            )
    return [f"## Size of the model, P = {point[0]}, G = {point[1]}", "", table(head, rows), ""]


def _figures(records: Sequence[Record], warmup: int, folder: Path) -> list[str]:
    pictures = folder / "plots"
    lines = ["## Figures", ""]
    for along, title in (("group_size", "Cost of a step against G"), ("prompt", "Cost of a step against P")):
        plots.cost(records, warmup, along, pictures / f"cost-{along}.png")
        lines += [f"![{title}](plots/cost-{along}.png)", ""]
    if any(f"{kind}/{OURS}" in r["summary"]["ratios"] for kind in _PRIMARY for r in records):
        plots.limit(records, pictures / "limit.png")
        lines += ["![Ratio of forward + backward against the limit](plots/limit.png)", ""]
    return lines


def _parts(records: Sequence[Record]) -> list[str]:
    """Times of the parts of our own steps."""
    found = [(r, kind, parts) for r in records for kind, parts in r["summary"]["parts"].items()]
    if not found:
        return []
    names = list(found[0][2])
    rows = []
    for record, kind, parts in found:
        if kind.startswith(OURS):
            whole = sum(parts.values())
            rows.append(
                [_label(record, kind), *(f"{parts[name]:.3f} ({parts[name] / whole:.0%})" for name in names)]
            )
    head = ["cell", *(name.removeprefix("time/").replace("_", " ") for name in names)]
    text = "Median seconds of the parts of a step, by the trainer's own metrics `time/*`, and their share."
    return ["## Where a step of recrl goes", "", text, "", table(head, rows), ""]


def _seconds(records: Sequence[Record], memory: str) -> list[str]:
    rows = []
    for record in records:
        for kind, found in record["summary"]["medians"].items():
            rows.append(
                [
                    f"{_cell(record)}, `{kind}`",
                    *(f"{found[time]:.3f}" for time in _ORDER),
                    f"{found['answer_tokens']:.1f}",
                    f"{record['kinds'][kind]['start']['memory'] / 2**20:.0f}",
                    f"{found[memory] / 2**20:.0f}",
                ]
            )
    head = ["cell and kind", *(f"{_NAMES[time]}, s" for time in _ORDER), "mean answer, tokens"]
    head += ["main memory before, MiB", f"peak {'GPU' if memory == 'device_peak' else 'main'} memory, MiB"]
    return ["## All medians", "", table(head, rows), "", *_faults(records)]


def _faults(records: Sequence[Record]) -> list[str]:
    lines = [
        f"- {_cell(record)}, `{kind}`: {found['fault']}"
        for record in records
        for kind, found in record["kinds"].items()
        if "fault" in found
    ]
    return _bullets("Where memory did not suffice:", lines) if lines else []


def _swept(records: Sequence[Record]) -> list[Record]:
    """The records of the model with the most cells."""
    model, _ = Counter(record["cell"]["model"] for record in records).most_common(1)[0]
    return [record for record in records if record["cell"]["model"] == model]


def _place(record: Record) -> tuple[int, int, int]:
    return record["parameters"], record["cell"]["prompt"], record["cell"]["group_size"]


def _cell(record: Record) -> Cell:
    return Cell.from_json(record["cell"])


def _label(record: Record, ours: str) -> str:
    return str(_cell(record)) + ("" if ours == OURS else f", `{ours}`")


def _ours(record: Record) -> list[str]:
    return [kind for kind in record["summary"]["medians"] if kind.startswith(OURS)]


def _bullets(heading: str, lines: Sequence[str]) -> list[str]:
    return [heading, "", *(lines or ["- nowhere"]), ""]


def _spread(found: Mapping[str, float] | None, digits: int = 2) -> str:
    if not found:
        return _MISSING
    middle, low, high = (f"{found[name]:.{digits}f}" for name in ("median", "low", "high"))
    return f"{middle} [{low}, {high}]"


def _number(found: float | None) -> str:
    return f"{found:.2f}" if found else _MISSING


def _or(values: Sequence[int]) -> str:
    return " or ".join(map(str, values))
