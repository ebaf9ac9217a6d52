"""Training of tabular policies with exact evaluation: one run of a rule on a known problem.

`TabularPolicy` is a softmax table, over arms or over the next token; `Run` steps it with sampled groups, the
duals and a rule, as a trainer would; `train` makes the record of one run.
"""

import time
from typing import Any

import torch
from torch import Tensor

from recrl.rl.advantages import AdvantageBatch, Rule, find_rule
from recrl.rl.constraints import constraint_values, objective_values
from recrl.rl.duals import Duals

from .problems import KnownProblem
from .scores import score_policy

TRACE_POINTS = 60


class TabularPolicy:
    """Softmax over the choices in each state; an action is the choices that spell it.

    Args:
        choices: `[action, state, choice]` 0/1; None when each action is one choice in one state.
        contexts: How many tables.
        actions: How many actions; the number of choices when `choices` is None.
    """

    def __init__(self, choices: Tensor | None, contexts: int, actions: int) -> None:
        self.spelling = None if choices is None else choices.flatten(1)
        states, width = (1, actions) if choices is None else choices.shape[1:]
        self.logits = torch.zeros(contexts, states, width, dtype=torch.float64)

    def log_probabilities(self) -> Tensor:
        """`[context, action]`."""
        steps = self.logits.log_softmax(dim=2).flatten(1)
        return steps if self.spelling is None else steps @ self.spelling.T

    def ascend(self, weights: Tensor, rate: float) -> None:
        """logits += rate * sum_a weights[context, a] * gradient of log pi(a | context)."""
        chosen = weights if self.spelling is None else weights @ self.spelling
        chosen = chosen.view_as(self.logits)
        self.logits += rate * (chosen - chosen.sum(dim=2, keepdim=True) * self.logits.softmax(dim=2))


class Run:
    """One rule on one problem, stepped batch by batch.

    Each step samples a group for every context, steps the duals, applies the rule and ascends; the gradient of the
    KL term is exact, so that only its coefficient depends on the rule. The random numbers of a seed are the
    same for every rule.

    Checkpoint behaviour: `policy.logits`, `generator` and the state of `duals` are all that changes.
    """

    def __init__(self, known: KnownProblem, rule: Rule, seed: int) -> None:
        self.known, self.rule = known, rule
        contexts, actions, _ = known.table.shape
        self.policy = TabularPolicy(known.choices, contexts, actions)
        if known.reference is not None:
            self.policy.logits = known.reference[:, None, :].clone()
        self.generator = torch.Generator().manual_seed(seed)
        self.duals = Duals(known.problem, known.duals, known.steps, rule.controller)
        self.rule_seconds = 0.0
        self._objective = objective_values(known.problem, known.table)
        self._values = constraint_values(known.problem, known.table)
        constraints = known.problem.constraints
        self._signs = torch.tensor([float(c.sign) for c in constraints], dtype=torch.float64)
        bounds = [1.0 if c.kind == "gate" else c.bound for c in constraints]
        self._bounds = torch.tensor(bounds, dtype=torch.float64)

    def step(self) -> None:
        """One generation batch."""
        known, t = self.known, self.duals.generation + 1
        log_pi = self.policy.log_probabilities()
        pi = log_pi.exp()
        contexts, actions = pi.shape
        draws = torch.rand(contexts, known.group_size, generator=self.generator, dtype=torch.float64)
        cumulated = pi.cumsum(dim=1)
        picked = torch.searchsorted(cumulated, draws * cumulated[:, -1:]).clamp(max=actions - 1)
        rewards = known.table[torch.arange(contexts)[:, None], picked]
        if known.observed != (1.0,):
            rewards = self._hide(rewards)

        start = time.perf_counter()
        self.duals.update(rewards.flatten(0, 1), known.group_size, generation=t)
        batch = AdvantageBatch(rewards, known.problem, self.duals.multipliers, self.duals.units)
        advantages = self.rule(batch)
        self.rule_seconds += time.perf_counter() - start

        weights = torch.zeros_like(pi).scatter_add_(1, picked, advantages.values / known.group_size)
        if known.reference is not None:
            ratio = log_pi - known.reference
            away = pi * (ratio - (pi * ratio).sum(dim=1, keepdim=True))
            weights -= known.beta * advantages.kl_scale * away
        self.policy.ascend(weights, known.rate * min(1.0, 2 * (1 - t / known.steps)))

    def _hide(self, rewards: Tensor) -> Tensor:
        """NaN where the rank that a context was dealt to lost a reward."""
        ranks = len(self.known.observed)
        dealt = torch.randperm(len(rewards), generator=self.generator) % ranks
        seen = torch.tensor(self.known.observed, dtype=torch.float64)[dealt]
        draws = torch.rand(rewards.shape, generator=self.generator, dtype=torch.float64)
        return rewards.where(draws < seen[:, None, None], torch.nan)

    def evaluate(self) -> tuple[float, Tensor]:
        """Exact objective, KL term included, and values `[constraint]` of the policy as it stands."""
        log_pi = self.policy.log_probabilities()
        pi = log_pi.exp()
        objective = (pi * self._objective).sum(dim=1).mean()
        if self.known.reference is not None:
            objective -= self.known.beta * (pi * (log_pi - self.known.reference)).sum(dim=1).mean()
        return objective.item(), (pi[..., None] * self._values).sum(dim=1).mean(dim=0)

    def slacks(self, values: Tensor) -> Tensor:
        """s_k (J_k - b_k), `[constraint]`; margins are not part of it."""
        return self._signs * (values - self._bounds)


