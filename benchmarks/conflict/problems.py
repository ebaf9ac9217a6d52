"""Problems with a known answer: small tables of rewards whose constrained optimum can be computed.

    T0  knapsack: 20 contexts, 2 arms, one constraint; every context flips at a price of its own
    T1  contextual bandits, 16 contexts and 12 arms: spread of the objective, correlation, number of
        constraints, tightness and scale of the objective, each varied from one base
    T2  KL-regularised bandit, whose prices are unique
    T3  token-level toy recommender: up to 4 tokens out of 4, 341 sequences, 6 users, autoregressive policy
    T5  trouble: no feasible policy, an inactive constraint, missing rewards, ranks that see unequal counts

`suite` lists them by name. Optima come from `oracles`, training from `tabular`. T4 does not exist; T6, a
transformer, is no table.
"""

import itertools
import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from recrl.rl.optimizer.problem import Problem
from recrl.rl.optimizer.settings import DualConfig

from .oracles import Oracle, attainable, find_oracle


@dataclass(frozen=True, eq=False)
class KnownProblem:
    """A problem, its table of rewards and how every rule is trained on it: no rule has settings of its own.

    The units are near the spread that answers to one prompt have (T0, T1, T3: below it, which makes the
    controller quick), so that the default duals fit all of the problems.
    """

    name: str
    family: str
    problem: Problem
    table: Tensor
    """Expected rewards, `[context, action, reward]`, columns as in `problem.names`."""
    steps: int
    """Number of generation batches; each samples every context."""
    group_size: int
    rate: float
    """Learning rate of plain gradient ascent on the logits: constant for half of the run, then down to 0."""
    choices: Tensor | None = None
    """Spelling of an action by one choice in each state on its way, `[action, state, choice]` 0/1; None: an
    action is one choice in the only state."""
    running: Tensor | None = None
    """Rewards that an action's first `position` choices earn by themselves, `[context, action, position,
    reward]`, see `AdvantageBatch.running`; None: no credit per tag."""
    beta: float = 0.0
    """Weight of KL(pi || reference)."""
    reference: Tensor | None = None
    """Log-probabilities of the policy to start from and stay near, `[context, action]`; None: starts even."""
    observed: tuple[float, ...] = (1.0,)
    """Share of its rewards that each rank sees; contexts are dealt to the ranks anew each step."""
    duals: DualConfig = field(default_factory=DualConfig)

    @cached_property
    def oracle(self) -> Oracle | None:
        """The constrained optimum; None when no policy meets the constraints."""
        return find_oracle(self.problem, self.table, self.beta, self.reference)


def suite() -> dict[str, KnownProblem]:
    """Every problem by name, in the order of the families."""
    problems = [
        *(knapsack(bound) for bound in (0.3, 0.6, 0.9)),
        bandit("T1 base"),
        bandit("T1 equal spread", equal_spread=True),
        bandit("T1 corr -0.9", correlation=-0.9),
        bandit("T1 corr 0.5", correlation=0.5),
        bandit("T1 two constraints", constraints=2),
        bandit("T1 four constraints", constraints=4),
        bandit("T1 98%", share=0.98),
        bandit("T1 x100", scale=100.0),
        regularised_bandit("T2 one price", constraints=1),
        regularised_bandit("T2 two prices", constraints=2),
        recommender(),
        infeasible(),
        inactive(),
        bandit("T5 missing", family="T5", observed=(0.95,)),
        bandit("T5 unequal ranks", family="T5", observed=(0.125, 0.875)),
    ]
    return {known.name: known for known in problems}


def _knapsack_table(scale: float = 1.0) -> Tensor:
    v = (torch.arange(20, dtype=torch.float64) + 0.5) / 20
    nothing = torch.zeros_like(v)
    return torch.stack([nothing, 1 + nothing, scale * v, nothing], dim=1).unflatten(1, (2, 2))


def knapsack(bound: float, scale: float = 1.0) -> KnownProblem:
    """Knapsack: 20 contexts, arms (r, g) = (0, 1) and (v_x, 0), v uniform, E[g] >= bound: g where v is low.

    Args:
        bound: Bound of the constraint.
        scale: Scale of the reward and of its range, so that nothing but the price may change with it.
    """
    ranges = {"r": (0.0, scale), "g": (0.0, 1.0)}
    problem = Problem.build("r", [f"g >= {bound} (mean, unit=0.25)"], ranges, weights={"r": 1.0, "g": 1.0})
    return KnownProblem(f"T0 b={bound}", "T0", problem, _knapsack_table(scale), 600, 16, 0.5)


