"""Training of tabular policies with exact evaluation: one run of a rule on a known problem.

`TabularPolicy` is a softmax table, over arms or over the next token; `Run` steps it with sampled groups, the
duals and a rule, as a trainer would; `train` makes the record of one run.
"""

import time
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from recrl.rl.optimizer.advantages import AdvantageBatch
from recrl.rl.optimizer.duals import Duals
from recrl.rl.optimizer.problem import constraint_values, objective_values
from recrl.rl.optimizer.rules import Rule, find_rule
from recrl.rl.optimizer.settings import Credit

from .problems import KnownProblem
from .scores import score_policy

TRACE_POINTS = 30


class TabularPolicy:
    """Softmax over the choices in each state; an action is spelled by one choice in each state on its way.

    Args:
        known: Problem with contexts, actions, their spelling and the reference to start from.
    """

    def __init__(self, known: KnownProblem) -> None:
        contexts, actions, _ = known.table.shape
        self.choices, self.spelling = known.choices, None
        states, width = 1, actions
        if known.choices is not None:
            self.spelling = known.choices.flatten(1)
            _, states, width = known.choices.shape
            visits = known.choices.sum(dim=2) > 0
            ways = visits.sum(dim=1, keepdim=True).expand_as(visits).masked_fill(~visits, actions)
            # Number of choices before each state; the shortest way through it is the one that ends there.
            self.depths = ways.amin(dim=0) - 1
        self.logits = torch.zeros(contexts, states, width, dtype=torch.float64)
        if known.reference is not None:
            self.logits += known.reference[:, None, :]

    def log_probabilities(self) -> Tensor:
        """Log-probabilities `[context, action]`."""
        choices = self.logits.log_softmax(dim=2).flatten(1)
        return choices if self.spelling is None else choices @ self.spelling.T

    def choices_at(self, positions: int) -> Tensor:
        """Number of choices that an action makes after `position` others, 0 or 1, `[action, position]`."""
        assert self.choices is not None, "an action of one choice has no parts"
        return self.choices.sum(dim=2) @ torch.nn.functional.one_hot(self.depths, positions).double()

    def gradient(self, weights: Tensor) -> Tensor:
        """Gradient of `sum_a weights[context, a] log pi(a | context)` by the logits, of their shape.

        Weights `[context, action, position]` give each choice of an action a weight of its own.
        """
        if weights.ndim == 2:
            chosen = (weights if self.spelling is None else weights @ self.spelling).view_as(self.logits)
        else:
            assert self.choices is not None, "an action of one choice has no parts"
            chosen = torch.zeros_like(self.logits)
            for position, column in enumerate(weights.unbind(dim=2)):
                there = self.depths == position
                chosen[:, there] = torch.einsum("xa,asc->xsc", column, self.choices[:, there])
        return chosen - chosen.sum(dim=2, keepdim=True) * self.logits.softmax(dim=2)


