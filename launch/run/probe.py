"""Every reward is asked before anything is trained, so that a broken one is not met after the warm start."""

from collections.abc import Sequence

from ...envs.task import Lines
from ...rewards import RewardEngine, RewardSpec
from .drafts import Asked, awkward, drafted, resources_of
from .setup import Setup

# Drafts that plain functions are asked about; what waits for another machine gets one question.
_PROMPTS, _ANSWERS = 8, 4
# Words of a line.
_WORDS = 10
# Seconds for that question, where an entry does not set its own.
_PATIENCE = 25.0


def probe(setup: Setup) -> None:
    """Score drafts with every reward of a run, and odd answers with those that cost nothing to ask.

    Rewards that remember or count what they scored are made anew for it: it leaves no trace in the run.

    Raises:
        RewardError: a reward fails, on all that it is asked where failures may be missing.
        RewardSpecError: it cannot be made.
    """
    answers = drafted(setup, _PROMPTS, _ANSWERS)
    specs = {spec.name: spec for spec in setup.config.rewards if spec.sum is None}
    before, setup.engine.resources = setup.engine.resources, resources_of(setup)
    here = [name for name, spec in specs.items() if not _apart(setup, spec)]
    odd = awkward(setup.task.rows("train", 1)[0], _room(setup))
    try:
        _in_place(setup, answers, here)
        setup.engine.score(odd.prompts, odd.completions, odd.columns, odd.group, only=here)
    finally:
        setup.engine.resources = before
    for spec in specs.values():
        if _apart(setup, spec):
            _anew(setup, answers, spec)


def _room(setup: Setup) -> int:
    """Words that a sampled answer may have, about; its tokens are limited."""
    form = setup.task.form
    return form.count * _WORDS if isinstance(form, Lines) else form.max_tokens


def _apart(setup: Setup, spec: RewardSpec) -> bool:
    call = setup.engine.call(spec.name)
    return call.stateful or call.remote or spec.on_error == "missing"


def _in_place(setup: Setup, answers: Asked, names: Sequence[str]) -> None:
    """Ask rewards of the run's own engine, also about the beginnings of answers where tags get credit."""
    given, form = (answers.prompts, answers.completions, answers.columns), setup.task.form
    setup.engine.score(*given, answers.group, only=names)
    if setup.config.optimizer.credit == "tag" and isinstance(form, Lines):
        setup.engine.score_prefixes(*given, 1 + form.count, only=names)


def _anew(setup: Setup, answers: Asked, spec: RewardSpec) -> None:
    """Ask a reward that is made for this question alone."""
    call = setup.engine.call(spec.name)
    rows: Sequence[int] = range(len(answers.completions))
    group = answers.group
    if call.remote:
        setup.display.say(f"asking the reward {spec.name} one question")
        spec = spec.model_copy(update={"timeout": spec.timeout or _PATIENCE})
        rows = range(group if call.reward.per == "group" else 1)
        group = len(rows)

    given = answers.rows(rows)

    def failures(spec: RewardSpec) -> int:
        engine = RewardEngine([spec], resources=resources_of(setup), columns=list(answers.columns))
        try:
            engine.score(*given, group)
            if call.update is not None:
                engine.learn(*given)
                engine.score(*given, group)
            engine.state_dict()  # a memory that cannot be saved
            return engine.failed.get(spec.name, 0)
        finally:
            engine.close()

    if failures(spec) == len(rows):
        failures(spec.model_copy(update={"on_error": "raise"}))