def _bandit_table(correlation: float, constraints: int, equal_spread: bool, scale: float) -> Tensor:
    """Table `[16, 12, 1 + constraints]`: uniform marginals, each constraint correlated with the objective."""
    generator = torch.Generator().manual_seed(7)
    # Drawn for four constraints whatever their number, so that variants differ in nothing else.
    normals = torch.randn(16, 12, 5, generator=generator, dtype=torch.float64)
    own = math.sqrt(1 - correlation**2)
    mixed = correlation * normals[..., :1] + own * normals[..., 1 : 1 + constraints]
    spread = torch.full((16,), 0.55) if equal_spread else torch.linspace(0.1, 1.0, 16)
    objective = torch.special.ndtr(normals[..., 0]) * spread[:, None].double() * scale
    return torch.cat([objective[..., None], torch.special.ndtr(mixed)], dim=2)


def _bandit_problem(table: Tensor, share: float, unit: float, scale: float = 1.0) -> Problem:
    names = [f"g{k}" for k in range(1, table.shape[2])]
    ranges = {"r": (0.0, scale), **dict.fromkeys(names, (0.0, 1.0))}
    lowest = Problem.build("r", [f"{name} >= 0 (mean)" for name in names], ranges)
    bounds = attainable(lowest, table, share)
    texts = [f"{name} >= {bound:.3f} (mean, unit={unit})" for name, bound in zip(names, bounds, strict=True)]
    return Problem.build("r", texts, ranges, scale / 4, weights=dict.fromkeys(ranges, 1.0))


def bandit(
    name: str,
    *,
    family: str = "T1",
    equal_spread: bool = False,
    correlation: float = -0.5,
    constraints: int = 1,
    share: float = 0.6,
    scale: float = 1.0,
    observed: tuple[float, ...] = (1.0,),
) -> KnownProblem:
    """Contextual bandit of 16 contexts and 12 arms; the defaults are the base of T1.

    Args:
        name: Name of the problem.
        family: Family T1, or T5 for trouble on the same table.
        equal_spread: Whether the objective spans .55 in all contexts; else from .1 in the first to 1.
        correlation: Correlation of constrained rewards with the objective over arms, before the marginals.
        constraints: Number of constraints, up to 4.
        share: Tightness of the bounds, see `oracles.attainable`.
        scale: Scale of the objective and its declared range.
        observed: Share of the rewards that each rank sees, see `KnownProblem`.
    """
    table = _bandit_table(correlation, constraints, equal_spread, scale)
    problem = _bandit_problem(table, share, 0.1, scale)
    return KnownProblem(name, family, problem, table, 800, 16, 0.4, observed=observed)


def regularised_bandit(name: str, constraints: int) -> KnownProblem:
    """The base bandit with a KL term to a reference that is not uniform: unique prices.

    Groups are larger than elsewhere: near the reference the policy keeps its spread. The noise of the sampled
    means then reaches the prices, which are to be read to 3 %.
    """
    table = _bandit_table(-0.5, constraints, False, 1.0)
    generator = torch.Generator().manual_seed(11)
    reference = torch.randn(16, 12, generator=generator, dtype=torch.float64).log_softmax(dim=1)
    problem = _bandit_problem(table, 0.5, 0.25)
    return KnownProblem(name, "T2", problem, table, 800, 64, 0.5, beta=0.1, reference=reference)


VOCABULARY, LONGEST, DISCOUNT = 4, 4, 0.8


def sequences() -> list[tuple[int, ...]]:
    """All answers of up to `LONGEST` tokens, the empty one first."""
    lengths = range(LONGEST + 1)
    return [answer for n in lengths for answer in itertools.product(range(VOCABULARY), repeat=n)]


