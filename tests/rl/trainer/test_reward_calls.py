"""Rewards in a training run: asked for early, with what TRL passes to its own, missing, and with memories."""

import math

import fixed_rollouts
import pytest
from transformers import TrainerCallback

from recrl.rewards import RewardEngine, RewardSpec, completion_text, reward
from recrl.rewards.scoring.early import Early
from recrl.rl.trainer.preconditions import check_memories

noted = []


def grade(completions, target):
    return [
        (len(completion_text(c)) % 7 + len(bought)) / 20
        for c, bought in zip(completions, target, strict=True)
    ]


@reward("plain_grade", range=(0, 1))
def plain_grade(completions, target):
    return grade(completions, target)


@reward("judge", range=(0, 1))
async def judge(completions, target):
    return grade(completions, target)


@reward("noting", range=(0, 1))
def noting(completions, trainer_state, log_metric, log_extra):
    log_metric("noted/step", float(trainer_state.global_step))
    log_extra("noted", ["yes"] * len(completions))
    noted.append(trainer_state.global_step)
    return [0.5] * len(completions)


@reward("never", range=(0, 1))
def never(completions):
    raise ConnectionError("nobody is there")


@reward("forgetful", range=(0, 1))
class Forgetful:
    def __call__(self, completions):
        return [0.5] * len(completions)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Log(TrainerCallback):
    def __init__(self):
        self.rows = []

    def on_log(self, args, state, control, logs, **kwargs):
        if "objective" in logs:
            self.rows.append(logs)


def logs(output, name, **options):
    settings = {"constraints": ["novelty >= 0.9 (mean)"], "max_steps": 3, **options}
    trainer = fixed_rollouts.trainer_for(output, rewards=["recall", "novelty", name], **settings)
    log = Log()
    trainer.add_callback(log)
    trainer.train()
    return log.rows


def kept(rows, name):
    return [
        {k.replace(name, "R"): v for k, v in row.items() if k.startswith(("rewards/", "objective", "loss"))}
        for row in rows
    ]


def test_an_async_reward_is_asked_for_group_by_group_and_trains_like_a_plain_one(tmp_path, monkeypatch):
    groups, first_rows = [], []
    add, size = Early.add, fixed_rollouts.SIZE

    def spy(self, first, prompts, completions, columns):
        groups.append(len(completions))
        first_rows.append(first)
        assert {"target", "completion_ids"} <= set(columns)
        return add(self, first, prompts, completions, columns)

    monkeypatch.setattr(Early, "add", spy)
    early = logs(tmp_path / "early", "judge")
    assert groups == [size] * (3 * fixed_rollouts.GROUPS)
    assert sorted(first_rows[: fixed_rollouts.GROUPS]) == [size * g for g in range(fixed_rollouts.GROUPS)]
    plain = logs(tmp_path / "plain", "plain_grade")
    assert len(groups) == 3 * fixed_rollouts.GROUPS  # nothing to gain from asking a plain one early
    assert kept(early, "judge") == kept(plain, "plain_grade")


def test_answers_that_come_early_are_those_that_are_trained_on(tmp_path, monkeypatch):
    """What came early is used: nobody asks again when the batch is whole."""
    used = []
    answers = Early.answers

    def spy(self, completions):
        found = answers(self, completions)
        used.append(sorted(found))
        return found

    monkeypatch.setattr(Early, "answers", spy)
    logs(tmp_path, "judge")
    assert used == [["judge"]] * 3


def test_a_reward_gets_what_trl_passes_to_its_own(tmp_path):
    noted.clear()
    rows = logs(tmp_path, "noting")
    assert noted == [0, 1, 2]
    assert [row["noted/step"] for row in rows] == [0, 1, 2]


def test_what_could_not_be_scored_is_counted_and_trains_on(tmp_path):
    spec = RewardSpec(name="never", on_error="missing", max_missing=1)
    rows = logs(tmp_path, spec, constraints=["never >= 0.5 (mean)"])
    assert [row["rewards/never/failed"] for row in rows] == [1.0] * 3
    # No sample says anything about the constraint: its multiplier stays where it was.
    assert {row["constraint/never >= 0.5/multiplier"] for row in rows} == {0.0}
    assert all(math.isfinite(row["rewards/recall/mean"]) for row in rows)


def test_the_seconds_of_each_reward_are_logged(tmp_path):
    rows = logs(tmp_path, "plain_grade")
    for row in rows:
        assert 0 < row["reward_seconds/plain_grade"] < 5
        assert 0 < row["reward_seconds/recall"] < 5


def test_a_memory_of_each_rank_alone_is_refused_on_several():
    engine = RewardEngine(["forgetful"], resources={}, columns=[])
    check_memories(engine, 1)
    with pytest.raises(ValueError, match=r"'forgetful' remembers samples but has no update .* each of 2"):
        check_memories(engine, 2)


@reward("watching", range=(0, 1))
async def watching(completions, trainer_state, log_metric):
    log_metric("watched", 1.0)
    noted.append(trainer_state.global_step)
    return grade(completions, [[]] * len(completions))


@pytest.mark.parametrize("evaluated", [2, 4])
def test_an_early_reward_sees_the_step_at_hand_whatever_evaluation_asks(tmp_path, evaluated):
    noted.clear()
    logs(tmp_path, "watching", max_steps=2, num_generations_eval=evaluated)
    assert noted == [0] * fixed_rollouts.GROUPS + [1] * fixed_rollouts.GROUPS
