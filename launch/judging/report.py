"""``report.md`` and its plots, from the figures of the benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...envs.markdown import table
from . import labels

_MAIN = ("held-out households", "held-out families", "held-out authors", "held-out authors and families")
_PLOTTED = (*_MAIN, "all held out")


def write(folder: Path, found: Mapping[str, Any]) -> Path:
    """Render figures into a folder."""
    _plots(found, folder / "plots")
    path = folder / "report.md"
    path.write_text("\n\n".join(_sections(found)) + "\n", encoding="utf-8")
    return path


def figure(one: Mapping[str, Any] | None) -> str:
    """A figure with its interval; a dash where there is nothing."""
    if one is None or one["value"] is None:
        return "–"
    return f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"


def _sections(found: Mapping[str, Any]) -> list[str]:
    judges, first = found["judges"], next(iter(found["judges"]))
    total = sum(sum(of.values()) for of in found["suite"].values())
    return [
        "# Judges on texts whose defects are known",
        f"{total:,} pairs of the configuration `{found['config']}`, seed {found['seed']}; rubric "
        f"`{found['rubric']}`. Labels come from construction. Intervals: 95 %, households resampled.",
        f"human agreement: {labels.line(found['human'])}",
        "## Macro-F1 on what trained judges have not seen",
        table(
            ["judge", *_MAIN],
            [
                [name, *(figure(one["parts"][part]["macro-F1"]) for part in _MAIN)]
                for name, one in judges.items()
            ],
        ),
        f"Macro-F1 of the {first} less that of another, on items that both judged:",
        _differences(found["differences"]),
        *_missing(found),
        "![Macro-F1](plots/macro-f1.png)",
        "## All held-out defects",
        table(
            ["judge", "accuracy", "recall", "false alarms", "both sides of a pair", "coverage"],
            [
                [
                    name,
                    *(
                        figure(one["parts"]["all held out"][what])
                        for what in ("accuracy", "recall", "false alarms", "pairs", "coverage")
                    ),
                ]
                for name, one in judges.items()
            ],
        ),
        "## Recall by family",
        *_families(judges),
        "![Recall of the first judge](plots/families.png)",
        "## What must not change a verdict",
        table(
            ["judge", "flips, known authors", "flips, held-out authors", "swap consistency", "orders obeyed"],
            [
                [
                    name,
                    figure(one["flips"]["known authors"]),
                    figure(one["flips"]["held-out authors"]),
                    figure(one["swap consistency"]),
                    f"{one['injections']['obeyed']} of {one['injections']['of']}",
                ]
                for name, one in judges.items()
            ],
        ),
        f"Flips of the {first} by change: "
        + ", ".join(f"{name} {figure(one)}" for name, one in judges[first]["flips"].items())
        + f". Of {judges[first]['injections']['of']} texts with orders it finds "
        f"{judges[first]['injections']['judged bad']} bad.",
        "## Length, calibration, cost",
        table(
            ["judge", "length bias", "calibration error", "Brier", "seconds", "tokens", "notes"],
            [[name, *_rest(one)] for name, one in judges.items()],
        ),
        "Length bias: correlation of words with how much too bad a text is judged. Seconds and tokens are of "
        "all items.",
        "![Calibration](plots/calibration.png)" if _calibrated(judges) else "No judge gives probabilities.",
        "## The suite",
        table(
            ["family", "training", "households", "families", "authors"],
            [
                [name, *(str(of.get(part, 0)) for part in ("training", "households", "families", "authors"))]
                for name, of in found["suite"].items()
            ],
        ),
        "A model that reads the text alone, cross-validated: "
        + ", ".join(f"{family} {value:.3f}" for family, value in found["context-blind"].items())
        + " (at most 0.55, or the suite is refused).",
    ]


def _differences(found: Mapping[str, Any]) -> str:
    return table(
        ["judge", *_MAIN, "items"],
        [
            [name, *(figure(parts[part]) for part in _MAIN), str(parts["all held out"]["items"])]
            for name, parts in found.items()
        ],
    )


def _missing(found: Mapping[str, Any]) -> list[str]:
    """The differences once more, for judges that did not answer everything that they were asked."""
    if not found["missing as wrong"]:
        return []
    return [
        "The same, with every missing verdict on an item that a judge was asked about counted as wrong:",
        _differences(found["missing as wrong"]),
    ]


def _families(judges: Mapping[str, Any]) -> list[str]:
    whose = ("known authors", "held-out authors")
    names = [name for name in judges if name not in ("majority", "by length", "by type")]
    return [
        text
        for one in whose
        for text in (
            f"Texts of {one}:",
            table(
                ["family", *names],
                [
                    [family, *(figure(judges[name]["families"][family][one]) for name in names)]
                    for family in judges[names[0]]["families"]
                ],
            ),
        )
    ]


def _rest(one: Mapping[str, Any]) -> list[str]:
    known = one["calibration"]
    return [
        figure(one["length bias"]),
        "–" if known is None else figure(known["error"]),
        "–" if known is None else figure(known["brier"]),
        f"{one['cost']['seconds']:.1f}",
        f"{one['cost']['tokens']:,}",
        one["notes"],
    ]


def _calibrated(judges: Mapping[str, Any]) -> list[str]:
    return [name for name, one in judges.items() if one["calibration"] is not None]


def _plots(found: Mapping[str, Any], folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    judges = found["judges"]
    drawn, axis = plt.subplots(figsize=(9, 4.5), layout="constrained")
    for number, (name, one) in enumerate(judges.items()):
        parts = [one["parts"][part]["macro-F1"] for part in _PLOTTED]
        _points(axis, [i + 0.08 * (number - len(judges) / 2) for i in range(len(parts))], parts, name)
    axis.set_xticks(range(len(_PLOTTED)), [part.replace("held-out ", "held-out\n") for part in _PLOTTED])
    axis.set(ylabel="macro-F1", ylim=(0, 1.02))
    axis.legend(fontsize=8, ncols=4, loc="lower center")
    _save(drawn, folder / "macro-f1.png")

    families = next(iter(judges.values()))["families"]
    drawn, axis = plt.subplots(figsize=(9, 4), layout="constrained")
    for number, whose in enumerate(("known authors", "held-out authors")):
        places = [i + 0.2 * (number - 0.5) for i in range(len(families))]
        _points(axis, places, [one[whose] for one in families.values()], whose)
    axis.set_xticks(range(len(families)), list(families), rotation=35, ha="right", fontsize=8)
    axis.set(ylabel="recall", ylim=(-0.02, 1.02))
    axis.legend(fontsize=8)
    _save(drawn, folder / "families.png")

    if not (names := _calibrated(judges)):
        return
    drawn, axis = plt.subplots(figsize=(5, 4.5), layout="constrained")
    axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    for name in names:
        told, true, _ = zip(*judges[name]["calibration"]["curve"], strict=True)
        axis.plot(told, true, marker="o", label=name)
    axis.set(xlabel="probability of no defect", ylabel="share without defect")
    axis.legend(fontsize=8)
    _save(drawn, folder / "calibration.png")


def _points(axis: Any, places: Sequence[float], figures: Sequence[Mapping[str, Any]], name: str) -> None:
    there = [(x, one) for x, one in zip(places, figures, strict=True) if one["value"] is not None]
    values = [one["value"] for _, one in there]
    # A bootstrap's interval need not hold its estimate.
    errors = [
        [max(0.0, one["value"] - one["low"]) for _, one in there],
        [max(0.0, one["high"] - one["value"]) for _, one in there],
    ]
    axis.errorbar([x for x, _ in there], values, errors, fmt="o", markersize=4, capsize=2, label=name)


def _save(drawn: Any, path: Path) -> None:
    from matplotlib import pyplot as plt

    drawn.savefig(path, dpi=90)
    plt.close(drawn)
