"""The report of the benchmark: ``report.md`` and a PNG, from the files of its folder alone.

Every sentence with a number is generated from them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recrl.envs.markdown import code, table
from recrl.envs.statistics import Estimate

from .. import BenchmarkError
from . import plots, summary
from .cells import ARMS, FREE, HELD, LAGRANGIAN, MODES, SAMPLED, SFT, SUM, Cell, Chosen, Plan, Record
from .execute import EPISODES, PLAN, SETTINGS, read
from .summary import TOLERANCE, Episodes, Search

_NONE = "-"
_CREDIT = (
    "Rules other than `lagrangian` credit whole answers, since they cannot credit tags; *lagrangian, credit "
    "for whole answers* is the Lagrangian without that advantage."
)
_ORDER = (
    "RecGPT-V2 (arXiv 2512.14503) reports SUM < SFT < CRS: a weighted sum below its supervised start, the "
    "gate above it. The difference of the objective, right minus left, should be above 0. Without prices the "
    "rules hold the bounds to different degrees: only under prices do they compare at equal bounds."
)


def write(folder: Path) -> Path:
    """Render the report of a benchmark's folder; runs that are missing are left out.

    Returns:
        Path of ``report.md``.

    Raises:
        BenchmarkError: there are no results yet.
    """
    if not (folder / PLAN).exists():
        raise BenchmarkError(f"{folder / PLAN} is missing: the tuning has not ended; run the benchmark first")
    path = folder / "report.md"
    path.write_text(_Report(folder).text())
    return path


class _Report:
    """Report of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        found, settings = (json.loads((folder / name).read_text()) for name in (PLAN, SETTINGS))
        self._plan = Plan(**found["plan"])
        self._chosen = {arm: Chosen(*values) for arm, values in found["chosen"].items()}
        self._machine, self._config = settings["machine"], settings["config"]
        self._constraints: list[dict[str, Any]] = settings["constraints"]
        self._records: dict[Cell, Record] = {Cell.from_record(record): record for record in read(folder)}
        self._episodes = Episodes(folder / EPISODES)
        reported = [cell for cell in self._plan.reported(self._chosen) if cell in self._records]
        if not reported:
            raise BenchmarkError(f"{folder} has no run on the test split yet; run the benchmark first")
        self._arms = summary.of_arms(reported)
        self._arms = {arm: self._arms[arm] for arm in ARMS if arm in self._arms}
        self._objective = self._records[reported[0]]["objective"]

    def text(self) -> str:
        parts = ["# Rules on a real task", *self._setting()]
        for mode, title in MODES.items():
            parts += [f"## {title}", self._table(mode)]
            if mode == HELD:
                parts.append(self._plot())
        parts += [*self._order(), *self._tuning(), *self._search()]
        return "\n\n".join(parts) + "\n"

    def _setting(self) -> list[str]:
        train, machine = self._config["train"], self._machine
        total = len(self._plan.arms) * len(self._plan.seeds)
        missing = total - sum(map(len, self._arms.values()))
        told = f" **{missing} of {total} runs are missing.**" if missing else ""
        bounds = " and ".join(code(c["name"]) for c in self._constraints)
        optimizer = self._config["optimizer"]
        return [
            f"Configuration {code(self._config['name'])}: maximise {code(optimizer['objective'])} under "
            f"{bounds}. {train['steps']} steps of {train['prompts_per_step']} prompts x "
            f"{train['group_size']} answers for every rule, KL weight {train['kl']:g}, from one warm start a "
            f"seed; seeds {_listed(self._plan.seeds)}.{told} Deployed, the objective is "
            f"{code(self._objective)}. Margins and units of constraints are the configuration's.",
            _CREDIT if optimizer["credit"] == "tag" else "All rules credit whole answers.",
            "Values are means over users and seeds with 95 % intervals, for which both are resampled (one "
            "seed: users alone). *Less SFT* and *less lagrangian* are paired: same episodes, same seeds. A "
            "slack of 0 or more meets its bound; *met* counts the runs whose means meet every bound within "
            f"{TOLERANCE:g}.",
            f"Measured on {machine['cpu']}, {machine['cores']} cores, {self._jobs()} at once; torch "
            f"{machine['torch']}, transformers {machine['transformers']}, trl {machine['trl']}, recrl "
            f"{machine['recrl']}.",
        ]

    def _jobs(self) -> str:
        jobs = sorted({record["machine"]["jobs"] for record in self._records.values()})
        return f"{' or '.join(map(str, jobs))} run{'s' if jobs != [1] else ''}"

    def _table(self, mode: str) -> str:
        head = ["rule", self._objective if mode != SAMPLED else self._config["optimizer"]["objective"]]
        compared = [(arm, f"less {arm}") for arm in (SFT, LAGRANGIAN) if arm in self._arms]
        head += [title.replace("sft", "SFT") for _, title in compared]
        head += [f"slack of {code(c['name'])}" for c in self._constraints]
        rows = []
        for arm, cells in self._arms.items():
            row = [ARMS[arm].title, _interval(summary.of_column(self._episodes, cells, mode, 0))]
            for other, _ in compared:
                found = None
                if other != arm:
                    found = summary.difference(self._episodes, cells, self._arms[other], mode)
                row.append(_signed(found) if found is not None else _NONE)
            for column, constraint in enumerate(self._constraints, 1):
                row.append(_signed(summary.slack(self._episodes, cells, mode, column, constraint)))
            met = sum(summary.feasible(self._records[cell], self._constraints, mode) for cell in cells)
            row.append(f"{met} of {len(cells)}")
            row.append(_mean([self._records[cell]["seconds"]["training"] for cell in cells]))
            rows.append(row)
        return table([*head, "met", "training, s"], rows)

    def _plot(self) -> str:
        number = next((k for k, c in enumerate(self._constraints) if c["sign"] > 0), 0)
        shown, sign = self._constraints[number], self._constraints[number]["sign"]

        def value(cells: Sequence[Cell], mode: str) -> Estimate:
            return summary.of_column(self._episodes, cells, mode, number + 1)

        points = {
            arm: {
                mode: (value(cells, mode), summary.of_column(self._episodes, cells, mode, 0))
                for mode in (FREE, HELD)
            }
            for arm, cells in self._arms.items()
        }
        labels = {
            "objective": f"{self._objective} of deployed answers",
            "constraint": f"bound: {shown['name']}",
            "reward": f"{shown['reward']} of deployed answers ({'floor' if sign > 0 else 'ceiling'} dashed)",
            "bound": shown["bound"],
        }
        plots.deployed(points, labels, self._folder / "plots" / "deployed.png")
        return f"![{self._objective} against {shown['reward']}, with and without prices](plots/deployed.png)"

    def _order(self) -> list[str]:
        rows = []
        for mode, title in MODES.items():
            for step in summary.order(self._episodes, self._arms, mode):
                names = {SUM: "SUM", SFT: "SFT"}
                pair = f"{names.get(step.lower, 'CRS')} < {names.get(step.higher, 'CRS')}"
                rows.append([f"{title}: {pair}", _signed(step.difference), step.verdict])
        text = _ORDER
        if not rows:
            text = "Not checked: it needs `sft`, `weighted_sum` and `gate`."
        shown = [table(["order", "difference", "found"], rows)] if rows else []
        return ["## The order SUM < SFT < CRS", text, *shown]

    def _tuning(self) -> list[str]:
        plan, rows = self._plan, []
        for arm in plan.tuned():
            grid = plan.grid(arm)
            if len(grid) < 2:
                continue
            for values in grid:
                cell = Cell(arm, *values, plan.tuning_seed, "validation")
                if cell in self._records:
                    best = values == self._chosen[arm]
                    told = f"{self._records[cell]['means'][HELD][0]:.4f}"
                    rows.append([ARMS[arm].title, *_values(values), f"**{told}**" if best else told])
        if not rows:
            found = {ARMS[arm].title: values for arm, values in self._chosen.items() if values.rate}
            chosen = (f"{title}: {', '.join(_values(values))}" for title, values in found.items())
            return ["## Tuning", f"None: one value each (rate, weight). {'; '.join(chosen)}."]
        text = (
            f"One grid for all: learning rates {_listed(plan.rates)}, and for rules that add rewards up each "
            f"of them with weights {_listed(plan.weights)} on the constrained rewards (the objective weighs "
            f"1): {len(plan.weights)} times as many trials. One criterion for all: {code(self._objective)} "
            "of deployed answers with bounds held by prices, on the validation split, at seed "
            f"{plan.tuning_seed}, which is not reported. Bold: chosen."
        )
        return ["## Tuning", text, table(["rule", "rate", "weight", self._objective], rows)]

    def _search(self) -> list[str]:
        title = "## Time to a feasible policy"
        swept = self._plan.swept(self._chosen)
        if not swept or any(cell not in self._records for cell in swept):
            return [title, "Not measured: the sweep was left out, or has not ended."]
        rates = (self._chosen[LAGRANGIAN].rate, self._chosen[SUM].rate)
        text = (
            f"One run of the Lagrangian against TRL with a grid of weights {_listed(self._plan.sweep)} on "
            "the constrained rewards, from the same warm start. *TRL's GRPOTrainer* is TRL's own class with "
            "its own sampling. *Weighted sum (SUM)* is the same formula (a test compares them) in recrl's "
            "trainer, which reads each prompt once: runs compare the rules, seconds of these two the "
            f"trainers. A run has arrived when its means meet every bound within {TOLERANCE:g} and its "
            f"objective is within {TOLERANCE:g} of the best that any run of the seed reached so. *Runs until "
            "there* are in the grid's order; *over all orders* is their mean if the order is random. Seconds "
            "are of training and judging, without warm start, start of processes and tuning of the rate "
            f"(Lagrangian {rates[0]:g}, sums {rates[1]:g}). Whoever does not know the best beforehand does "
            "the whole grid."
        )
        parts = [title, text]
        for mode, name in MODES.items():
            tops, found = summary.searches(swept, self._records, self._constraints, mode)
            shown = {seed: "none" if top is None else f"{top:.3f}" for seed, top in tops.items()}
            best = ", ".join(f"{top} (seed {seed})" for seed, top in shown.items())
            head = ["by", "seed", "arrived", "runs until there", "over all orders"]
            head += ["seconds until there", "whole grid, s", "times the Lagrangian's"]
            parts += [f"### {name}", f"Best objective of a run that meets the bounds: {best}."]
            parts.append(table(head, [_row(one, found) for one in found]))
        return parts


def _row(one: Search, every: Sequence[Search]) -> list[str]:
    mine = next(other for other in every if (other.arm, other.seed) == (LAGRANGIAN, one.seed))
    ratio = _NONE
    if one is not mine and mine.until is not None:
        ratio = f"{'' if one.until else 'over '}{one.seconds / mine.seconds:.1f}"
    return [
        ARMS[one.arm].title,
        str(one.seed),
        f"{one.found} of {one.runs}",
        str(one.until) if one.until else "not reached",
        f"{one.expected:.1f}" if one.expected else _NONE,
        f"{one.seconds:.0f}" if one.until else f"not in {one.seconds:.0f}",
        f"{one.whole:.0f}",
        ratio,
    ]


def _values(values: Chosen) -> list[str]:
    return [_NONE if value is None else f"{value:g}" for value in values]


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _interval(found: Estimate) -> str:
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _signed(found: Estimate) -> str:
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.0f}"
