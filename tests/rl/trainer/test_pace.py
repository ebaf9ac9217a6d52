"""The pace at which the multipliers are stepped: the learning rate over its peak, once it has warmed up."""

import fixed_rollouts
import pytest


def paces(output, **options):
    """Pace of every step of a run."""
    trainer = fixed_rollouts.trainer_for(output, max_steps=6, **options)
    update, found = trainer.duals.update, []

    def spy(rewards, group_size, generation, pace):
        found.append(pace)
        return update(rewards, group_size, generation, pace)

    trainer.duals.update = spy
    trainer.train()
    return found


def test_it_is_one_under_a_constant_rate_and_while_the_rate_warms_up(tmp_path):
    assert paces(tmp_path, lr_scheduler_type="constant_with_warmup", warmup_steps=3) == [1.0] * 6


def test_it_falls_with_the_rate(tmp_path):
    found = paces(tmp_path, lr_scheduler_type="linear", warmup_steps=2)
    assert found == pytest.approx([1, 1, 1, 0.75, 0.5, 0.25])


def test_it_is_one_without_a_learning_rate(tmp_path):
    assert paces(tmp_path, learning_rate=0.0) == [1.0] * 6
