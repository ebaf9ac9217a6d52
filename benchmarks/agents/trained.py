"""Experts that were trained, beside simple ones on the same personas of unseen households.

``policies``  task and policies of some runs of ``task.use=expert``
``compared``  figures of their lists
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recrl.envs import task as tasks
from recrl.envs.agents.expert_task import Expert
from recrl.envs.agents.experts import household
from recrl.envs.statistics import Values, estimate, paired_difference
from recrl.envs.task import Lines
from recrl.launch.config.reading import load
from recrl.launch.config.schema import RunConfig
from recrl.rl import policy
from recrl.rl.decoding.deploy import deploy
from recrl.rl.policy.folders import holds_policy
from recrl.rl.policy.settings import PolicyConfig

from .. import BenchmarkError

WARM, ONE = "warm start", "one list"


def check(runs: Sequence[Path]) -> list[RunConfig]:
    """Configurations of runs whose policies answer the same rows.

    Raises:
        BenchmarkError: a folder holds no trained expert, or one of other data or settings than the first, or
            two runs have the same name.
    """
    found: list[RunConfig] = []
    for run in runs:
        if not holds_policy(run / "policy"):
            raise BenchmarkError(
                f"--expert {run}: no trained policy; recrl train agents output={run} makes it"
            )
        config = load(str(run / "config.yaml"), [f"output={run}"])
        why = None
        if config.task.use != "expert":
            why = f"its task.use={config.task.use} is not expert"
        elif found and config.task != found[0].task:
            why = f"its task has other settings than that of {runs[0]}"
        elif config.name in (WARM, ONE, *(one.name for one in found)):
            why = f"its name={config.name} is taken"
        if why:
            raise BenchmarkError(
                f"--expert {run}: {why}; name runs of recrl train agents, each with a name=... of its own"
            )
        found.append(config)
    return found


def compared(task: Expert, folders: Mapping[str, Path], households: int | None) -> dict[str, Any]:
    """Deployed lists of policies and of simple experts, no prices.

    Args:
        task: Task of the policies.
        folders: Name of each policy -> its folder.
        households: Unseen episodes, evenly spread; None for all.

    Returns:
        JSON: ``means``, and ``differences`` to each policy and to one list by the scorer.
    """
    personas = task.settings.personas
    rows = task.rows("test", None if households is None else households * personas, unseen=True)
    texts = {name: answerer(rows) for name, answerer in task.baselines({}).items()}
    form, barred = task.form, [task.barred(row) for row in rows]
    assert isinstance(form, Lines)
    for name, folder in folders.items():
        model, tokenizer = policy.load(PolicyConfig(model=str(folder)))
        texts[name] = deploy(model, tokenizer, [row["prompt"] for row in rows], form, barred=barred)
    values = {name: task.metrics(rows, given, dict) for name, given in texts.items()}
    users = np.array([row["user"] for row in rows])
    measures = (f"recall@{task.slots}", "novelty", *task.summary, "union recall", "duplicate work")
    shown = {name: {m: of[m] for m in dict.fromkeys(measures)} for name, of in values.items()}
    return {
        "personas": len(rows),
        "episodes": len({household(row) for row in rows}),
        "households": len(np.unique(users)),
        "slots": task.slots,
        "means": {name: {m: vars(estimate(v, users)) for m, v in of.items()} for name, of in shown.items()},
        "differences": {
            reference: _apart(shown, reference, users) for reference in (*folders, ONE) if reference in shown
        },
    }


def policies(runs: Sequence[Path], cache: Path) -> tuple[Expert, dict[str, Path]]:
    """Task of some runs, and the folders of their policies by name, that of the first warm start before.

    Raises:
        BenchmarkError: see :func:`check`.
    """
    configs = check(runs)
    task = tasks.make(configs[0].task, configs[0].data.model_copy(update={"cache": cache}))
    assert isinstance(task, Expert)
    trained = {config.name: run / "policy" for config, run in zip(configs, runs, strict=True)}
    return task, {WARM: runs[0] / "warm", **trained}


def _apart(values: Mapping[str, Mapping[str, Values]], reference: str, users: np.ndarray) -> dict[str, Any]:
    return {
        name: {m: vars(paired_difference(v, values[reference][m], users)) for m, v in of.items()}
        for name, of in values.items()
        if name != reference
    }
