"""Engine and problem from a script's reward functions, objective and constraints, in TRL's words."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from datasets import Dataset, IterableDataset
from torch import nn
from trl import GRPOConfig

from ...rewards import Reward, RewardEngine, RewardSpec, RewardSpecError
from ...rewards.registry import as_reward, resolve_all
from ...rewards.scoring.binding import BATCH, LIVE, derived_by
from ..goal import state
from ..optimizer.constraints import Constraint
from ..optimizer.problem import Problem

RewardLike = Callable[..., Any] | Reward | RewardSpec | Mapping[str, Any] | str
"""A function or class with ``@reward``, a Reward, a config entry, or the name of a registered reward."""

# Rules that add rewards up, each by a weight.
_ADDING_UP = ("weighted_sum", "gdpo", "gd2po", "dvao")

# Name that rewards may read besides the columns of the data, where an environment plays along.
ENVIRONMENTS = "environments"


def stated(
    rewards: RewardLike | Sequence[RewardLike] | RewardEngine | None,
    objective: str | Problem | None,
    constraints: Sequence[str | Constraint],
    rule: str,
    args: GRPOConfig,
    *,
    columns: Iterable[str],
    resources: Mapping[str, Any],
    environments: bool,
    open_ended: bool,
) -> tuple[RewardEngine, Problem]:
    """Engine and problem of a trainer, from a script's words or as they are given.

    Args:
        rewards: One reward, several, or an engine.
        objective: Name of the reward to maximise, optional if there is one; or the whole problem.
        constraints: Constraints on the rewards.
        rule: Name of the advantage rule.
        args: TRL's arguments, which may weigh rewards.
        columns: Columns of the training data.
        resources: Objects that rewards may name as a parameter.
        environments: Whether rewards may read the environment of each sample.
        open_ended: Whether samples carry further columns, not known yet.

    Raises:
        RewardSpecError: a reward declares no range, cannot be found, or reads what nothing provides.
        ValueError: no objective among several rewards, a problem over other rewards than the engine's, or
            what :func:`recrl.rl.goal.state` refuses.
    """
    if isinstance(rewards, RewardEngine):
        engine = rewards
    else:
        engine = _engine(rewards, columns, resources, environments, open_ended)
    weights = weights_of(args, engine.names, rule)
    if isinstance(objective, Problem):
        if constraints or weights:
            raise ValueError("constraints and reward_weights are parts of the problem that objective is")
        if engine.names != objective.names:
            raise ValueError(
                f"the engine scores {engine.names}, but the problem is over {objective.names}; make them "
                "equal"
            )
        return engine, objective
    if objective is None:
        if len(engine.names) > 1 and rule not in _ADDING_UP:
            raise ValueError(
                f"objective: say which of {', '.join(engine.names)} is maximised, and hold others by "
                f"constraints such as '{engine.names[-1]} >= 0.5 (mean)'; or take rule='weighted_sum'"
            )
        objective = engine.names[0]
    return engine, state(engine.rewards, objective, constraints, weights=weights)


def _engine(
    rewards: RewardLike | Sequence[RewardLike] | None,
    columns: Iterable[str],
    resources: Mapping[str, Any],
    environments: bool,
    open_ended: bool,
) -> RewardEngine:
    given: list[Any] = list(rewards) if isinstance(rewards, list | tuple) else [rewards]
    if given in ([], [None]):
        hint = "; get_reward of an environment has no range, see docs/trainer.md" if environments else ""
        raise RewardSpecError(f"reward_funcs names no reward; give the objective at least{hint}")
    for reward in given:
        if isinstance(reward, nn.Module):
            name = getattr(getattr(reward, "config", None), "name_or_path", None) or "path-or-hub-name"
            raise RewardSpecError(
                f"reward_funcs: a {type(reward).__name__} scores as recrl's reward_model, which loads it: "
                f"write {{'name': 'quality', 'use': 'reward_model', 'params': {{'model': {name!r}}}}}"
            )
    specs = [as_reward(reward) for reward in given]
    known = [name for name in columns if name not in ("prompt", "completion")]
    known += ["completion_ids", *([ENVIRONMENTS] if environments else [])]
    everything = {**dict.fromkeys(LIVE), **resources}
    if open_ended:
        there = {*BATCH, *derived_by(resources), *known, *everything}
        known += [name for name in _read(resolve_all(specs)) if name not in there]
    return RewardEngine(specs, resources=everything, columns=list(dict.fromkeys(known)))


def columns_of(data: Dataset | IterableDataset | None) -> list[str]:
    """Columns of training data; of a stream without declared ones, those of its first row."""
    if data is None:
        return []
    return list(data.column_names or next(iter(data)))


def weights_of(args: GRPOConfig, names: Sequence[str], rule: str) -> dict[str, float]:
    """TRL's weights of the rewards, for the rules that add them up.

    Raises:
        ValueError: TRL's settings contradict the rule on how rewards become advantages.
    """
    own = {"gdpo": "normalize_then_sum"}.get(rule, "sum_then_normalize")
    if args.multi_objective_aggregation not in ("sum_then_normalize", own):
        raise ValueError(
            f"multi_objective_aggregation={args.multi_objective_aggregation!r}: the rule says how rewards "
            "are combined; leave it out, and take rule='gdpo' for this one"
        )
    if args.scale_rewards != "group":
        raise ValueError(
            f"scale_rewards={args.scale_rewards!r}: the rule {rule!r} says how advantages are scaled; leave "
            "it out"
        )
    if args.reward_weights is None:
        return {}
    if rule not in _ADDING_UP:
        raise ValueError(
            f"reward_weights={args.reward_weights}: the rule {rule!r} learns a price for each constraint; "
            "leave them out, or take rule='weighted_sum'"
        )
    if len(args.reward_weights) != len(names):
        raise ValueError(
            f"reward_weights={args.reward_weights} for {len(names)} rewards ({', '.join(names)}); give one "
            "weight for each"
        )
    return dict(zip(names, args.reward_weights, strict=True))


def _read(rewards: Iterable[Reward]) -> list[str]:
    """Parameters of rewards that have no default."""
    found: dict[str, None] = {}
    for reward in rewards:
        function = reward.function.__call__ if isinstance(reward.function, type) else reward.function
        for name, parameter in inspect.signature(function).parameters.items():
            fixed = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            if fixed and parameter.default is parameter.empty and name != "self":
                found[name] = None
    return list(found)
