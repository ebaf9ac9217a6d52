"""What compressed prompts keep and what they cost, on users that nothing was trained on.

``measure``  the tables of :mod:`recrl.launch.hybrid.report`, as JSON
``as_dear``  how many products as text cost what a hybrid history costs
"""

import hashlib
import json
import shutil
from bisect import bisect_left
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ...envs.entities import marks
from ...envs.entities.store import Constant, EntityStore, Permuted
from ...envs.statistics import Values
from ...envs.storage import sealed
from ...envs.tags.histories import Histories
from ...envs.tags.settings import History
from ...envs.tags.task import Tags
from ...envs.task import evenly
from ...rl.decoding.journal import Journal
from ...rl.hybrid.costs import arithmetic, seconds
from ...rl.hybrid.evaluation import Arm, deployed, majority, overlap, perceived
from ...rl.hybrid.questions import questions, spelled, split
from ...rl.hybrid.settings import AGAIN
from ...rl.hybrid.training import prompt_ids
from ...rl.policy import slots
from ..config.schema import ConfigError, RunConfig
from ..run.progress import Display
from ..signals import Stop
from . import report, seeds
from .quality import CONSTANT, FREQUENT, HYBRID, LATEST, OWN, PERMUTED, POPULARITY, TEXT, Episodes, quality
from .stages import POLICY, QUESTIONS, told, trained

ANSWERS = "answers"
"""Folder of the answers of an evaluation that has not ended."""

# Forms that are plain text, and cost as much as the hybrid one.
_SHORT: dict[History, str] = {"truncated": LATEST, "frequent": FREQUENT}


def measure(
    config: RunConfig,
    stop: Stop,
    display: Display,
    *,
    least: int,
    long: int,
    limit: int | None,
    asked: int,
    timed: int,
) -> Path:
    """Answer test episodes of unseen users in every arm; write ``evaluation.json``, values of every episode
    and the report.

    Args:
        least: Products that a history has at least; ``limit``: largest number of episodes.
        long: Products of the histories whose costs are told.
        asked: Questions for each attribute and kind of held-out entities.
        timed: Prompts whose reading and training step are timed.

    Raises:
        ConfigError: no episode has such a history.
        Interruption: a signal came; what was answered until then is not asked again.
    """
    stop.hint = AGAIN
    model, tokenizer = trained(config)
    layer = slots.of(model)
    assert layer is not None
    assert isinstance(layer.store, EntityStore)
    store = layer.store
    task = told(config, "hybrid")
    rows = _rows(task, least, limit)
    dear = [i for i, row in enumerate(rows) if _bought(task, row) >= long]
    if not dear:
        raise ConfigError(f"--long {long}: no test episode of an unseen user has so many products")
    kept = as_dear(task, [rows[i] for i in dear], tokenizer)
    prompts = {TEXT: [spelled(row["prompt"]) for row in rows], HYBRID: [row["prompt"] for row in rows]}
    for history, name in _SHORT.items():
        prompts[name] = [row["prompt"] for row in _rows(told(config, history, kept=kept), least, limit)]
    ids = {name: prompt_ids(tokenizer, [some[i] for i in dear]) for name, some in prompts.items()}
    arms = [
        *(Arm(name, some) for name, some in prompts.items()),
        Arm(CONSTANT, prompts[HYBRID], Constant(store, np.arange(min(len(store), 20_000)))),
        Arm(PERMUTED, prompts[HYBRID], Permuted(store, len(store), config.seed)),
    ]
    texts = _answered(config, model, tokenizer, task, arms, stop, display)
    texts |= {
        name: answerer(rows)
        for name, answerer in task.baselines(config.floors).items()
        if name in (OWN, POPULARITY)
    }
    episodes = _episodes(task, rows, texts)
    display.say("questions about held-out entities, and times")
    found = {
        "model": {
            "name": config.hybrid.base or "base",
            "weights": sum(p.numel() for p in model.parameters()),
        },
        "episodes": len(rows),
        "users": len({row["user"] for row in rows}),
        "least": least,
        "long": {"products": long, "episodes": len(dear)},
        "kept": kept,
        "products": float(np.mean([_marked(rows[i]["prompt"]) for i in dear])),
        "seed": config.seed,
        "headline": task.headline,
        **quality([episodes]),
        "costs": _costs(model, tokenizer, ids, texts[TEXT], timed),
        "perception": _perception(config, model, tokenizer, store, task, asked),
    }
    folder = config.hybrid.folder
    episodes.save(folder)
    sealed.write(folder / seeds.EVALUATION, json.dumps(found, indent=1))
    shutil.rmtree(folder / ANSWERS)
    return report.write([seeds.read(folder)], folder)


def as_dear(task: Tags, rows: Sequence[Any], tokenizer: Any) -> int:
    """Largest number of products that, as text, cost no more tokens than a hybrid history does, on the mean
    over rows and in both short forms; one at least."""
    assert task.histories is not None
    products, prompt = task.histories.products, task.settings.prompt

    def tokens(history: History, kept: int = prompt.kept) -> float:
        tell = Histories(products, prompt.model_copy(update={"history": history, "kept": kept}))
        told = tokenizer(["\n".join(tell(row)) for row in rows], add_special_tokens=False)
        return float(np.mean([len(ids) for ids in told["input_ids"]]))

    budget, numbers = tokens("hybrid"), range(1, prompt.products + 1)
    return max(1, bisect_left(numbers, True, key=lambda n: any(tokens(form, n) > budget for form in _SHORT)))


