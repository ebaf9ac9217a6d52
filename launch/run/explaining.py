"""One explanation of a finished run, with what it claims and whether the data say so.

The text is written as in the run's report: greedy, or chosen among candidates, under the prices that were
fitted there.
"""

import datetime as dt
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from ...envs import task as tasks
from ...envs.audience import Audience
from ...rl.evaluation.hold import Priced
from ..config.schema import RunConfig
from .finished import finished_policy
from .progress import Display
from .recommending import Recommending

_POLICIES = {"trained": "trained", "warm": "warm start"}


def explain(config: RunConfig, user: str, item: str, at: dt.date | None, which: str) -> None:
    """Print a text, and each of its claims with whether it is true.

    Args:
        config: The run, its ``output`` the run's folder.
        user: Name of a user; ``item``: name of what is recommended.
        at: Day in place of the end of the data.
        which: ``trained`` or ``warm``.

    Raises:
        ConfigError: no such policy.
        TaskError, AudienceError: the task explains no items, or cannot answer this user.
    """
    folder, display = finished_policy(config.folder, which), Display()
    task = tasks.make(config.task, config.data).as_trained(config.folder)
    row = task.asked(user, item, at)
    audience = Audience([user], lambda numbers: [{**row} for _ in numbers], [*row])
    with TemporaryDirectory() as asked:
        writer = Recommending(config, task, audience, [0], folder, Path(asked), display)
        (text,) = writer.answers([row], _prices(config.folder, _POLICIES[which]))
    display.say(text)
    claims = task.grounds(row, text)
    for claim, true in claims:
        display.say(f"  {'true ' if true else 'FALSE'}  {claim}")
    if not claims:
        display.say("  it claims nothing that the data could say")


def _prices(run: Path, policy: str) -> list[Priced]:
    """Prices that the run's report found; none where it was not evaluated."""
    path = run / "evaluation.json"
    held = json.loads(path.read_text()).get("hold", {}) if path.is_file() else {}
    return [Priced(**one) for one in held.get(policy, {}).get("prices", ())]
