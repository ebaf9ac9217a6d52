"""The stages of a hybrid representation; each is left out where its result is there, and goes on where an
earlier one stopped.

``told``          the task, with its histories in one form
``make_store``    vectors of the task's entities
``train_base``    a base model that reads histories spelled out
``train_adaptor`` the adaptor in front of it: the policy with slots
"""

import shutil
from typing import Any

from ...envs import task as tasks
from ...envs.data.shards import Engine
from ...envs.entities.build import PART, build
from ...envs.entities.store import EntityStore
from ...envs.tags.settings import History, TagsConfig
from ...envs.tags.task import Tags
from ...envs.task import Lines
from ...rewards.shipped.encoder import SentenceEncoder
from ...rl import policy
from ...rl.decoding.forms import answer_room
from ...rl.hybrid import reading
from ...rl.hybrid.questions import questions, spelled, split, without
from ...rl.hybrid.settings import AGAIN
from ...rl.hybrid.teaching import teach
from ...rl.hybrid.training import lessons_about, lessons_of, train
from ...rl.policy import slots
from ...rl.policy.folders import holds_policy
from ...rl.policy.loading import placed, save_policy
from ...rl.policy.resuming import StoppedTraining
from ..config.schema import ConfigError, RunConfig
from ..run.preconditions import check_lengths
from ..run.progress import Display
from ..signals import Stop

STORE, BASE, POLICY, TEACHER = "store", "base", "policy", "teacher"
"""Folders of the results, in ``hybrid.folder``."""

QUESTIONS = 20_000
"""Questions that an adaptor learns from."""

# Checkpoints of a base model and of an adaptor.
_READING, _LEARNING = "reading", "learning"


def told(config: RunConfig, history: History, **wording: Any) -> Tags:
    """The task of a configuration, with its histories in one form.

    Args:
        wording: Other settings of ``task.prompt``.

    Raises:
        ConfigError: the task tells no products.
    """
    settings = config.task
    if not isinstance(settings, TagsConfig):
        raise ConfigError(f"task.use={settings.use} tells no histories of products; set task.use=tags")
    prompt = settings.prompt.model_copy(update={"history": history, **wording})
    task = tasks.make(settings.model_copy(update={"prompt": prompt}), config.data)
    assert isinstance(task, Tags)
    return task


