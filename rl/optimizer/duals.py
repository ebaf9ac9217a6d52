"""Dual variables: what each constraint costs at present, learned from how far it is from its bound.

`Duals` steps one multiplier per constraint once per generation batch with a PI controller, and reports slack,
price and status. `advantages` turns multipliers into a gradient. All runs in float64 on the CPU, from a
reward matrix that every rank holds in full, so that the ranks agree without communication.
"""

import hashlib
import json
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .groups import within_group
from .problem import Problem, Units, constraint_values, objective_values
from .settings import DualConfig
from .units import UnitCalibration

# Ways to step multipliers: "pi" is this package's controller, "log" is Safe-RLHF's (arXiv 2310.12773).
CONTROLLERS = ("pi", "log")
# Safe-RLHF's step and start: ln lam <- ln lam + 0.1 e, from lam = 1.
_LOG_STEP, _LOG_START, _LOG_LEAST = 0.1, 1.0, 1e-6
# Share of the running covariance between rewards that a generation batch keeps.
_COVARIANCE_MEMORY = 0.9


@dataclass(frozen=True)
class ConstraintReport:
    """State of one constraint; raw units unless stated."""

    name: str
    kind: str
    mean: float
    """Mean of the constrained value in the last generation that had any; a share for rate and gate."""
    bound: float
    """Bound on that mean in that generation, without margin; 1 for a gate."""
    slack: float
    """Signed distance of mean from bound; >= 0 means met."""
    multiplier: float
    """lam_k, normalised units."""
    price: float
    """lam_k u_R / u_k: objective gained per unit by which the bound is relaxed."""
    p: float
    i: float
    """Proportional and integral term; their sum, clipped, is the multiplier."""
    status: str
    """Status, see `Duals.status`."""
    attained: float
    """Best mean in the window: what to relax the bound to when it is infeasible."""
    competing: tuple[tuple[str, float], ...]
    """Objective and constraints with a positive multiplier that pull the other way, if infeasibility is
    suspected: each with its within-group correlation (recent batches, wanted directions), worst first."""

    def explanation(self) -> str:
        """Words for the user when infeasibility is suspected."""
        fights = ", ".join(f"{name} (correlation {value:+.2f})" for name, value in self.competing)
        return (
            f"{self.name} looks infeasible: the best it reached lately is {self.attained:.4g}, against a "
            f"bound of {self.bound:.4g}. "
            + (f"It fights {fights}. " if fights else "No other reward pulls against it. ")
            + f"Relax it to {self.attained:.4g} or less demanding, or relax what it fights"
        )