def train(known: KnownProblem, rule: Rule | str, seed: int) -> dict[str, Any]:
    """Train from scratch and score the last policy by its exact expectations.

    Args:
        known: The problem and the settings of its training.
        rule: A rule, or its name.
        seed: Of all random numbers.

    Returns:
        The record of the run, ready for JSON. Multipliers, prices and their trace are None for a rule without duals,
        prices are the mean over the last fifth of the run.
    """
    rule = find_rule(rule) if isinstance(rule, str) else rule
    run, names = Run(known, rule, seed), [c.name for c in known.problem.constraints]
    start = time.perf_counter()
    traced = {round(k * (known.steps - 1) / (TRACE_POINTS - 1)) for k in range(TRACE_POINTS)}
    trace: dict[str, Any] = {"step": [], "objective": [], "slacks": [], "prices": []}
    late = torch.zeros(len(names), dtype=torch.float64)
    last_fifth = known.steps - known.steps // 5
    for t in range(known.steps):
        run.step()
        if t >= last_fifth:
            late += run.duals.prices / (known.steps - last_fifth)
        if t in traced:
            objective, values = run.evaluate()
            trace["step"].append(t)
            trace["objective"].append(objective)
            trace["slacks"].append(run.slacks(values).tolist())
            trace["prices"].append(run.duals.prices.tolist())
    seconds = time.perf_counter() - start

    def by_name(numbers: Tensor | Any) -> dict[str, Any]:
        return dict(zip(names, numbers.tolist(), strict=True))

    def column(rows: list[list[float]]) -> dict[str, Any]:
        return {name: [row[k] for row in rows] for k, name in enumerate(names)}

    objective, values = run.evaluate()
    slacks = run.slacks(values)
    result, oracle = score_policy(known.problem, known.oracle, objective, slacks.numpy()), known.oracle
    silent = dict.fromkeys(names)
    return {
        "problem": known.name,
        "family": known.family,
        "rule": rule.name,
        "seed": seed,
        "steps": known.steps,
        "objective": objective,
        "values": by_name(values),
        "slacks": by_name(slacks),
        "multipliers": by_name(run.duals.multipliers) if rule.uses_duals else silent,
        "prices": by_name(late) if rule.uses_duals else silent,
        "statuses": {name: run.duals.status(k) for k, name in enumerate(names)},
        "oracle": {
            "objective": oracle.objective if oracle else None,
            "prices": by_name(oracle.prices) if oracle else silent,
            "intervals": by_name(oracle.intervals) if oracle else silent,
        },
        "certificate": result.certificate,
        "violation": result.violation,
        "complementary": result.complementary,
        "score": result.score,
        "feasible": result.feasible,
        "seconds": seconds,
        "rule_seconds": run.rule_seconds,
        "trace": trace
        | {
            "slacks": column(trace["slacks"]),
            "prices": column(trace["prices"]) if rule.uses_duals else silent,
        },
    }