class Run:
    """One rule on one problem, stepped batch by batch.

    Each step samples a group in every context, steps the duals, applies the rule and ascends the
    advantage-weighted log-likelihood. The gradient of the KL term is exact, so that a rule decides on nothing
    but its coefficient. The random numbers of a seed are the same for every rule.

    Checkpoint behaviour: `policy.logits`, `generator` and the state of `duals` are all that changes.
    """

    def __init__(self, known: KnownProblem, rule: Rule, seed: int, credit: Credit = "sequence") -> None:
        if credit == "tag" and known.running is None:
            raise ValueError(f"{credit=}: an action of {known.name!r} has no parts; use credit='sequence'")
        self.known, self.rule, self.policy, self.credit = known, rule, TabularPolicy(known), credit
        self.generator = torch.Generator().manual_seed(seed)
        self.duals = Duals(known.problem, known.duals, known.steps, rule.controller)
        self.rule_seconds = 0.0
        self._contexts = torch.arange(len(known.table))[:, None]
        self._objective = objective_values(known.problem, known.table)
        self._values = constraint_values(known.problem, known.table)

    def step(self) -> None:
        """Do one generation batch."""
        known, t = self.known, self.duals.generation + 1
        log_pi = self.policy.log_probabilities()
        pi = log_pi.exp()
        draws = self._random(len(pi), known.group_size)
        cumulated = pi.cumsum(dim=1)
        picked = torch.searchsorted(cumulated, draws * cumulated[:, -1:]).clamp(max=pi.shape[1] - 1)
        rewards = known.table[self._contexts, picked]
        if known.observed != (1.0,):
            dealt = torch.randperm(len(pi), generator=self.generator) % len(known.observed)
            share = torch.tensor(known.observed, dtype=torch.float64)[dealt, None, None]
            rewards = rewards.where(self._random(*rewards.shape) < share, torch.nan)

        start = time.perf_counter()
        self.duals.update(rewards.flatten(0, 1), known.group_size, generation=t)
        parts = self._parts(picked) if self.credit == "tag" else {}
        batch = AdvantageBatch(rewards, known.problem, self.duals.multipliers, self.duals.units, **parts)
        advantages = self.rule(batch)
        self.rule_seconds += time.perf_counter() - start

        values = advantages.values / known.group_size
        index = picked if values.ndim == 2 else picked[..., None].expand_as(values)
        weights = pi.new_zeros(*pi.shape, *values.shape[2:]).scatter_add_(1, index, values)
        if known.reference is not None:
            apart = log_pi - known.reference
            kl = (pi * apart).sum(dim=1, keepdim=True)
            weights -= known.beta * advantages.kl_scale * pi * (apart - kl)
        rate = known.rate * min(1.0, 2 * (1 - t / known.steps))
        self.policy.logits += rate * self.policy.gradient(weights)

    def _parts(self, picked: Tensor) -> dict[str, Tensor]:
        """Rewards of the first choices of each sample, and its number of choices at each position."""
        running = self.known.running
        assert running is not None, "checked on construction"
        choices = self.policy.choices_at(running.shape[2])
        return {"running": running[self._contexts, picked], "tokens": choices[picked]}

    def _random(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def evaluate(self) -> tuple[float, Tensor]:
        """Exact objective, KL term included, and values `[constraint]` of the policy as it stands."""
        log_pi = self.policy.log_probabilities()
        pi = log_pi.exp()
        objective = (pi * self._objective).sum(dim=1).mean()
        if self.known.reference is not None:
            objective -= self.known.beta * (pi * (log_pi - self.known.reference)).sum(dim=1).mean()
        return objective.item(), (pi[..., None] * self._values).sum(dim=1).mean(dim=0)


def train(known: KnownProblem, rule: Rule | str, seed: int, credit: Credit = "sequence") -> dict[str, Any]:
    """Train from scratch and score the last policy by its exact expectations.

    Args:
        known: Problem and the settings of its training.
        rule: Rule, or its name.
        seed: Seed of all random numbers.
        credit: Credit `sequence`, or `tag` where an action has parts.

    Returns:
        The record of the run, ready for JSON, constraints by name. Prices are means over the last fifth of
        the run. Multipliers, prices and the trace of prices are None per constraint for a rule without duals,
        and so is what needs an optimum if there is none. `rule_seconds` is the time that rule and duals took
        of `seconds`.
    """
    run = Run(known, find_rule(rule) if isinstance(rule, str) else rule, seed, credit)
    constraints, start = known.problem.constraints, time.perf_counter()
    signs = torch.tensor([float(c.sign) for c in constraints], dtype=torch.float64)
    bounds = torch.tensor([c.bound for c in constraints], dtype=torch.float64)
    traced = {round(k * (known.steps - 1) / (TRACE_POINTS - 1)) for k in range(TRACE_POINTS)}
    objectives, slacks, prices = [], [], []
    for t in range(known.steps):
        run.step()
        prices.append(run.duals.prices)
        if t in traced:
            objective, values = run.evaluate()
            objectives.append(objective)
            slacks.append(signs * (values - bounds))
    seconds = time.perf_counter() - start

    def by_name(numbers: Any) -> dict[str, Any]:
        columns = [None] * len(constraints) if numbers is None else numbers.tolist()
        return {c.name: column for c, column in zip(constraints, columns, strict=True)}

    multipliers = late_prices = price_trace = None
    if run.rule.uses_duals:
        multipliers = run.duals.multipliers
        late_prices = torch.stack(prices[-(known.steps // 5) :]).mean(dim=0)
        price_trace = torch.stack([prices[t] for t in sorted(traced)]).T
    objective, values = run.evaluate()  # the last step is traced too, so slacks[-1] are its slacks
    oracle = known.oracle
    result = score_policy(known.problem, oracle, objective, slacks[-1].numpy())
    return {
        "problem": known.name,
        "family": known.family,
        "rule": run.rule.name,
        "seed": seed,
        "steps": known.steps,
        "credit": credit,
        "objective": objective,
        "values": by_name(values),
        "slacks": by_name(slacks[-1]),
        "multipliers": by_name(multipliers),
        "prices": by_name(late_prices),
        "statuses": {c.name: run.duals.status(k) for k, c in enumerate(constraints)},
        "oracle": {
            "objective": oracle.objective if oracle else None,
            "prices": by_name(oracle.prices if oracle else None),
            "intervals": by_name(oracle.intervals if oracle else None),
        },
        **asdict(result),
        "seconds": seconds,
        "rule_seconds": run.rule_seconds,
        "trace": {
            "step": sorted(traced),
            "objective": objectives,
            "slacks": by_name(torch.stack(slacks).T),
            "prices": by_name(price_trace),
        },
    }
