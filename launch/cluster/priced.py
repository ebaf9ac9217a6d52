"""Lists of a finished run as its server writes them, under the prices of its users as they are now."""

from pathlib import Path
from typing import cast

from ...envs.audience import Audience, AudienceError
from ...envs.storage.sealed import remove
from ...envs.task import Lines, Task, TaskError, evenly
from ...rl.decoding.known import Noted, note
from ..config.schema import RunConfig
from ..run.finished import Whom
from ..run.progress import Display
from ..run.recommending import FITTED_ON, Prices, Recommending, say_left_out


def know(config: RunConfig, task: Task, folder: Path, whom: Whom, known: Path, display: Display) -> None:
    """Fit prices on users as they are now, and write what their prompts favour.

    Args:
        folder: Folder of the policy.
        known: Folder that is made, see :mod:`recrl.rl.decoding.known`.

    Raises:
        TaskError, AudienceError, DataError: these users cannot be answered.
    """
    form = cast(Lines, task.form)
    known.mkdir()
    each = f"a served list names {form.count} different options"
    try:
        audience = task.audience(whom.at, whom.users)
    except (TaskError, AudienceError) as error:
        if whom != Whom():
            raise
        note(known, form, 0, [])
        display.say(f"{each}, under no prices: {error}")
        return
    say_left_out(audience, display)
    chosen = evenly(len(audience.names), whom.limit)
    fitted = [chosen[i] for i in evenly(len(chosen), FITTED_ON)]
    # The server is the only engine of vLLM here.
    own = config.model_copy(update={"rollout": config.rollout.model_copy(update={"engine": "transformers"})})
    asked = known.with_name("asked")
    answering = Recommending(own, task, audience, fitted, folder, asked, display)
    prices = answering.fit()
    noted = note(known, form, len(chosen), answering.portions(chosen, prices))
    remove(asked)
    display.say(f"{each}. {_told(prices, noted, audience)}")


def _told(prices: Prices, noted: Noted, audience: Audience) -> str:
    """What holds for whom, in a line."""
    when = f" as of {audience.origin}" if audience.origin is not None else ""
    # Where a choice was priced too, means are those of the lists that it chooses, which are not served.
    chosen = any(one.choice for one in prices.priced)
    lines = [one for one in prices.priced if one.price is not None and not one.choice]
    means = {one.name: "" if chosen else f" (mean {one.held:.3f})" for one in lines}
    held = [one.name + means[one.name] for one in lines if one.met]
    missed = [f"{one.name}{means[one.name]}: no price meets it" for one in lines if not one.met]
    missed += [f"{one.name}: it needs a choice among lists" for one in prices.priced if one.choice]
    missed += [f"{name}: {why}" for name, why in prices.why_not.items()]
    said = f"Those to the prompts of {noted.prompts:,} users{when} hold {', '.join(held) or 'no bound'}"
    if missed:
        said += f"; not held: {'; '.join(missed)}"
    if noted.shared:
        said += f"; {noted.shared:,} more share such a prompt, and get the list of its first user"
    return (
        f"{said}. A list to any other prompt is under no prices, and may name what a user is not to be shown"
    )
