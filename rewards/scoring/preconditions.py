"""What must hold of a reward's declaration and settings together, before anything is scored."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

from ...envs.storage import states
from ..base import PER_TAG, RewardSpecError
from .binding import LIVE, ONE, Call


def check_call(call: Call, resources: Collection[str]) -> None:
    """Check that settings do not exclude one another, and that a memory can be kept.

    Args:
        resources: Names of the engine's resources.

    Raises:
        RewardSpecError: one fails; the message names the reward, the setting and the fix.
    """
    reward, spec = call.reward, call.spec
    if not (call.named or call.sources.everything or reward.needs):
        hint = "" if spec.use.endswith("()") else f". If it makes the reward, write use: '{spec.use}()'"
        raise RewardSpecError(f"reward {reward.name!r} reads nothing: its params are all that it takes{hint}")
    _check_memory(call)
    if call.by_row and not {*ONE.values()}.isdisjoint(call.named):
        raise RewardSpecError(
            f"reward {reward.name!r} names one sample and many ({', '.join(call.named)}); read either prompt "
            "and completion, or prompts and completions"
        )
    if reward.per == "tag_mean" and "slots" not in resources:
        raise RewardSpecError(f"reward {reward.name!r}: per='tag_mean' needs the resource 'slots'; pass it")
    if reward.per in PER_TAG and (
        "answers" not in call.named or not {"completions", "completion_ids"}.isdisjoint(call.named)
    ):
        raise RewardSpecError(
            f"reward {reward.name!r}: per={reward.per!r} needs a function that reads the parsed 'answers' "
            "and neither completions nor completion_ids, since it is called on the first tags of an answer; "
            f"it reads: {', '.join(call.named)}. Use per='sample'"
        )
    if reward.per in PER_TAG and call.is_async:
        raise RewardSpecError(
            f"reward {reward.name!r}: per={reward.per!r} would call an async function once for each tag of "
            "an answer; make it a plain function, or use per='sample'"
        )
    if reward.per == "group" and call.by_row:
        raise RewardSpecError(
            f"reward {reward.name!r}: per='group' compares the samples of a group, but the function scores "
            "one 'completion' a call; let it take 'completions', or use per='sample'"
        )
    if reward.per == "group" and spec.batch_size is not None:
        raise RewardSpecError(
            f"reward {reward.name!r}: batch_size={spec.batch_size} with per='group', whose calls are one "
            "group each; leave it out"
        )
    if spec.workers and call.is_async:
        raise RewardSpecError(
            f"reward {reward.name!r}: workers={spec.workers} of an async function, which waits in this "
            "process; set concurrency, or make it a plain function"
        )
    if spec.thread is not None and call.is_async:
        raise RewardSpecError(
            f"reward {reward.name!r}: thread={spec.thread} of an async function, which runs on the event "
            "loop; leave it out"
        )
    if spec.thread == "main":
        for setting, given in (
            ("timeout", spec.timeout is not None),
            ("workers", spec.workers > 0),
            ("concurrency", (spec.concurrency or 1) > 1),
        ):
            if given:
                value = getattr(spec, setting)
                raise RewardSpecError(
                    f"reward {reward.name!r}: thread=main and {setting}={value:g}, which the trainer's "
                    "thread cannot give; leave one of them out"
                )
    if spec.workers and spec.concurrency:
        raise RewardSpecError(
            f"reward {reward.name!r}: workers={spec.workers} and concurrency={spec.concurrency}; a worker "
            "makes one call at a time: leave concurrency out"
        )
    live = set(LIVE).intersection(call.sources.resources)
    if spec.workers and live:
        raise RewardSpecError(
            f"reward {reward.name!r} reads {min(live)!r}, which its workers={spec.workers} processes would "
            "not see change; use workers: 0"
        )
    if spec.cache and live:
        raise RewardSpecError(
            f"reward {reward.name!r} reads {min(live)!r}, which changes, so cached scores would be stale; "
            "set cache: false"
        )
    if "log_extra" in live and (spec.concurrency or 1) > 1:
        raise RewardSpecError(
            f"reward {reward.name!r} reads 'log_extra', whose entries stand beside the samples in their "
            f"order; concurrency={spec.concurrency} would mix them up: leave it out"
        )


def beyond_serving(call: Call, outcomes: Collection[str]) -> str | None:
    """Why a reward cannot be computed for an answer that is shown, before its outcome; None if it can.

    Args:
        outcomes: Columns that hold outcomes.
    """
    if call.reward.serving is False:
        return "is declared serving: false"
    read = {*call.sources.columns, *call.sources.resources}
    if seen := sorted(read.intersection(outcomes)):
        return f"reads the outcome ({', '.join(seen)})"
    if call.sources.everything and outcomes and not call.reward.serving:
        return "takes **kwargs and so may read the outcome; name what it reads, or declare serving: true"
    if call.reward.per == "group":
        return "compares several answers to a prompt"
    if call.stateful:
        return "remembers earlier answers"
    if live := sorted(read.intersection(LIVE)):
        return f"reads {', '.join(live)}, which a training alone has"
    return None


def check_serving(call: Call, outcomes: Collection[str]) -> None:
    """Check a reward that is declared computable when answers are served.

    Raises:
        RewardSpecError: what it reads, compares or remembers says that it is not.
    """
    if call.reward.serving and (why := beyond_serving(call, outcomes)):
        raise RewardSpecError(
            f"reward {call.reward.name!r}: serving=True, but it {why}; an answer is served alone and before "
            "its outcome, so leave serving out"
        )


def unsaved(name: str, state: Any) -> str | None:
    """Why the state of a reward cannot be saved in a checkpoint; None if it can."""
    why = states.fault(state)
    if why is None:
        return None
    return (
        f"reward {name!r}: its state_dict() cannot be saved: {why}. Return what is made of {states.KEPT}, "
        "and make the rest of it again in load_state_dict"
    )


def _check_memory(call: Call) -> None:
    """Check that a memory of samples can be saved, and holds the same ones whatever is set."""
    reward, spec, target = call.reward, call.spec, call.target
    if inspect.isroutine(target):
        return
    learns = hasattr(target, "update")
    lacking = [n for n in ("state_dict", "load_state_dict") if not hasattr(target, n)]
    if (learns or call.stateful) and lacking:
        raise RewardSpecError(
            f"reward {reward.name!r} remembers samples ({'update' if learns else 'state_dict'}) but has no "
            f"{' and no '.join(lacking)}, so that a resume would forget them; add what is lacking"
        )
    if call.stateful:
        try:
            state = target.state_dict()
        except Exception as error:
            raise RewardSpecError(f"reward {reward.name!r}: its state_dict() raised {error!r}") from error
        if why := unsaved(reward.name, state):
            raise RewardSpecError(why)
    if call.update is not None and inspect.iscoroutinefunction(call.update[0]):
        raise RewardSpecError(
            f"reward {reward.name!r}: update is an async function, which nobody awaits; make it a plain one"
        )
    if call.stateful and (spec.workers or spec.cache or (spec.concurrency or 1) > 1):
        raise RewardSpecError(
            f"reward {reward.name!r} remembers samples (it has a state_dict): workers, cache and concurrency "
            "would each show it others; leave them out"
        )
    if call.stateful and call.update is None and reward.per in PER_TAG:
        raise RewardSpecError(
            f"reward {reward.name!r}: per={reward.per!r} is called on the first tags of answers too, which "
            "it would remember as answers; let __call__ only read, and update add the answers"
        )
