"""A stage's results as a table. Each function reads a folder that a stage wrote, or a committed one.

``TABLES``  stage -> function of the folders of all stages that are there
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..rules.cells import FREE, GATE, HELD, LAGRANGIAN, SAMPLED, SFT, SUM, Cell, Chosen, Plan
from ..rules.execute import EPISODES, PLAN, read
from ..rules.summary import Episodes, pooled
from .base import BASELINES, BESIDE, cell_of, seeds_of
from .rows import Figure, Row, Table

Folders = Mapping[str, Path]

_MODES = {
    HELD: "recall@10, deployed, bounds held by prices",
    FREE: "recall@10, deployed without prices",
    SAMPLED: "recall of sampled lists",
}
_NAMES = {"base": "Base", SUM: "SUM", SFT: "SFT", GATE: "CRS", LAGRANGIAN: "lagrangian"}
_HR = {"base": 23.08, SUM: 27.38, SFT: 29.20, GATE: 32.60}
_STEPS = (
    ("base", SUM),
    ("base", SFT),
    (SUM, SFT),
    (SFT, GATE),
    (SUM, GATE),
    (SFT, LAGRANGIAN),
    (GATE, LAGRANGIAN),
)


def tags(folders: Folders) -> Table:
    """The order of the rules, of what is deployed with and without prices, and of sampled lists."""
    folder = folders["tags"]
    told = json.loads((folder / PLAN).read_text())
    plan, chosen = Plan(**told["plan"]), {arm: Chosen(*one) for arm, one in told["chosen"].items()}
    of_rules = Episodes(folder / EPISODES)
    runs = {
        arm: {seed: (of_rules, Cell(arm, *chosen[arm], seed)) for seed in plan.seeds}
        for arm in (SUM, SFT, GATE, LAGRANGIAN)
        if arm in plan.arms
    }
    about = [
        f"`recrl bench rules`: {_counted(len(plan.seeds), 'seed')}, one warm start a seed; 95 % intervals "
        "resample households and seeds, and differences are paired by episode and seed. The paper's figures "
        "are HR@30 of one next category; ours is recall@10 of the set that is bought in four weeks. At equal "
        "bounds methods compare under prices only: the first block is the one to read.",
    ]
    beside: dict[str, Any] = {}
    if base := folders.get("base"):
        with np.load(base / BESIDE) as found:
            beside = dict(found)
        of_base = Episodes(base / EPISODES)
        runs["base"] = {seed: (of_base, cell_of(seed)) for seed in seeds_of(base)}
        about.append(
            "*Base*, a general language model that is asked, has no equal here: our policy is made from "
            "nothing. What stands for it is the same tiny policy before its warm start, whose lists are "
            "drawn from the catalogue and so are next to random. It makes any order above it easy; "
            "`popularity` is the base to beat."
        )
    users = of_rules.users(runs[SFT][plan.seeds[0]][1])
    rows = []
    for mode, measure in _MODES.items():
        values = {
            arm: {seed: each.values(cell, mode, 0).astype(float) for seed, (each, cell) in of.items()}
            for arm, of in runs.items()
        }
        steps = [one for one in _STEPS if values.keys() >= set(one)]
        for name in beside:
            if BASELINES[name] == mode:
                values[name] = dict.fromkeys(plan.seeds, beside[name])
                steps += [(name, arm) for arm in (SFT, LAGRANGIAN) if arm in values]
        means = {arm: Figure.of(pooled([*one.values()], users)) for arm, one in values.items()}
        rows += [_step(low, high, values, means, users, measure) for low, high in steps]
    took = [record["seconds"]["whole"] for record in read(folder)]
    return Table("Tag prediction", about, rows, f"{sum(took) / 60:.0f} in {len(took)} runs, some at once")


def _step(
    low: str,
    high: str,
    values: Mapping[str, Mapping[int, Any]],
    means: Mapping[str, Figure],
    users: Any,
    measure: str,
) -> Row:
    """An order of two arms; their values ``[episode]`` by seed are paired."""
    told = low in _HR and high in _HR and measure == _MODES[HELD]
    apart = [values[high][seed] - values[low][seed] for seed in values[high] if seed in values[low]]
    return Row(
        f"{_NAMES.get(low, low)} < {_NAMES[high]}",
        measure,
        Figure.of(pooled(apart, users)),
        means[low],
        means[high],
        f"{_HR[low]:.2f} < {_HR[high]:.2f} HR@30" if told else "",
    )


def losses(folders: Folders) -> Table:
    """List-wise against point-wise training of a reward model, on pairs of known grades."""
    found = json.loads((folders["losses"] / "losses.json").read_text())
    plan, rows = found["plan"], []
    for name, first in (
        ("all pairs", True),
        ("plain truth over rich lie", False),
        ("superior over average", False),
    ):
        shares, apart = found["shares"][name], found["differences"][name]["point-wise"]
        rows += [
            Row(
                "point-wise < list-wise",
                f"{name} in the right order, held-out {part}",
                Figure.of(apart[part]),
                Figure.of(shares["point-wise"][part]),
                Figure.of(shares["list-wise"][part]),
                "31.24 < 32.60 HR@30, policies" if first else "",
            )
            for part in found["contexts"]
        ]
    about = (
        f"`recrl judge losses`: {_counted(plan['seeds'], 'seed')}, {plan['contexts']} contexts, "
        f"{plan['steps']} steps, a tiny model of {found['weights'] / 1e6:.2f} million weights; 95 % "
        "intervals over households. The paper compares policies that were trained on either reward; here the "
        "reward models themselves are, on texts whose grades are known by construction."
    )
    took = f"{sum(found['seconds'].values()) / 60:.0f} processor minutes, without the start"
    return Table("Reward model, list-wise against point-wise", [about], rows, took)


def quality(folders: Folders) -> Table:
    """Policies that were trained on either reward, graded by the agent judge."""
    found = json.loads((folders["quality"] / "quality.json").read_text())
    means, apart = found["means"], found["differences"]
    rows = []
    for measure, told in (("superior", "texts graded superior"), ("accepted", "texts without a defect")):
        for low, high, paper in (
            ("warm start", "list-wise", "+13.0 % acceptance"),
            ("point-wise", "list-wise", "37.64 < 40.73"),
            ("warm start", "point-wise", None),
        ):
            rows.append(
                Row(
                    f"{low} < {high}",
                    f"share of {told} by the agent judge",
                    Figure.of(apart[f"{high} - {low}"][measure]),
                    Figure.of(means[low][measure]),
                    Figure.of(means[high][measure]),
                    paper or "" if measure == "superior" else "",
                )
            )
    about = (
        f"One round of `recrl judge flywheel` for each loss: {_counted(len(found['seeds']), 'seed')}, "
        f"{found['rows']} texts each on unseen households, sampled; 95 % intervals resample households and "
        "seeds, and texts are paired by row and seed. The judge that grades is the one whose grades were "
        "distilled. Human agreement: not measured."
    )
    return Table("Explanations, quality", [about], rows)


def styled(folders: Folders) -> Table:
    """What a style guideline adds to the diversity of texts."""
    found = json.loads((folders["styled"] / "styled.json").read_text())
    means, apart = found["means"], found["differences"]
    rows = [
        Row(
            f"{other} < guided",
            "1 - ROUGE-L over the texts of an item",
            Figure.of(apart[other]["item_diversity"]),
            Figure.of(means[other]["item_diversity"]),
            Figure.of(means["guided"]["item_diversity"]),
            "0.631 < 0.677" if other == "no guideline" else "",
        )
        for other in apart
    ]
    about = (
        f"`recrl bench styled`: the trained writers of {_counted(found['runs'], 'seed')}, {found['rows']} "
        "unseen rows each; 95 % intervals over households. Guidelines are drawn at random, not written by a "
        "trained first stage. *Matched*: texts of the other writer that claim about as much."
    )
    return Table("Explanations, diversity by meta-prompting", [about], rows)


def judge(folders: Folders) -> Table:
    """The agent judge against a single prompt, on pairs of known defects."""
    found = json.loads((folders["judge"] / "judge.json").read_text())
    rows = [
        Row(
            "single prompt < agent judge",
            f"macro-F1, {part}",
            Figure.of(one),
            paper="above by little, below once" if part != "all held out" else "",
        )
        for part, one in found["differences"].get("single prompt", {}).items()
        if one["value"] is not None
    ]
    about = (
        f"`recrl judge bench`: {found['pairs']:,} pairs with a planted defect, seed {found['seed']}; 95 % "
        "intervals over households, on the texts that both judged. The agent judge's dimensions are checkers "
        "against the log, and the single prompt is a model of 135 million weights: what is compared is "
        "looking up against asking. Human agreement: not measured."
    )
    return Table("Agent judge", [about], rows)


def agents(folders: Folders) -> Table:
    """Planner, experts and arbiter against flat routes: overlap, what only one route finds, and tokens."""
    folder, rows = folders["agents"], []
    for track in ("category", "type"):
        found = json.loads((folder / f"union-{track}.json").read_text())
        means, apart, on = (
            found["means"],
            found["differences"]["flat routes"]["hierarchy"],
            f"track `{track}`",
        )
        flat, team = means["flat routes"], means["hierarchy"]
        rows += [
            Row(
                "hierarchy < flat routes",
                f"duplicate work, {on}",
                -Figure.of(apart["duplicate work"]),
                Figure.of(team["duplicate work"]),
                Figure.of(flat["duplicate work"]),
                "flat routes overlap by 13.46 %",
            ),
            Row(
                "flat routes < hierarchy",
                f"exclusive recall, {on}",
                Figure.of(apart["exclusive recall"]),
                Figure.of(flat["exclusive recall"]),
                Figure.of(team["exclusive recall"]),
                "9.39 < 10.99 %",
            ),
            Row(
                "one list < hierarchy",
                f"union recall, {on}",
                Figure.of(found["differences"]["one list"]["hierarchy"]["union recall"]),
                Figure.of(means["one list"]["union recall"]),
                Figure.of(team["union recall"]),
            ),
        ]
    ways = json.loads((folder / "reading-category.json").read_text())["ways"]
    team = ways["hierarchy"]
    for name, paper in (
        ("flat routes, unshared", "-60 % GPU, with hybrid"),
        ("flat routes, shared context", ""),
    ):
        for what in ("tokens", "seconds"):
            rows.append(
                Row(
                    f"hierarchy < {name}",
                    f"{what} to read a household, share saved",
                    _saved(team[what], ways[name][what]),
                    paper=paper,
                )
            )
    told = json.loads((folder / "settings.json").read_text())
    about = (
        f"`recrl bench agents`: up to {told['households']} unseen episodes a track, one scorer for all arms, "
        f"no language model; 95 % intervals over households, of costs over the {len(team['tokens'])} whose "
        "reading was measured. Random disjoint experts have no duplicate work either; the control for recall "
        "is one list of as many tags by the same scorer."
    )
    return Table("Planner and experts", [about], rows)


def _saved(less: Sequence[float], more: Sequence[float]) -> Figure:
    """Share of a cost that is saved, with an interval over households."""
    one, other = np.array(less, float), np.array(more, float)
    drawn = np.random.default_rng(0).integers(0, len(one), (2000, len(one)))
    low, high = np.quantile(1 - one[drawn].sum(1) / other[drawn].sum(1), [0.025, 0.975])
    return Figure(float(1 - one.sum() / other.sum()), float(low), float(high))


def hybrid(folders: Folders) -> Table:
    """One vector a product in place of its text: cost, and what it keeps."""
    found = json.loads((folders["hybrid"] / "evaluation.json").read_text())
    costs, recall, apart = found["costs"], found["recall"], found["differences"]
    text, slots = costs["full text"], costs["hybrid"]

    def saved(what: str, one: float, other: float, paper: str = "") -> Row:
        return Row("hybrid < full text", f"{what}, share saved", Figure(1 - one / other), paper=paper)

    rows = [
        saved("tokens of a prompt", slots["tokens"], text["tokens"], "32K -> 11K tokens"),
        *(
            saved(
                f"arithmetic of a {name}",
                slots[f"{name} arithmetic"]["total"],
                text[f"{name} arithmetic"]["total"],
                paper,
            )
            for name, paper in (("prefill", "-60 % GPU, with the planner"), ("step", ""))
        ),
        *(
            saved(f"seconds of a {name}", slots["seconds"][name], text["seconds"][name])
            for name in ("prefill", "step")
        ),
    ]
    for other in ("full text", "latest products", "most frequent products"):
        rows.append(
            Row(
                f"{other} < hybrid",
                found["headline"],
                Figure.of(apart[f"hybrid - {other}"]),
                Figure.of(recall[other]),
                Figure.of(recall["hybrid"]),
            )
        )
    rows.append(
        Row(
            "constant slot < hybrid", "share of the gap to full text", Figure.of(found["recovered"]["hybrid"])
        )
    )
    about = (
        f"`recrl hybrid`: one seed, a frozen model of {found['model']['weights'] / 1e6:.1f} million weights; "
        f"{found['episodes']:,} episodes, costs of {found['long']['episodes']:,} with "
        f"{found['long']['products']} products or more. 95 % intervals over households; costs are counted, "
        "seconds are medians: no interval. Truncated histories cost as many tokens as the hybrid prompt."
    )
    return Table("Hybrid representation", [about], rows)


def ab(folders: Folders) -> Table:
    """The simulated A/B test, relative to the first arm."""
    found = json.loads((folders["ab"] / "ab.json").read_text())
    (first, second), plan = (_party(folders, name) for name in found["arms"]), found["plan"]
    paper = {"CTR": "+2.98 %", "IPV": "+3.71 %", "TV": "+2.19 %", "NER": "+11.46 %"}
    rows = [
        Row(
            f"{first} < {second}",
            f"{metric}, relative to the left",
            Figure.of(one["difference"]).over(one["a"]["mean"]),
            Figure.of(one["a"]),
            Figure.of(one["b"]),
            paper.get(metric, "") if all(name in _NAMES.values() for name in (first, second)) else "",
            one["verdict"],
        )
        for metric, one in found["metrics"].items()
        if metric in paper or metric == "four-week return"
    ]
    real = found["fidelity"]["hazards"]["told apart"]
    about = (
        f"`recrl ab`: {plan['shoppers']:,} simulated shoppers, {plan['weeks']} weeks, "
        f"{_counted(plan['seeds'], 'seed')}; arms {first} and {second}; paired 95 % "
        "intervals over shoppers, in the base scenario. The paper's second arm is RecGPT-V2, the first V1. "
        f"A verdict is *robust* where the sign is the same in all {len(found['scenarios'])} scenarios and in "
        "a second simulator. A classifier tells simulated from real weeks with AUC "
        f"{Figure.of(real).shown()}. Clicks are an assumption; nothing here is a claim about live traffic."
    )
    return Table("A/B test in the simulated shop", [about], rows, f"{found['seconds'] / 60:.1f}")


def _party(folders: Folders, name: str) -> str:
    """How a party of the test is named: a run of the rules by its rule."""
    folder = Path(name).name
    if folder.startswith("warm_"):
        return _NAMES[SFT]
    return next((told for arm, told in _NAMES.items() if folder.startswith(f"{arm}_")), name)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


TABLES: Mapping[str, Callable[[Folders], Table]] = {
    "tags": tags,
    "losses": losses,
    "quality": quality,
    "styled": styled,
    "judge": judge,
    "agents": agents,
    "hybrid": hybrid,
    "ab": ab,
}
"""Stage -> its table, in the order of the report. The stage `base` is part of the table of `tags`."""
