"""Texts of one writer with and without a guideline, and of eight templates, on the same rows.

``compare``  figures of one run's writer
``pooled``   differences over several runs, with intervals over households

A guideline changes what a text says as well as how, and a text that claims less is free to vary more. So
each reference is also *matched*: of several texts that it can write for a row, the one whose number of claims
is nearest to the guided text's, and none with a false claim where there is one without.
"""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recrl.envs import task as tasks
from recrl.envs.agents.style import GUIDELINES
from recrl.envs.agents.styled import Styled
from recrl.envs.explanations import metrics
from recrl.envs.explanations.baselines import AUTHORS
from recrl.envs.explanations.task import Explanations
from recrl.envs.explanations.teaching import write
from recrl.envs.statistics import Values, estimate
from recrl.envs.task import Answerer, Row
from recrl.launch.config.reading import load
from recrl.rl import policy
from recrl.rl.decoding.deploy import answer_texts, deploy
from recrl.rl.decoding.forms import answer_room

from .. import BenchmarkError

GUIDED, UNGUIDED, TEMPLATES = "guided", "no guideline", "eight templates"
MATCHED = ", matched"
MEASURES = ("item_diversity", "claims", "precision", "retrieved", "words")

Measured = Mapping[str, Mapping[str, Values]]


def compare(run: Path, rows: int, draws: int, which: str = "policy") -> tuple[Measured, npt.NDArray[Any]]:
    """Measures of every writer on unseen rows of a run.

    Args:
        run: Folder of a finished run of ``task.use=explanations``.
        rows: Number of rows, spread evenly over the test rows of unseen users.
        draws: Texts of a reference among which the matching one is chosen.
        which: Folder of the writer's policy: ``policy`` or ``warm``.

    Returns:
        Writer -> measure -> ``[row]``, NaN where undefined; and the user of each row.

    Raises:
        BenchmarkError: the run is of another task.
    """
    config = load(str(run / "config.yaml"), [f"output={run}"])
    task = tasks.make(config.task, config.data)
    if not isinstance(task, Explanations):
        raise BenchmarkError(f"{run}: task.use={config.task.use}; name a run of task.use=explanations")
    asked = task.rows("test", rows, unseen=True)
    model, tokenizer = policy.load(config.policy.at(run / which))
    room = answer_room(task.form, tokenizer)
    sampling = config.train.sampling(tokenizer, room)

    def writer(given: Sequence[Row]) -> list[str]:
        return deploy(model, tokenizer, [row["prompt"] for row in given], task.form, batch_size=64)

    def sampled(given: Sequence[Row]) -> list[list[str]]:
        prompts = [row["prompt"] for row in given]
        texts = answer_texts(model, tokenizer, prompts, sampling, copies=draws, batch_size=64)
        return [texts[i : i + draws] for i in range(0, len(texts), draws)]

    def templates(given: Sequence[Row]) -> list[list[str]]:
        styles = list(AUTHORS.values())
        return [
            [
                write(row, task.catalog, np.random.default_rng([_number(row), draw]), style)
                for draw in range(draws)
            ]
            for row in given
            for style in [styles[_number(row) % len(styles)]]
        ]

    guided = Styled(lambda given: [GUIDELINES[_number(row) % len(GUIDELINES)] for row in given], writer)
    answerers: dict[str, Answerer] = {GUIDED: guided, UNGUIDED: writer}
    texts = {name: answer(asked) for name, answer in answerers.items()}
    drawn = {UNGUIDED: sampled(asked), TEMPLATES: templates(asked)}
    texts[TEMPLATES] = [some[0] for some in drawn[TEMPLATES]]
    aims = [len(task.grounds(row, text)) for row, text in zip(asked, texts[GUIDED], strict=True)]
    for name, some in drawn.items():
        texts[name + MATCHED] = [
            _nearest(task, row, choices, aim) for row, choices, aim in zip(asked, some, aims, strict=True)
        ]
    return {name: _measured(task, asked, told) for name, told in texts.items()}, np.array(
        [row["user"] for row in asked]
    )


def pooled(found: Sequence[tuple[Measured, npt.NDArray[Any]]]) -> dict[str, Any]:
    """Means of every writer, and differences of the guided one to each other, over all runs together.

    Returns:
        JSON: ``means`` and ``differences``, writer -> measure -> estimate, None where undefined for all rows.
    """
    users = np.concatenate([users for _, users in found])
    of_all = {
        name: {one: np.concatenate([run[name][one] for run, _ in found]) for one in MEASURES}
        for name in found[0][0]
    }
    means = {
        name: {one: _estimated(v, users) for one, v in measured.items()} for name, measured in of_all.items()
    }
    apart = {
        name: {one: _estimated(of_all[GUIDED][one] - measured[one], users) for one in MEASURES}
        for name, measured in of_all.items()
        if name != GUIDED
    }
    return {"means": means, "differences": apart}


def _estimated(values: Values, users: npt.NDArray[Any]) -> dict[str, Any] | None:
    return None if np.isnan(values).all() else vars(estimate(values, users))


def _measured(task: Explanations, rows: Sequence[Row], texts: Sequence[str]) -> dict[str, Values]:
    per_row = metrics.per_row(task.catalog, task.households, rows, texts)
    told = [task.grounds(row, text) for row, text in zip(rows, texts, strict=True)]
    return {
        **{name: per_row[name] for name in ("item_diversity", "retrieved", "words")},
        "claims": np.array([float(len(one)) for one in told]),
        "precision": np.array([np.mean([true for _, true in one]) if one else np.nan for one in told]),
    }


def _nearest(task: Explanations, row: Row, texts: Sequence[str], aim: int) -> str:
    """The text whose number of claims is nearest to an aim; those without a false claim go first."""
    told = [task.grounds(row, text) for text in texts]
    order = [(sum(not true for _, true in one), abs(len(one) - aim)) for one in told]
    return texts[min(range(len(texts)), key=order.__getitem__)]


def _number(row: Row) -> int:
    return zlib.crc32(repr((row["user"], row["origin"], row["item"])).encode())