def _spelling(answers: list[tuple[int, ...]]) -> Tensor:
    """Spelling `[answer, state, choice]`: a state is a prefix that may go on, a choice a token or the end."""
    prefixes = {answer: k for k, answer in enumerate(a for a in answers if len(a) < LONGEST)}
    spelling = torch.zeros(len(answers), len(prefixes), VOCABULARY + 1, dtype=torch.float64)
    for row, answer in enumerate(answers):
        for position, token in enumerate(answer):
            spelling[row, prefixes[answer[:position]], token] = 1
        if len(answer) < LONGEST:  # a full answer ends by itself
            spelling[row, prefixes[answer], VOCABULARY] = 1
    return spelling


def _running(table: Tensor, answers: list[tuple[int, ...]]) -> Tensor:
    """Rewards of the first tokens, `[user, answer, position, reward]`; a mean of p counts p / `LONGEST`."""
    row = {answer: k for k, answer in enumerate(answers)}
    first = [[row[answer[:position]] for position in range(LONGEST)] for answer in answers]
    running = table[:, torch.tensor(first)]
    running[..., 1:3] *= torch.arange(LONGEST)[:, None] / LONGEST
    return running


def recommender() -> KnownProblem:
    """Token-level toy recommender with an autoregressive policy; each constraint is at odds with accuracy.

    accuracy = sum_i 0.8^i acc[user, token_i], repetitions too; div = distinct tokens / tokens and rel = mean
    of rel[user, token_i], both 0 for an empty answer; len = tokens. Maximise accuracy with E[div] >= .75,
    E[rel] >= .6, 2 <= E[len] <= 3.
    """
    generator = torch.Generator().manual_seed(3)
    likes = torch.tensor([1.0, 0.8, 0.5, 0.2], dtype=torch.float64).expand(6, VOCABULARY)
    order = torch.rand(6, VOCABULARY, generator=generator, dtype=torch.float64).argsort(dim=1)
    noise = torch.rand(6, VOCABULARY, 2, generator=generator, dtype=torch.float64) - 0.5
    accuracy = (likes.gather(1, order) + 0.2 * noise[..., 0]).clamp(max=1.0)
    relevance = (1 - 0.45 * accuracy + 0.2 * noise[..., 1]).clamp(max=1.0)

    answers = sequences()
    table = torch.zeros(6, len(answers), 4, dtype=torch.float64)
    for row, answer in enumerate(answers[1:], start=1):
        discounts = DISCOUNT ** torch.arange(len(answer), dtype=torch.float64)
        table[:, row, 0] = (accuracy[:, answer] * discounts).sum(dim=1)
        table[:, row, 1] = len(set(answer)) / len(answer)
        table[:, row, 2] = relevance[:, answer].mean(dim=1)
        table[:, row, 3] = len(answer)

    highest = (1 - DISCOUNT**LONGEST) / (1 - DISCOUNT)
    problem = Problem.build(
        "accuracy",
        ["div >= 0.75 (mean, unit=0.2)", "rel >= 0.6 (mean, unit=0.1)", "len in [2, 3] (mean)"],
        {"accuracy": (0.0, highest), "div": (0.0, 1.0), "rel": (0.0, 1.0), "len": (0.0, LONGEST)},
        weights={"accuracy": 1.0, "div": 1.0, "rel": 1.0},
    )
    return KnownProblem(
        "T3",
        "T3",
        problem,
        table,
        1500,
        32,
        0.4,
        choices=_spelling(answers),
        running=_running(table, answers),
    )


def infeasible() -> KnownProblem:
    """The knapsack with both g and its opposite h at .8, which no policy can meet."""
    table = _knapsack_table()
    table = torch.cat([table, 1 - table[..., 1:]], dim=2)
    ranges = dict.fromkeys(("r", "g", "h"), (0.0, 1.0))
    texts = ["g >= 0.8 (mean)", "h >= 0.8 (mean)"]
    problem = Problem.build("r", texts, ranges, weights=dict.fromkeys(ranges, 1.0))
    return KnownProblem("T5 infeasible", "T5", problem, table, 600, 16, 0.5)


def inactive() -> KnownProblem:
    """The knapsack with an upper bound that the first policies break and the objective comes to meet."""
    ranges = {"r": (0.0, 1.0), "g": (0.0, 1.0)}
    problem = Problem.build("r", ["g <= 0.45 (mean, unit=0.25)"], ranges, weights={"r": 1.0, "g": -1.0})
    return KnownProblem("T5 inactive", "T5", problem, _knapsack_table(), 600, 16, 0.5)
