"""Answers of one policy, judged episode by episode: ``python -m recrl.benchmarks.rules.answers JOB.json``.

``judge``  means and episodes of a policy's answers
``keep``   the same, written
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recrl.envs.storage.sealed import write
from recrl.launch.config.reading import load
from recrl.launch.run.progress import Display
from recrl.launch.run.setup import Setup, prepare_setup
from recrl.rl import policy
from recrl.rl.evaluation.answers import answer, scored, test_rows
from recrl.rl.optimizer.problem import constraint_values, objective_values, segment_indicators

from .cells import FREE, HELD, SAMPLED, Job

Floats = npt.NDArray[np.float32]


def judge(job: Job) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Let the policy answer every episode, sampled, deployed, and deployed under prices.

    Returns:
        JSON with ``objective`` (name of what is maximised, of deployed answers), ``means`` (mode ->
        objective and constraints), ``hold`` (prices) and ``seconds``; and arrays: ``users`` ``[episode]`` and
        for each mode ``[episode, 1 + constraint]``, NaN = undefined.
    """
    started = time.perf_counter()
    config = load(job.config)
    setup = prepare_setup(config, Display(enabled=False))
    task, problem = setup.task, config.problem()
    validating = job.split == "validation"
    limit = config.evaluation.max_episodes
    rows = task.rows("validation", limit) if validating else test_rows(task, config.evaluation)
    model, tokenizer = policy.load(config.policy.at(Path(job.policy)))
    sampling = config.train.sampling(tokenizer, setup.answer_tokens(tokenizer))
    found = answer(model, tokenizer, task, rows, setup.engine, problem, sampling, config.evaluation, job.seed)
    free = found.deployed if found.unpriced is None else found.unpriced
    values = {
        "users": np.array([row["user"] for row in rows]),
        SAMPLED: _sampled(setup, found.scores),
        FREE: _deployed(setup, rows, free, tokenizer),
        HELD: _deployed(setup, rows, found.deployed, tokenizer),
    }
    means = {mode: np.nanmean(values[mode], axis=0).astype(float).tolist() for mode in (SAMPLED, FREE, HELD)}
    judged = {
        "objective": task.headline or problem.objective,
        "means": means,
        "hold": found.hold,
        "seconds": time.perf_counter() - started,
    }
    return judged, values


def _sampled(setup: Setup, scores: Floats) -> Floats:
    """Objective and constraints of sampled answers ``[episode, answer, column]``, mean over an episode's."""
    problem, given = setup.config.problem(), torch.from_numpy(scores)
    columns = torch.cat([objective_values(problem, given)[..., None], constraint_values(problem, given)], -1)
    return columns.nanmean(dim=1).numpy().astype(np.float32)


def _deployed(setup: Setup, rows: list[dict[str, Any]], texts: list[str], tokenizer: Any) -> Floats:
    """Headline metric and constraints of one deployed answer to each row."""
    problem, names = setup.config.problem(), setup.engine.names
    scores, columns = scored(rows, texts, tokenizer, setup.engine)
    members = segment_indicators(problem, columns, len(texts))
    given = torch.cat([torch.from_numpy(scores), members], dim=1)
    objective = objective_values(problem, given).numpy()
    if setup.task.headline:
        named = {name: scores[:, k].astype(float) for k, name in enumerate(names)}
        objective = setup.task.metrics(rows, texts, lambda: named)[setup.task.headline]
    constrained = constraint_values(problem, given).numpy()
    return np.column_stack([objective, constrained]).astype(np.float32)


def keep(job: Job) -> None:
    """Judge a policy, and write its means and episodes."""
    judged, values = judge(job)
    output = Path(job.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(output.with_name(f"{output.name}.npz"), allow_pickle=False, **values)
    # The last that is written, whole or not at all: a judgement is there when this file is.
    write(output.with_name(f"{output.name}.json"), json.dumps(judged))


if __name__ == "__main__":
    keep(Job(**json.loads(Path(sys.argv[1]).read_text())))
