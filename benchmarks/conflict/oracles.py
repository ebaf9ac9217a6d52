"""The constrained optimum of a problem whose reward table is known, and what each constraint costs there.

`linear_oracle` solves the linear programme over policies, `entropic_oracle` the convex dual when the objective
carries a KL term; `find_oracle` picks between them. Tables are `[context, action, reward]`, contexts weigh the
same, and a policy is `[context, action]`, so that nothing here knows how a policy is parametrised or trained.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, linprog, minimize
from scipy.special import logsumexp
from torch import Tensor

from recrl.rl.constraints import Problem, constraint_values, objective_values

Array = NDArray[np.float64]

NEIGHBOUR = 1e-5
"""How far a bound is moved to read the price on its other side; far less than any piece of J*(b) here is wide."""


@dataclass(frozen=True)
class Oracle:
    """A constrained optimum.

    Args:
        objective: J*, KL term included.
        prices: lambda*_k, `[constraint]`, raw units, >= 0: what J* gains when bound k is relaxed by one unit.
        intervals: Lowest and highest optimal price, `[constraint, 2]`: J*(b) has a kink where they differ.
        policy: `[context, action]` probabilities that attain it.
    """

    objective: float
    prices: Array
    intervals: Array
    policy: Array


@dataclass(frozen=True)
class _Columns:
    objective: Array  # [context, action], divided by the number of contexts
    gains: Array  # [constraint, context * action], signed, divided too: the sum over a policy has to reach
    bounds: Array  # [constraint], signed

    @classmethod
    def of(cls, problem: Problem, table: Tensor) -> "_Columns":
        signs = np.array([float(c.sign) for c in problem.constraints])
        bounds = np.array([1.0 if c.kind == "gate" else c.bound for c in problem.constraints])
        values = constraint_values(problem, table).numpy() * signs / len(table)
        flat = values.reshape(-1, len(signs)).T
        return cls(objective_values(problem, table).numpy() / len(table), flat, signs * bounds)


def find_oracle(
    problem: Problem, table: Tensor, beta: float = 0.0, reference: Tensor | None = None
) -> Oracle | None:
    """The optimum of `max E[R] - beta KL(pi || reference)` under the constraints; None when no policy meets them.

    Args:
        problem: Objective and constraints; margins are not part of what has to hold.
        table: `[context, action, reward]`, expected rewards.
        beta: Weight of the KL term.
        reference: `[context, action]` log-probabilities; needed with beta > 0.
    """
    if beta == 0.0:
        return linear_oracle(problem, table)
    if reference is None:
        raise ValueError(f"beta={beta} weighs the distance to a reference policy; give reference, or beta=0")
    return entropic_oracle(problem, table, beta, reference.numpy())


def linear_oracle(problem: Problem, table: Tensor) -> Oracle | None:
    """Linear programme over policies (HiGHS): its marginals are the prices.

    At a kink of J*(b) every price between the slopes on both sides is optimal. The interval of constraint k is
    the price with its bound relaxed and tightened a little; `prices` is the mean of all these neighbours,
    which is optimal too because the optimal prices form a convex set.
    """
    columns = _Columns.of(problem, table)
    solved = _solve(columns, columns.bounds)
    if not solved.success:
        return None
    found = [-solved.ineqlin.marginals]
    intervals = np.empty((len(columns.bounds), 2))
    for k in range(len(columns.bounds)):
        for side, move in enumerate((-NEIGHBOUR, NEIGHBOUR)):
            bounds = columns.bounds.copy()
            bounds[k] += move
            neighbour = _solve(columns, bounds)
            intervals[k, side] = -neighbour.ineqlin.marginals[k] if neighbour.success else np.inf
            if neighbour.success:
                found.append(-neighbour.ineqlin.marginals)
    neighbours = found[1:] or found
    prices = np.maximum(np.mean(neighbours, axis=0), 0.0)
    return Oracle(-solved.fun, prices, np.maximum(intervals, 0.0), solved.x.reshape(columns.objective.shape))


def _solve(columns: _Columns, bounds: Array) -> OptimizeResult:
    contexts, actions = columns.objective.shape
    sums = np.kron(np.eye(contexts), np.ones(actions))
    return linprog(
        -columns.objective.ravel(),
        A_ub=-columns.gains if len(bounds) else None,
        b_ub=-bounds if len(bounds) else None,
        A_eq=sums,
        b_eq=np.ones(contexts),
        bounds=(0, 1),
        method="highs",
    )


def entropic_oracle(problem: Problem, table: Tensor, beta: float, reference: Array) -> Oracle | None:
    """Convex dual of the KL-regularised problem; its minimiser is unique.

        g(lam) = mean_x beta log sum_a ref exp((R + sum_k lam_k s_k r_k) / beta) - sum_k lam_k s_k b_k
        J* = min over lam >= 0 of g,      pi* ~ ref exp((R + sum_k lam*_k s_k r_k) / beta)
    """
    columns = _Columns.of(problem, table)
    contexts = len(columns.objective)
    gains = columns.gains.reshape(-1, *columns.objective.shape) * contexts

    def policy(lam: Array) -> tuple[Array, Array]:
        energy = reference + (columns.objective * contexts + np.tensordot(lam, gains, 1)) / beta
        normaliser = logsumexp(energy, axis=1, keepdims=True)
        return np.exp(energy - normaliser), beta * normaliser.mean()

    def dual(lam: Array) -> tuple[float, Array]:
        pi, value = policy(lam)
        return float(value - lam @ columns.bounds), columns.gains @ pi.ravel() - columns.bounds

    count = len(columns.bounds)
    start = np.full(count, 0.1)
    solved = minimize(
        dual,
        start,
        jac=True,
        bounds=[(0, None)] * count,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 10_000},
    )
    pi, _ = policy(solved.x)
    if np.any(columns.gains @ pi.ravel() < columns.bounds - 1e-5):
        return None  # the dual is unbounded below: it ran off without meeting the bounds
    return Oracle(float(solved.fun), solved.x, np.stack([solved.x, solved.x], axis=1), pi)


def attainable(problem: Problem, table: Tensor, share: float) -> Array:
    """Bounds at a share of the way from what the unconstrained optimum has to the most that all can have at once.

    Args:
        problem: Its constraints name the values; their bounds are ignored, all must be lower bounds.
        table: `[context, action, reward]`.
        share: 0 = met for free, 1 = no policy does better on all constraints together.

    Returns:
        `[constraint]` bounds.
    """
    columns = _Columns.of(problem, table)
    values = columns.gains.reshape(-1, *columns.objective.shape)
    best = columns.objective.argmax(axis=1)
    free = values[:, np.arange(len(best)), best].sum(axis=1)
    room = values.max(axis=2).sum(axis=1) - free
    contexts, actions = columns.objective.shape
    sums = np.hstack([np.kron(np.eye(contexts), np.ones(actions)), np.zeros((contexts, 1))])
    most = linprog(
        np.append(np.zeros(contexts * actions), -1.0),
        A_ub=np.hstack([-columns.gains, room[:, None]]),
        b_ub=-free,
        A_eq=sums,
        b_eq=np.ones(contexts),
        bounds=(0, 1),
    )
    return free - share * most.fun * room