def make_store(config: RunConfig, engine: Engine, display: Display) -> EntityStore:
    """Vectors of all entities of the task."""
    task, folder = told(config, "hybrid"), config.hybrid.folder / STORE
    assert task.entities is not None
    encoder = SentenceEncoder(config.hybrid.encoder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with display.stage("encoding the entities", -(-task.entities.height // PART)) as advance:
        store = build(
            task.entities.lazy(),
            folder,
            encoder,
            precision=config.hybrid.precision,
            engine=engine,
            on_part=lambda done, parts: advance(done),
        )
    display.say(f"{len(store):,} entities, {store.dim} numbers each in {store.precision}: {folder}")
    return store


def train_base(config: RunConfig, stop: Stop, display: Display) -> None:
    """Train a tiny policy to read histories spelled out."""
    stop.hint = AGAIN
    settings, folder = config.hybrid.reading, config.hybrid.folder
    if holds_policy(folder / BASE):
        display.say(f"the base model is there: {folder / BASE}")
        return
    limit = config.task.max_train_episodes
    task, brief = told(config, "text"), told(config, "truncated", kept=settings.products)
    rows = {name: one.rows("train", limit) for name, one in (("long", task), ("short", brief))}
    made = config.policy.model_copy(update={"model": "tiny", "revision": None, "lora": None})
    assert isinstance(task.form, Lines)
    assert task.entities is not None
    lessons = {
        name: reading.rows(some, task.entities, settings.questions, config.seed)
        for name, some in rows.items()
    }
    asked = [row["prompt"][-1]["content"] for row in lessons["short"] if "answer" in row]
    model, tokenizer = policy.load(
        made,
        options=task.form.options,
        terms=task.terms,
        texts=[*task.corpus(rows["long"]), *asked],
        seed=config.seed,
    )
    check_lengths(config, rows["long"], model, tokenizer, answer_room(task.form, tokenizer))
    model = placed(model, made)
    total = settings.short.steps + settings.long.steps
    done = {"short histories": 0, "whole histories": settings.short.steps}
    with display.stage("learning to read", total) as advance, stop.deferred():
        try:
            reading.read(
                model,
                tokenizer,
                task,
                lessons["short"],
                lessons["long"],
                settings,
                config.seed,
                folder / _READING,
                lambda name, step, loss: advance(done[name] + step, f"{name}, loss {loss:.3f}"),
                stop.wished,
            )
        except StoppedTraining as stopped:
            stop.check(f"after step {stopped.step} of a stage of the base model")
            raise
    save_policy(model, tokenizer, folder / BASE)
    shutil.rmtree(folder / _READING, ignore_errors=True)
    display.say(f"base model: {folder / BASE}")


def train_adaptor(config: RunConfig, stop: Stop, display: Display) -> None:
    """Train the adaptor of a frozen base model, and write both as a policy."""
    stop.hint = AGAIN
    settings, folder = config.hybrid, config.hybrid.folder
    if holds_policy(folder / POLICY):
        display.say(f"the policy is there: {folder / POLICY}")
        return
    named = settings.base or str(folder / BASE)
    if settings.base is None and not holds_policy(folder / BASE):
        raise ConfigError(
            f"hybrid.base=null: {folder / BASE} holds no model; train one by recrl hybrid base, or name one"
        )
    store = EntityStore(folder / STORE)
    used = config.policy.model_copy(update={"model": named, "lora": None, "revision": None})
    model, tokenizer = policy.load(used)
    layer = slots.add(model, store, settings.inner, config.seed)
    model = placed(model, used)
    slots.read_marks(tokenizer, store, layer.num_embeddings)
    task = told(config, "hybrid")
    assert task.entities is not None
    seen = split(task.entities, settings.held_out)
    hidden = seen["strings"] | seen["types"]
    rows = task.rows("train", settings.teacher.prompts)
    prompts = [without(row["prompt"], hidden) for row in rows]
    texts = [spelled(prompt) for prompt in prompts]
    room = answer_room(task.form, tokenizer)
    check_lengths(config, [{"prompt": text} for text in texts], model, tokenizer, room)
    with display.stage("answers to full text", len(texts)) as advance, stop.deferred():
        taught = teach(
            model.eval(),
            tokenizer,
            texts,
            task.form,
            settings.teacher,
            config.seed,
            folder / TEACHER,
            advance,
            stop.wished,
        )
    if taught is None:
        stop.check("after a part of the teacher's answers")
    asked = questions(task.entities, seen["seen"], QUESTIONS, config.seed)
    lessons = lessons_of(tokenizer, prompts, taught or []), lessons_about(tokenizer, asked)
    with display.stage("training the adaptor", settings.steps) as advance, stop.deferred():
        try:
            train(
                model,
                *lessons,
                settings,
                config.seed,
                lambda step, loss: advance(step, f"loss {loss:.3f}"),
                checkpoint=folder / _LEARNING,
                stop=stop.wished,
            )
        except StoppedTraining as stopped:
            stop.check(f"after step {stopped.step} of the adaptor's training")
            raise
    model.requires_grad_(True)
    save_policy(model, tokenizer, folder / POLICY)
    shutil.rmtree(folder / _LEARNING, ignore_errors=True)
    display.say(f"policy with entity slots: {folder / POLICY}")


def trained(config: RunConfig) -> tuple[Any, Any]:
    """The trained policy with slots.

    Raises:
        ConfigError: it is not there.
    """
    folder = config.hybrid.folder / POLICY
    if not holds_policy(folder):
        raise ConfigError(f"{folder} holds no policy; train one by recrl hybrid train")
    model, tokenizer = policy.load(config.policy.at(folder))
    return placed(model.eval(), config.policy), tokenizer
