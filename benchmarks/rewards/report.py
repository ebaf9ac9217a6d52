"""``report.md`` and its plot, from ``rewards.json``."""

import json
from pathlib import Path
from typing import Any

from ...envs.markdown import table
from ..figures import grid, save

RESULT = "rewards.json"
Figure = dict[str, float]


def write(folder: Path) -> Path:
    """Render the report of the folder's results."""
    found = json.loads((folder / RESULT).read_text())
    _plot(found, folder / "plots" / "rewards.png")
    path = folder / "report.md"
    path.write_text(_text(found))
    return path


def _text(found: dict[str, Any]) -> str:
    engine, judge, step = found["engine"], found["judge"], found["step"]
    alone = engine["function alone"]
    names = {name: "all at once" if name == "all" else f"`{name}`" for name in found["shipped"]}
    shipped = table(
        ["reward", "ms for 1,000 lists"], [[names[name], _ms(row)] for name, row in found["shipped"].items()]
    )
    low, share, high = (100 * step["share"][name] for name in ("low", "median", "high"))
    return "\n\n".join(
        [
            "# What rewards cost",
            f"{found['machine']}. Medians of {found['rounds']} calls or more, with [smallest, largest].",
            "## The engine's own time",
            f"{engine['samples']:,} samples of a reward that does nothing: {_ms(engine['engine'])} ms "
            f"through the engine, {_ms(alone)} ms by itself.",
            "## A judge that takes its time",
            f"{judge['samples']} samples, {judge['latency']:g} s each, {judge['concurrency']} at once: "
            f"{judge['median']:.3f} s [{judge['low']:.3f}, {judge['high']:.3f}]; no engine could take less "
            f"than {judge['least']:g} s.",
            "## In a training step",
            f"The demo's seven rewards on {step['samples']} answers, in {step['steps']} steps of its own "
            f"training behind a warm start of {step['warm_up']} steps, on a CPU: {_ms(step['rewards'])} ms "
            f"of a step of {step['step']['median']:.2f} s, {share:.2f} % [{low:.2f}, {high:.2f}].",
            "## One by one",
            shipped,
            "![Milliseconds for 1,000 lists](plots/rewards.png)\n",
        ]
    )


def _ms(row: Figure) -> str:
    return f"{1000 * row['median']:.2f} [{1000 * row['low']:.2f}, {1000 * row['high']:.2f}]"


def _plot(found: dict[str, Any], path: Path) -> None:
    figure, (axis,) = grid(1, 1, 6.0, 3.2)
    rows = {name: row for name, row in found["shipped"].items() if name != "all"}
    axis.barh(list(rows), [1000 * row["median"] for row in rows.values()])
    axis.invert_yaxis()
    axis.set(xlabel="ms for 1,000 lists")
    save(figure, path, ())
