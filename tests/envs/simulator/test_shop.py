"""The shop as an environment: Gymnasium's own checks, and episodes that are what they say."""

import copy

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from recrl.envs.simulator import shop
from recrl.envs.simulator.histories import baskets
from recrl.envs.simulator.scenario import SimulatorError


def made(small, name="recrl/Shop-v0", number=None, **settings):
    given = {"task": small.task, **settings}
    if name == "recrl/Shop-v0":
        given["behaviour"] = small.hazards
    if number is None:
        return gymnasium.make(name, **given)
    return gymnasium.make_vec(name, num_envs=number, **given)


@pytest.mark.parametrize("name", ["recrl/Shop-v0", "recrl/Replay-v0"])
def test_gymnasium_has_nothing_to_say_against_it(small, name):
    check_env(made(small, name).unwrapped, skip_render_check=True)


def test_an_observation_is_a_rows_prompt_and_an_action_an_answer(small):
    env = made(small, weeks=2)
    observed, info = env.reset(seed=3)
    assert observed["prompt"] == info["row"]["prompt"][-1]["content"]
    answer = small.task.catalog.render(info["row"]["history"][:4])
    observed, reward, terminated, truncated, info = env.step(answer)
    assert (terminated, truncated, observed["week"]) == (False, False, 1)
    assert reward == info["clicks"]
    assert env.step("nothing that is sold")[3]


def test_many_shoppers_live_at_once_and_begin_anew(small):
    env = made(small, number=40, weeks=2, reward="volume")
    observed, info = env.reset(seed=0)
    users = [row["user"] for row in info["row"]]
    assert len(set(users)) == len(observed["prompt"]) == 40
    answers = [small.task.catalog.render(row["history"][:4]) for row in info["row"]]
    for _ in range(2):
        _, rewards, _, truncated, info = env.step(answers)
        assert np.array_equal(rewards, info["bought"].sum(axis=1))
    assert truncated.all()
    _, rewards, _, truncated, info = env.step(answers)
    assert not rewards.any()
    assert not truncated.any()
    assert [row["user"] for row in info["row"]] != users


def test_the_same_seed_is_the_same_episode(small):
    def episode(seed):
        env = made(small, number=30)
        observed, info = env.reset(seed=seed)
        answers = [small.task.catalog.render(row["history"][:4]) for row in info["row"]]
        return observed["prompt"], [env.step(answers)[1].tolist() for _ in range(3)]

    assert episode(5) == episode(5)
    assert episode(5) != episode(6)


def test_a_replay_pays_for_what_was_really_bought(small):
    env = made(small, "recrl/Replay-v0", 20, weeks=3, origin=25)
    _, info = env.reset(seed=1)
    users = np.array([row["user"] for row in info["row"]])
    tags = [row["history"][:4] for row in info["row"]]
    answers = [small.task.catalog.render(some) for some in tags]
    for _, bought in baskets(small.task.data.panel, users, 25, 28):
        _, rewards, _, _, info = env.step(answers)
        assert np.array_equal(info["bought"], bought)
        assert rewards.tolist() == [mine[list(some)].sum() for mine, some in zip(bought, tags, strict=True)]


def test_what_cannot_be_is_refused(small):
    told = copy.copy(small.task)
    told.histories = object()
    with pytest.raises(SimulatorError, match="simulated weeks hold no products"):
        shop.ShopVector(1, task=told)
    assert shop.ShopVector(1, task=told, behaviour="replay", origin=25).task is told
    with pytest.raises(SimulatorError, match="reward='money' is unknown; use one of clicks, volume, return"):
        shop.ShopVector(1, task=small.task, reward="money")
    with pytest.raises(SimulatorError, match=r"num_envs=500: \d+ households have enough history"):
        shop.ShopVector(500, task=small.task)
    with pytest.raises(SimulatorError, match="origin=50, weeks=4: the data end with week 51"):
        shop.ShopVector(1, task=small.task, behaviour="replay", origin=50)


@pytest.mark.parametrize("name", ["recrl/Shop-v0", "recrl/Replay-v0"])
def test_forks_part_by_what_they_are_shown_alone(small, name):
    env = made(small, name, number=60, weeks=3).unwrapped
    env.reset(seed=0)
    likes, other, same = env, env.fork(), env.fork()
    answers = [small.task.catalog.render(row["history"][:4]) for row in env.rows]
    for _ in range(2):
        shown = (answers, [""] * 60, answers)
        weeks = [one.step(texts) for one, texts in zip((likes, other, same), shown, strict=True)]
    prompts, alone, again = (observed["prompt"] for observed, *_ in weeks)
    assert prompts == again
    # What was shown before is told in what is observed, unless the future is the real one.
    assert (prompts != alone) == (name == "recrl/Shop-v0")