class Duals:
    """One multiplier per constraint, stepped by projected PI control once per generation batch.

        e_k   = clip(s_k (b_k + s_k margin_k - S_k/N_k) / u_k, -3, 3)         > 0 = violated; N_k = 0 -> hold
        xi_k <- nu xi_k + (1 - nu) e_k,        p_k = kp xi_k / (1 - nu^t)
        I_k  <- clip(I_k + ki e_k, 0, lam_max),     held while saturated at lam_max and e_k > 0
        lam_k = clip(I_k + p_k, 0, lam_max)

    kp is multiplied by the pace of the policy, its learning rate over the peak of that: a policy that hardly
    moves any more needs no damping, and the P term would only leave the noise of batches in the price.

    The integrator is projected dual ascent; the P term damps it as in PID Lagrangian methods (Stooke et al.
    2020, arXiv 2007.03964). Infeasibility is suspected when over the last `window` generations e_k never fell
    to the tolerance and did not improve by it from the first half to the second, while the constraints hold
    more than `pressure` of the gradient; that constraint's integrator then waits. Gates have no multiplier.
    With a schedule, b_k is the bound of the generation; a segment's mean is over its own samples.

    Checkpoint behaviour: `state_dict` holds all that `update` changes, floats in hexadecimal: a resumed run
    continues bit for bit. Settings are not in it, they come from the resuming run. A generation that was
    already stepped is skipped, so a resume never steps twice. The pace comes with each update.

    Args:
        problem: Objective and constraints.
        config: Settings of the controller.
        total_steps: Planned number of generation batches; sets the defaults of `ki` and `window`.
        controller: Name of `CONTROLLERS`; a rule names its own.
    """

    def __init__(
        self, problem: Problem, config: DualConfig, total_steps: int, controller: str = "pi"
    ) -> None:
        if controller not in CONTROLLERS:
            raise ValueError(f"unknown {controller=}; use one of {CONTROLLERS}")
        self.problem, self.config, self.controller = problem, config, controller
        self.ki, self.window = config.resolved(total_steps)
        self.kp = config.kp if controller == "pi" else 0.0
        constraints = problem.constraints
        self.step, self.generation, self._pace = 0, -1, 1.0
        self.calibration = UnitCalibration(problem, config.calibration_batches)
        self._sign = torch.tensor([float(c.sign) for c in constraints], dtype=torch.float64)
        self._is_dual = torch.tensor([c.kind != "gate" for c in constraints], dtype=torch.bool)
        self._start = self._is_dual * (_LOG_START if controller == "log" else 0.0)
        self._integral = self._start.double()
        self._smoothed = torch.zeros_like(self._sign)
        self._count = torch.zeros_like(self._sign)
        self._mean = torch.full_like(self._sign, torch.nan)
        self._observed = torch.zeros_like(self._is_dual)
        self._means: list[deque[float]] = [deque(maxlen=self.window) for _ in constraints]
        self._present = torch.zeros(1 + len(constraints), dtype=torch.float64)
        self._samples = torch.zeros(1, dtype=torch.float64)
        self._covariance = torch.zeros(1 + len(constraints), 1 + len(constraints), dtype=torch.float64)

    def start_from(self, multipliers: Tensor) -> None:
        """Begin at these multipliers, `[constraint]` in normalised units, before the first step."""
        if self.step:
            raise ValueError(f"the multipliers were stepped {self.step} times already; start before training")
        if multipliers.shape != self._integral.shape or not multipliers.isfinite().all():
            raise ValueError(
                f"multipliers to start from are {multipliers.tolist()}; give one finite number for each of "
                f"{len(self._integral)} constraints"
            )
        self._integral = multipliers.double().clamp(0.0, self.config.lam_max).where(self._is_dual, 0.0)

    def update(self, rewards: Tensor, group_size: int, generation: int, pace: float = 1.0) -> bool:
        """Step every multiplier once on one generation batch.

        Args:
            rewards: Scores of all ranks, `[sample, column]` (`Problem.columns`), groups contiguous; NaN or
                infinite = missing.
            group_size: Number of samples per prompt.
            generation: Index of the batch; one that is not above the last one stepped is skipped.
            pace: Learning rate of the policy over its peak, 0 to 1.

        Returns:
            Whether it stepped. A matrix that is not made of whole groups and all rewards is a ValueError.
        """
        self._pace = pace
        if generation <= self.generation:
            return False
        names = self.problem.columns
        if len(rewards) == 0 or len(rewards) % group_size or rewards.shape[1:] != (len(names),):
            raise ValueError(
                f"rewards have shape {tuple(rewards.shape)}; give [sample, column] with a multiple of "
                f"group_size={group_size} samples and the columns {names}"
            )
        rewards, cfg = rewards.detach().cpu(), self.config
        values = constraint_values(self.problem, rewards)
        columns = torch.cat([objective_values(self.problem, rewards)[:, None], values], dim=1)
        groups = columns.unflatten(0, (-1, group_size))
        self.calibration.observe(groups)
        self._observe_covariance(groups)
        self._present += columns.isfinite().sum(dim=0)
        self._samples += len(columns)

        finite = values.isfinite()
        count = finite.sum(dim=0)  # sums over counts, never means of means: ranks may hold unequal shares
        mean = values.where(finite, 0.0).sum(dim=0) / count
        raw_error = self._sign * (self._target(generation) - mean) / self.calibration.units[1:]
        live = self._is_dual & raw_error.isfinite()
        error = raw_error.clamp(-cfg.clip, cfg.clip)
        self._observed = count > 0
        self._mean = mean.where(self._observed, self._mean)
        self._count += live
        self._smoothed = (cfg.nu * self._smoothed + (1 - cfg.nu) * error).where(live, self._smoothed)
        for k in live.nonzero().flatten().tolist():
            self._means[k].append(mean[k].item())

        saturated = (self._integral + pace * self.kp * self._violation >= cfg.lam_max) & (error > 0)
        infeasible = torch.tensor([self._infeasible(k) for k in range(len(live))], dtype=torch.bool)
        if self.controller == "log":
            moved = (self._integral * (_LOG_STEP * error).exp()).clamp(_LOG_LEAST, cfg.lam_max)
        else:
            moved = (self._integral + self.ki * error).clamp(0.0, cfg.lam_max)
        self._integral = moved.where(live & ~saturated & ~infeasible, self._integral)
        self.step, self.generation = self.step + 1, generation
        return True

    def _target(self, generation: int) -> Tensor:
        """Bounds of that generation, tightened by their margins."""
        targets = [c.bound_at(generation) + c.sign * c.margin for c in self.problem.constraints]
        return torch.tensor(targets, dtype=torch.float64)

    def _observe_covariance(self, groups: Tensor) -> None:
        deviations, _ = within_group(groups)
        deviations = (deviations / self.calibration.units.nan_to_num(nan=1.0)).flatten(0, 1)
        batch = deviations.T @ deviations / len(deviations)
        self._covariance = _COVARIANCE_MEMORY * self._covariance + (1 - _COVARIANCE_MEMORY) * batch

    @property
    def _violation(self) -> Tensor:
        """Smoothed violation xi_k without the bias of its start at 0."""
        return (self._smoothed / (1 - self.config.nu**self._count)).where(self._count > 0, 0.0)

    @property
    def multipliers(self) -> Tensor:
        """Multipliers lam_k, `[constraint]` float64, normalised units, in [0, lam_max]; 0 for gates."""
        return (self._integral + self._pace * self.kp * self._violation).clamp(0.0, self.config.lam_max)

    @property
    def units(self) -> Units:
        """Units u_R and u_k; 1 where no variation was seen yet, which divides nothing but zeros.

        The coverage is that of all batches so far: that of one batch would be as noisy as its mean.
        """
        units = self.calibration.units.nan_to_num(nan=1.0)
        seen = (self._present / self._samples.clamp(min=1)).where(self._present > 0, 1.0)
        return Units(units[0].item(), units[1:], seen)

    @property
    def prices(self) -> Tensor:
        """Prices lam_k u_R / u_k, `[constraint]`: shadow prices in raw units, -dJ*/db_k for a lower bound."""
        return self.multipliers * self.units.objective / self.units.constraints

    def _infeasible(self, k: int) -> bool:
        total = self.multipliers.sum().item()
        if len(self._means[k]) < self.window or total / (1 + total) <= self.config.pressure:
            return False
        # Violations of the present bound, unclipped: far outside, progress must still show.
        sign, unit = self._sign[k].item(), self.calibration.units[1 + k].item()
        target = self._target(self.generation)[k].item()
        errors = [sign * (target - mean) / unit for mean in self._means[k]]
        half = len(errors) // 2
        improvement = sum(errors[:half]) / half - sum(errors[-half:]) / half
        return min(errors) > self.config.tolerance and improvement < self.config.tolerance

    def status(self, k: int) -> str:
        """Status of constraint k: slack, active, violated, saturated, infeasible_suspected or unobserved.

        unobserved: no value in the last generation, or no unit yet; infeasible_suspected: see the class;
        saturated: at lam_max; violated: smoothed violation of the bound (margin aside) over the tolerance;
        active: met at a positive multiplier; slack: met at multiplier 0. One failing response breaks a gate.
        """
        constraint, unit = self.problem.constraints[k], self.calibration.units[1 + k].item()
        if not self._observed[k] or math.isnan(unit):
            return "unobserved"
        if constraint.kind == "gate":
            return "slack" if self._mean[k] == 1 else "violated"
        if self._infeasible(k):
            return "infeasible_suspected"
        if self.multipliers[k] >= self.config.lam_max:
            return "saturated"
        if self._violation[k] - constraint.margin / unit > self.config.tolerance:
            return "violated"
        return "active" if self.multipliers[k] > 0 else "slack"

    def report(self) -> list[ConstraintReport]:
        """One row per constraint, in the order of the problem."""
        generation = max(self.generation, 0)
        constraints = self.problem.constraints
        lam, price, i = self.multipliers.tolist(), self.prices.tolist(), self._integral.tolist()
        rows = []
        for k, c in enumerate(constraints):
            bound = 1.0 if c.kind == "gate" else c.bound_at(generation)
            mean, status = self._mean[k].item(), self.status(k)
            p = self._pace * self.kp * self._violation[k].item()
            attained = c.sign * max((c.sign * seen for seen in self._means[k]), default=math.nan)
            others = self._competing(k) if status == "infeasible_suspected" else ()
            numbers = (mean, bound, c.sign * (mean - bound), lam[k], price[k], p, i[k])
            rows.append(ConstraintReport(c.name, c.kind, *numbers, status, attained, others))
        return rows

    def _competing(self, k: int) -> tuple[tuple[str, float], ...]:
        signs = torch.cat([torch.ones(1, dtype=torch.float64), self._sign])
        scale = self._covariance.diagonal().sqrt().clamp(min=1e-12)
        correlation = signs * self._covariance[1 + k] * signs[1 + k] / (scale * scale[1 + k])
        names = [self.problem.objective, *(c.name for c in self.problem.constraints)]
        pulls = [True, *(lam > 0 and j != k for j, lam in enumerate(self.multipliers.tolist()))]
        found = [(names[j], correlation[j].item()) for j, pull in enumerate(pulls) if pull]
        return tuple(sorted((pair for pair in found if pair[1] < 0), key=lambda pair: pair[1]))

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state; see the class."""
        fields = ("squares", "freedom", "batches")
        return {
            "spec": self.problem.spec_hash(),
            "step": self.step,
            "generation": self.generation,
            "names": [c.name for c in self.problem.constraints],
            "keys": [c.key for c in self.problem.constraints],
            "I": _to_hex(self._integral),
            "xi": _to_hex(self._smoothed),
            "count": _to_hex(self._count),
            "mean": _to_hex(self._mean),
            "observed": self._observed.tolist(),
            "means": [[mean.hex() for mean in means] for means in self._means],
            "units": {name: _to_hex(getattr(self.calibration, name)) for name in fields},
            "present": _to_hex(self._present),
            "samples": _to_hex(self._samples),
            "covariance": [_to_hex(row) for row in self._covariance],
        }

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Restore `state_dict`.

        Args:
            state: State of a run on the same problem.
            strict: False accepts a changed problem: a constraint that remains keeps its multiplier, even if
                its bound moved; a new one starts at 0; units and the infeasibility window start anew.

        Raises:
            ValueError: strict, and the problem changed.
        """
        same, constraints = state["spec"] == self.problem.spec_hash(), self.problem.constraints
        if strict and not same:
            raise ValueError(
                f"the saved multipliers belong to another problem: constraints {state['names']}, now "
                f"{[c.name for c in constraints]}, or objective, margins, units, weights differ; restore "
                f"them, or load with strict=False to keep the multipliers of constraints that remain"
            )
        zero, saved = (0.0).hex(), {key: j for j, key in enumerate(state["keys"])}

        def pick(field: str, default: Any) -> list[Any]:
            return [state[field][saved[c.key]] if c.key in saved else default for c in constraints]

        self.step, self.generation = state["step"], state["generation"]
        kept = torch.tensor([c.key in saved for c in constraints], dtype=torch.bool)
        self._integral = _from_hex(pick("I", zero)).where(kept, self._start.double())
        self._smoothed = _from_hex(pick("xi", zero))
        self._count, self._mean = _from_hex(pick("count", zero)), _from_hex(pick("mean", "nan"))
        self._observed = torch.tensor(pick("observed", False), dtype=torch.bool)
        self._means = [deque(maxlen=self.window) for _ in constraints]
        if same:  # constraints may have changed their order
            for means, kept in zip(self._means, pick("means", []), strict=True):
                means.extend(float.fromhex(mean) for mean in kept)
            order = [0] + [1 + saved[c.key] for c in constraints]
            for name, column in state["units"].items():
                setattr(self.calibration, name, _from_hex(column)[order])
            self._present, self._samples = _from_hex(state["present"])[order], _from_hex(state["samples"])
            covariance = torch.stack([_from_hex(row) for row in state["covariance"]])
            self._covariance = covariance[order][:, order]

    def fingerprint(self) -> str:
        """SHA-256 of the state, equal on all ranks unless they have drifted apart."""
        return hashlib.sha256(json.dumps(self.state_dict(), sort_keys=True).encode()).hexdigest()


def _to_hex(numbers: Tensor) -> list[str]:
    return [float(number).hex() for number in numbers]


def _from_hex(numbers: list[str]) -> Tensor:
    return torch.tensor([float.fromhex(number) for number in numbers], dtype=torch.float64)
