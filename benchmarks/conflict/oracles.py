"""The constrained optimum of a problem whose reward table is known, and what each constraint costs there.

`linear_oracle` solves the linear programme over policies, `entropic_oracle` the convex dual if the objective
carries a KL term; `find_oracle` picks between them. Tables are `[context, action, reward]`, contexts weigh
the same, and a policy is `[context, action]`: nothing here knows how a policy is parametrised or trained.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, linprog, minimize
from scipy.special import logsumexp
from torch import Tensor

from recrl.rl.optimizer.problem import Problem, constraint_values, objective_values

Array = NDArray[np.float64]

# Distance that a bound is moved to read the price on its other side: far less than the pieces of J*(b) here.
_NEIGHBOUR = 1e-5


@dataclass(frozen=True)
class Oracle:
    """A constrained optimum.

    Args:
        objective: J*, KL term included.
        prices: lambda*_k, `[constraint]`, raw units, >= 0: gain of J* per unit by which bound k is relaxed.
        intervals: Lowest and highest optimal price, `[constraint, 2]`; they differ where J*(b) has a kink.
        policy: Probabilities that attain it, `[context, action]`.
    """

    objective: float
    prices: Array
    intervals: Array
    policy: Array


@dataclass(frozen=True)
class _Programme:
    """Programme max objective . pi subject to gains @ pi >= bounds, for a policy pi as one flat vector."""

    objective: Array  # [context, action], over the number of contexts
    gains: Array  # [constraint, context * action], signed, over the number of contexts
    bounds: Array  # [constraint], signed

    @classmethod
    def of(cls, problem: Problem, table: Tensor) -> Self:
        signs = np.array([float(c.sign) for c in problem.constraints])
        bounds = np.array([c.bound for c in problem.constraints])
        gains = constraint_values(problem, table).numpy() * signs / len(table)
        objective = objective_values(problem, table).numpy() / len(table)
        return cls(objective, gains.reshape(-1, len(signs)).T, signs * bounds)

    def solve(self, bounds: Array) -> OptimizeResult:
        some = len(bounds) > 0
        inequalities = {"A_ub": -self.gains, "b_ub": -bounds} if some else {}
        contexts, actions = self.objective.shape
        sums = np.kron(np.eye(contexts), np.ones(actions))
        return linprog(-self.objective.ravel(), **inequalities, A_eq=sums, b_eq=np.ones(contexts))


def find_oracle(
    problem: Problem, table: Tensor, beta: float = 0.0, reference: Tensor | None = None
) -> Oracle | None:
    """The optimum of `max E[R] - beta KL(pi || reference)`; None when no policy meets the constraints.

    Args:
        problem: Objective and constraints of kind mean or rate; margins are not part of what has to hold.
        table: Expected rewards, `[context, action, reward]`.
        beta: Weight of the KL term.
        reference: Log-probabilities, `[context, action]`; needed with beta > 0.
    """
    if beta == 0.0:
        return linear_oracle(problem, table)
    if reference is None:
        raise ValueError(f"{beta=} weighs the distance to a reference policy; give reference, or beta=0")
    return entropic_oracle(problem, table, beta, reference.numpy())


def linear_oracle(problem: Problem, table: Tensor) -> Oracle | None:
    """Linear programme over policies, by HiGHS; its marginals are the prices.

    At a kink of J*(b) every price between the slopes on both sides is optimal. The interval of constraint k
    is its price with its bound a little relaxed and tightened, infinite if no policy meets the latter.
    `prices` is the mean of all these neighbours, optimal too because optimal prices form a convex set.
    """
    programme = _Programme.of(problem, table)
    solved = programme.solve(programme.bounds)
    if not solved.success:
        return None
    intervals, neighbours = [], []
    for k, step in enumerate(np.eye(len(programme.bounds)) * _NEIGHBOUR):
        ends = []
        for bounds in (programme.bounds - step, programme.bounds + step):
            moved = programme.solve(bounds)
            prices = np.maximum(-moved.ineqlin.marginals, 0.0) if moved.success else None
            ends.append(np.inf if prices is None else prices[k])
            neighbours += [] if prices is None else [prices]
        intervals.append(ends)
    prices = np.mean(neighbours, axis=0) if neighbours else np.zeros(0)
    policy = solved.x.reshape(programme.objective.shape)
    return Oracle(-solved.fun, prices, np.array(intervals).reshape(-1, 2), policy)


def entropic_oracle(problem: Problem, table: Tensor, beta: float, reference: Array) -> Oracle | None:
    """Convex dual of the KL-regularised problem, by L-BFGS-B; its minimiser is unique.

    g(lam) = mean_x beta log sum_a ref exp((R + sum_k lam_k s_k r_k) / beta) - sum_k lam_k s_k b_k
    J* = min over lam >= 0 of g,      pi* ~ ref exp((R + sum_k lam*_k s_k r_k) / beta)
    """
    programme = _Programme.of(problem, table)
    if not programme.solve(programme.bounds).success:
        return None  # g would have no minimum
    contexts, count = len(table), len(programme.bounds)
    gains = programme.gains.reshape(-1, *programme.objective.shape) * contexts

    def tilted(lam: Array) -> tuple[Array, float]:
        energy = reference + (programme.objective * contexts + np.tensordot(lam, gains, 1)) / beta
        normaliser = logsumexp(energy, axis=1, keepdims=True)
        return np.exp(energy - normaliser), beta * normaliser.mean()

    def dual(lam: Array) -> tuple[float, Array]:
        policy, value = tilted(lam)
        return float(value - lam @ programme.bounds), programme.gains @ policy.ravel() - programme.bounds

    precise = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 10_000}
    solved = minimize(
        dual, np.full(count, 0.1), jac=True, bounds=[(0, None)] * count, method="L-BFGS-B", options=precise
    )
    intervals = np.stack([solved.x, solved.x], axis=1)
    return Oracle(float(solved.fun), solved.x, intervals, tilted(solved.x)[0])


def attainable(problem: Problem, table: Tensor, share: float) -> Array:
    """Bounds at a share of the way from the unconstrained optimum's values to the most that go together.

    Args:
        problem: Problem whose constraints name the values; all are lower bounds, their level plays no part.
        table: Expected rewards, `[context, action, reward]`.
        share: Share of the way; 0: met for free; 1: no policy goes further in the direction of each
            constraint's own maximum.

    Returns:
        Bounds `[constraint]`.
    """
    programme = _Programme.of(problem, table)
    contexts, actions = programme.objective.shape
    values = programme.gains.reshape(-1, contexts, actions)
    best = programme.objective.argmax(axis=1)
    free = values[:, np.arange(contexts), best].sum(axis=1)
    room = values.max(axis=2).sum(axis=1) - free
    sums = np.kron(np.eye(contexts), np.ones(actions))
    most = linprog(  # over the policy and t: the largest t with gains @ pi >= free + t room
        np.append(np.zeros(contexts * actions), -1.0),
        A_ub=np.hstack([-programme.gains, room[:, None]]),
        b_ub=-free,
        A_eq=np.hstack([sums, np.zeros((contexts, 1))]),
        b_eq=np.ones(contexts),
    )
    return free - share * most.fun * room