def _answered(
    config: RunConfig,
    model: Any,
    tokenizer: Any,
    task: Tags,
    arms: Sequence[Arm],
    stop: Stop,
    display: Display,
) -> dict[str, list[str]]:
    """Texts of each arm; what an attempt that was killed has answered is not asked again."""
    folder, texts = config.hybrid.folder, {}
    identity = [
        *(sealed.fingerprint(file) for file in sorted((folder / POLICY).glob("*.safetensors"))),
        *(task.fingerprint, config.task.model_dump(mode="json"), config.seed, version("recrl")),
    ]
    for arm in arms:
        batch = min(4, config.evaluation.batch_size) if arm.name == TEXT else config.evaluation.batch_size
        asked = json.dumps([*identity, arm.name, batch, list(arm.prompts)])
        path = folder / ANSWERS / f"{hashlib.sha256(asked.encode()).hexdigest()[:32]}.jsonl"
        kept = Journal(path, len(arm.prompts), batch)
        with display.stage(arm.name, len(arm.prompts)) as advance, stop.deferred():

            def on_batch(done: int, advance: Any = advance) -> None:
                advance(done)
                stop.check("while the arms were answered")

            texts[arm.name] = deployed(model, tokenizer, arm, task.form, batch, on_batch, kept)
    return texts


def _rows(task: Tags, least: int, limit: int | None) -> list[dict[str, Any]]:
    """Test rows of unseen users; the same for every form."""
    rows = [row for row in task.rows("test", unseen=True) if _bought(task, row) >= least]
    return [rows[i] for i in evenly(len(rows), limit)]


def _bought(task: Tags, row: Any) -> int:
    """Products of a row's whole history."""
    assert task.histories is not None
    return len(task.histories.products.before(int(row["user"]), int(row["origin"]))[0])


def _episodes(task: Tags, rows: Sequence[Any], texts: dict[str, list[str]]) -> Episodes:
    assert task.headline is not None
    return Episodes(
        np.array([row["user"] for row in rows]),
        {name: task.metrics(rows, some, dict)[task.headline] for name, some in texts.items()},
        {name: overlap(some, texts[TEXT]) for name, some in texts.items()},
    )


def _costs(
    model: Any, tokenizer: Any, ids: dict[str, list[list[int]]], texts: Sequence[str], timed: int
) -> dict[str, Any]:
    """Tokens, arithmetic and seconds of each form of prompts."""
    vocabulary = model.get_input_embeddings().num_embeddings
    told = tokenizer([f"{text}{tokenizer.eos_token}" for text in texts[:8]], add_special_tokens=False)
    answers, longest = told["input_ids"], max(map(len, told["input_ids"]))
    found = {}
    for name, some in ids.items():
        entities = [len({i for i in one if i >= vocabulary}) for one in some]
        counted: dict[str, list[Values]] = {"prefill": [], "step": []}
        for one, number in zip(some, entities, strict=True):
            for part, of_answers in (("prefill", {}), ("step", {"answers": 8, "tokens": longest})):
                cost = arithmetic(model, len(one), entities=number, **of_answers)
                counted[part].append(np.array([cost.total, cost.attention, cost.adaptor]))
        chosen = [some[i] for i in evenly(len(some), timed)]
        found[name] = {
            "tokens": float(np.mean([len(one) for one in some])),
            "ratio": float(np.mean([len(a) / len(b) for a, b in zip(ids[TEXT], some, strict=True)])),
            "entities": float(np.mean(entities)),
            **{
                f"{part} arithmetic": dict(
                    zip(("total", "attention", "adaptor"), np.mean(each, axis=0).tolist(), strict=True)
                )
                for part, each in counted.items()
            },
            "seconds": seconds(model, chosen, answers),
        }
    return found


def _perception(
    config: RunConfig, model: Any, tokenizer: Any, store: EntityStore, task: Tags, count: int
) -> dict[str, Any]:
    """Share of right answers about held-out entities, by kind and attribute."""
    assert task.entities is not None
    parts = split(task.entities, config.hybrid.held_out)
    learned = questions(task.entities, parts["seen"], QUESTIONS, config.seed)
    permuted, found = Permuted(store, len(store), config.seed), {}
    for part in ("strings", "types"):
        every = questions(task.entities, parts[part], 10**9, config.seed + 1)
        for attribute in [name for name in task.entities.columns if name != "title"]:
            asked = [one for one in every if one.attribute == attribute][:count]
            if asked:
                found[f"{part}, {attribute}"] = {
                    "questions": len(asked),
                    "hybrid": float(perceived(model, tokenizer, asked).mean()),
                    "full text": float(perceived(model, tokenizer, asked, as_text=True).mean()),
                    "majority": float(majority(learned, asked).mean()),
                    "permuted": float(perceived(model, tokenizer, asked, store=permuted).mean()),
                }
    return found


def _marked(prompt: Sequence[Any]) -> int:
    return sum(entity for message in prompt for _, entity in marks.parts(message["content"]))
