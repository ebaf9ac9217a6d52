"""Training over several weeks: an answer is credited with what it brings later, and with nothing else.

Shoppers of the toy come back because they clicked ``tag 0`` in a week before, and for no other reason: the
best answer is known, and a single week has nothing to say about it.
"""

import datetime as dt

import fixed_rollouts
import numpy as np
import polars as pl
import pytest
import torch
from datasets import Dataset
from transformers import set_seed

from recrl import ConstrainedGRPOTrainer, Reward
from recrl.envs.data.settings import DataConfig
from recrl.envs.simulator.scenario import Scenario
from recrl.envs.simulator.shopper import Wish, sigmoid
from recrl.envs.tags.settings import TagsConfig
from recrl.envs.tags.task import Tags
from recrl.rl import policy
from recrl.rl.rollouts.episodes import Episodes

TAGS, GROUPS, SIZE = 4, 8, 6
LOYAL = Scenario("loyal", opens=1, position=1, click=0, taste=1, boredom=0, effect=0, pull=0, loyalty=12)


class Loyal:
    """Clicks what is ``tag 0``, comes after clicks alone, and buys ``tag 0``."""

    def wish(self, histories):
        count = len(histories.users)
        buy = np.full((count, TAGS), -9, np.float32)
        buy[:, 0] = 9
        return Wish(np.full(count, -6, np.float32), buy)

    def live(self, wish, pull, lifts, chance):
        bought = np.zeros(wish.buy.shape, bool)
        bought[:, 0] = chance.random(len(pull)) < sigmoid(wish.visit + pull)
        return bought


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("loyal"), np.random.default_rng(0)
    rows = [
        (f"u{user:02d}", dt.date(2024, 1, 1) + dt.timedelta(weeks=week), f"tag {tag}")
        for week in range(46)
        for user in range(40)
        for tag in np.flatnonzero(rng.random(TAGS) < 0.3)
    ]
    pl.DataFrame(rows, schema=["user", "time", "tag"], orient="row").write_parquet(folder / "log.parquet")
    return Tags(TagsConfig(slots=1), DataConfig(source=str(folder / "log.parquet"), cache=folder / "cache"))


def starting(task, rows):
    """A tiny policy that names each tag equally often, after some lessons."""
    set_seed(0)
    config = policy.PolicyConfig(tiny=policy.TinyConfig(hidden=32, vocabulary=300))
    model, tokenizer = policy.load(config, options=task.catalog.tags, texts=task.corpus(rows[:4]))
    ends = [
        [*tokenizer.encode(task.catalog.render([tag]), add_special_tokens=False), tokenizer.eos_token_id]
        for tag in range(TAGS)
    ]
    prompts = [row["prompt"] for row in rows[: 2 * TAGS]]
    asked = tokenizer.apply_chat_template(prompts, add_generation_prompt=True)["input_ids"]
    lessons = [(prompt, ends[number % TAGS]) for number, prompt in enumerate(asked)]
    ids, labels = (
        torch.nn.utils.rnn.pad_sequence([torch.tensor(one) for one in some], True, padding)
        for some, padding in (
            ([prompt + answer for prompt, answer in lessons], 0),
            ([[-100] * len(prompt) + answer for prompt, answer in lessons], -100),
        )
    )
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        model(ids, labels=labels).loss.backward()
        optimizer.step()
    return model, tokenizer


def trained(task, output, weeks, steps, constraints=()):
    """Train on the return.

    Returns:
        Rows of the log, and what the rewards saw: ``[steps][samples]`` of answer, week, gains and user.
    """
    episodes = Episodes(task=task, behaviour=Loyal(), scenario=LOYAL, weeks=weeks, reward="return")
    start, seen = min(task.data.protocol.test_origins), []

    def first(answers, origin, gains, user):
        named = [list(answer.top(1)) == [0] for answer in answers]
        seen.append([*zip(named, [week - start for week in origin], gains, user, strict=True)])
        return [float(one) for one in named]

    model, tokenizer = starting(task, episodes.rows)
    trainer = ConstrainedGRPOTrainer(
        model,
        [*episodes.rewards, Reward(first, range=(0, 1))],
        fixed_rollouts.arguments(
            output,
            max_steps=steps,
            per_device_train_batch_size=GROUPS * SIZE,
            num_generations=SIZE,
            learning_rate=1e-3,
        ),
        Dataset.from_list(episodes.rows),
        processing_class=tokenizer,
        objective="return",
        constraints=constraints,
        resources={"catalog": task.catalog, "slots": 1},
        rollout_func=episodes,
    )
    trainer.train()
    return [row for row in trainer.state.log_history if "objective" in row], seen


@pytest.mark.slow
def test_what_comes_later_is_credited(task, tmp_path):
    log, seen = trained(task, tmp_path, weeks=3, steps=12)
    returns = [row["rewards/return/mean"] for row in log]
    assert returns[0] < 1
    assert np.mean(returns[-4:]) > 1.1  # 2 at best: nobody comes in the first week
    assert len({week for (_, week, _, _), *_ in seen}) == 3
    for samples in seen:
        for place in range(0, len(samples), SIZE):
            named, week, gains, users = zip(*samples[place : place + SIZE], strict=True)
            # A group is one shopper in one week, with one past.
            assert len({*week}) == len({*users}) == len({tuple(past[: week[0]]) for past in gains}) == 1
            for one, later in zip(named, gains, strict=True):
                if one and week[0] < 2:
                    assert later[week[0] + 1] == 1


@pytest.mark.slow
def test_a_single_week_says_nothing(task, tmp_path):
    log, _ = trained(task, tmp_path, weeks=1, steps=1)
    assert log[0]["rewards/return/mean"] == 0
    assert log[0]["grad_norm"] == 0
