"""Runs of the benchmark: a rule with the values it is tuned by, a seed, and the split it is judged on.

``Arm``     a way to train: a rule of recrl, TRL's own trainer, or none
``Cell``    one run
``Plan``    runs that were asked for: tuning, then what is reported, then the sweep of weights
``Chosen``  values that tuning chose
``Job``     the judgement of one policy
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeAlias

from recrl.launch.config import plain_yaml
from recrl.launch.config.reading import dump, validate
from recrl.launch.config.schema import RunConfig

Split: TypeAlias = Literal["validation", "test"]
Record: TypeAlias = Mapping[str, Any]

SFT, TRL, LAGRANGIAN, SUM, GATE = "sft", "trl", "lagrangian", "weighted_sum", "gate"


@dataclass(frozen=True)
class Arm:
    """A way to train.

    Attributes:
        title: Name in the report.
        rule: Rule of `recrl.rl.optimizer.rules`; None: the warm start as it is.
        weighs: Whether it adds rewards up, so that a weight has to be tuned.
        credit: Part that answers for a reward; None takes the configuration's.
        stock: Whether TRL's own trainer runs it.
    """

    title: str
    rule: str | None
    weighs: bool = False
    credit: Literal["sequence"] | None = "sequence"
    stock: bool = False


ARMS = {
    SFT: Arm("SFT: the warm start", None, credit=None),
    "single": Arm("single reward", "single_reward"),
    SUM: Arm("weighted sum (SUM)", "weighted_sum", weighs=True),
    "gdpo": Arm("GDPO", "gdpo", weighs=True),
    GATE: Arm("gate (CRS)", "gate"),
    "scalarized_advantage": Arm("scalarised advantage", "scalarized_advantage"),
    "lagrangian_answers": Arm("lagrangian, credit for whole answers", "lagrangian"),
    LAGRANGIAN: Arm("lagrangian", "lagrangian", credit=None),
    TRL: Arm("TRL's GRPOTrainer", "weighted_sum", weighs=True, stock=True),
}
"""Ways to train, in the order of the report. Rules other than the Lagrangian credit whole answers only."""

RULES = tuple(name for name in ARMS if name != TRL)


class Chosen(NamedTuple):
    """Values by which an arm is tuned; None where it reads none."""

    rate: float | None
    weight: float | None


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        arm: Name of :data:`ARMS`.
        rate: Learning rate.
        weight: Weight of each constrained reward, in the direction of its bound; the objective weighs 1.
        seed: Seed of policy, warm start and training.
        split: Split that it is judged on.
    """

    arm: str
    rate: float | None
    weight: float | None
    seed: int
    split: Split = "test"

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Cell of a line of results."""
        return cls(**record["cell"])

    @property
    def name(self) -> str:
        """Name of its files."""
        values = [f"rate-{self.rate:g}"] if self.rate is not None else []
        values += [f"weight-{self.weight:g}"] if self.weight is not None else []
        return "_".join([self.arm, *values, f"seed-{self.seed}", self.split])

    def __str__(self) -> str:
        values = [f"rate {self.rate:g}"] if self.rate is not None else []
        values += [f"weight {self.weight:g}"] if self.weight is not None else []
        return ", ".join([self.arm, *values, f"seed {self.seed}", *_on(self.split)])

    def config(self, base: RunConfig) -> RunConfig:
        """Configuration of the run, its own evaluation cut short."""
        arm, tree = ARMS[self.arm], plain_yaml.read(dump(base))
        tree["seed"] = self.seed
        tree["evaluation"] |= {"max_episodes": _FEW, "answers_per_prompt": 1, "hold": "off"}
        if self.rate is not None:
            tree["train"]["learning_rate"] = self.rate
        if arm.rule is not None:
            tree["optimizer"]["rule"] = arm.rule
        if arm.credit is not None:
            tree["optimizer"]["credit"] = arm.credit
        if self.weight is not None:
            weights = self.weights(base)
            for entry in tree["rewards"]:
                entry["weight"] = weights[entry["name"]]
        return validate(tree, str(self))

    def weights(self, base: RunConfig) -> dict[str, float]:
        """Weight of each reward in a sum; 0 for one that is neither maximised nor held."""
        assert self.weight is not None, f"{self} weighs nothing"
        problem = base.problem()
        directions = {name: sign * self.weight for name, sign in problem.directions.items()}
        return {**directions, problem.objective: 1.0}


@dataclass(frozen=True)
class Job:
    """Work of a process that judges a policy, see :mod:`recrl.benchmarks.rules.answers`.

    Attributes:
        config: File of the benchmark's configuration.
        policy: Folder of the policy.
        split: Split that is answered.
        seed: Seed of the sampled answers.
        output: File of the judgement without its suffix: ``.json`` has means, ``.npz`` the episodes.
    """

    config: str
    policy: str
    split: Split
    seed: int
    output: str

    def save(self, path: Path) -> None:
        """Write it where the process reads it."""
        path.write_text(json.dumps(asdict(self)))


# Episodes of a run's own evaluation, which the benchmark does not read.
_FEW = 8


def _on(split: Split) -> list[str]:
    return [] if split == "test" else [split]


@dataclass(frozen=True)
class Plan:
    """Runs that were asked for.

    Attributes:
        arms: Names of :data:`ARMS` that are compared.
        seeds: Seeds that are reported.
        tuning_seed: Seed of the tuning, none of those.
        rates, weights: Grid on which every arm is tuned.
        sweep: Weights of the sweep that one Lagrangian run is compared with; none for no sweep.
        sweep_seeds: Seeds of the sweep.
    """

    arms: Sequence[str]
    seeds: Sequence[int]
    tuning_seed: int
    rates: Sequence[float]
    weights: Sequence[float]
    sweep: Sequence[float]
    sweep_seeds: Sequence[int]

    def grid(self, arm: str) -> list[Chosen]:
        """Values that an arm is tuned over."""
        if ARMS[arm].rule is None:
            return [Chosen(None, None)]
        weights = self.weights if ARMS[arm].weighs else [None]
        return [Chosen(rate, weight) for rate in self.rates for weight in weights]

    def tuned(self) -> list[str]:
        """Arms whose values have to be found; TRL's trainer takes those of the same rule."""
        needed = [*self.arms, *((SUM, LAGRANGIAN) if self.sweep else ())]
        return [arm for arm in dict.fromkeys(needed) if not ARMS[arm].stock]

    def tuning(self) -> list[Cell]:
        """Runs of the tuning; none for an arm without a choice."""
        return [
            Cell(arm, *values, self.tuning_seed, "validation")
            for arm in self.tuned()
            if len(self.grid(arm)) > 1
            for values in self.grid(arm)
        ]

    def reported(self, chosen: Mapping[str, Chosen]) -> list[Cell]:
        """Runs of every rule at its tuned values: all rules of a seed, then the next."""
        return [Cell(arm, *chosen[arm], seed) for seed in self.seeds for arm in self.arms]

    def swept(self, chosen: Mapping[str, Chosen]) -> list[Cell]:
        """One Lagrangian run, and sweeps over weights by the same rule on both trainers."""
        if not self.sweep:
            return []
        return [
            cell
            for seed in self.sweep_seeds
            for cell in (
                Cell(LAGRANGIAN, *chosen[LAGRANGIAN], seed),
                *(Cell(arm, chosen[SUM].rate, weight, seed) for arm in (SUM, TRL) for weight in self.sweep),
            )
        ]

    def choose(self, records: Mapping[Cell, Record]) -> dict[str, Chosen]:
        """Values of every arm: those of the largest objective that deployed answers with prices have on the
        validation split, the first of equals."""

        def judged(arm: str, values: Chosen) -> float:
            record = records[Cell(arm, *values, self.tuning_seed, "validation")]
            return float(record["means"][HELD][0])

        return {
            arm: max(grid, key=lambda values: judged(arm, values)) if len(grid) > 1 else grid[0]
            for arm in self.tuned()
            for grid in [self.grid(arm)]
        }

    def all(self) -> list[Cell]:
        """As many runs of each arm as the plan needs, with values of the grid where tuning has not chosen."""
        first = {arm: self.grid(arm)[0] for arm in self.tuned()}
        return list(dict.fromkeys([*self.tuning(), *self.reported(first), *self.swept(first)]))


SAMPLED, FREE, HELD = "sampled", "deployed", "held"
"""Ways in which a policy answers: sampled as in training, deployed by itself, deployed under prices."""

MODES = {
    HELD: "Deployed, bounds held by prices",
    FREE: "Deployed without prices",
    SAMPLED: "Sampled as in training",
}
"""Headings of the ways, in the order of the report."""

SECONDS = "seconds.json"
"""File in the folder of a run of TRL's trainer: the seconds of its training."""
