"""The parts of a step add up to its wall time."""

import time
from collections import defaultdict

import fixed_rollouts
import pytest
import torch
from transformers import TrainerCallback

from recrl.rl.trainer import timing
from recrl.rl.trainer.timing import PARTS, StepClock


@pytest.fixture
def clock(monkeypatch):
    """A clock whose time passes by ``clock.wait(seconds)`` alone."""
    now = [100.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    made = StepClock({"train": defaultdict(list)})

    def wait(seconds):
        now[0] += seconds

    made.wait = wait
    made.on_train_begin()
    return made


def logged(clock):
    return {name: clock._metrics["train"][f"time/{name}"] for name in PARTS}


def test_a_part_inside_another_is_counted_once(clock):
    clock.wait(1)
    with clock.part("forward_backward"):
        clock.wait(2)
        with clock.part("other"):
            clock.wait(4)
            with clock.part("rollout"):
                clock.wait(8)
            with clock.part("rewards"):
                clock.wait(16)
        clock.wait(32)
    clock.rest("optimizer_step")
    clock.wait(64)
    clock.on_step_end()
    clock.wait(128)
    clock.on_step_end()
    assert logged(clock) == {
        **{name: [0, 0] for name in PARTS},
        "rollout": [8, 0],
        "rewards": [16, 0],
        "forward_backward": [34, 0],
        "optimizer_step": [64, 0],
        "other": [5, 128],
    }
    assert sum(clock.total.values()) == 255


def test_steps_that_accumulate_gradients_are_one_step(clock):
    for last in (False, False, True):
        clock.wait(1)
        with clock.part("forward_backward"):
            clock.wait(10)
        clock.rest("optimizer_step")
        clock.wait(100)
        (clock.on_step_end if last else clock.on_substep_end)()
    assert [logged(clock)[name] for name in ("forward_backward", "other", "optimizer_step")] == [
        [30],
        [3],
        [300],
    ]


def test_what_passed_before_the_training_does_not_count(clock):
    with clock.part("rollout"):
        clock.wait(50)
    clock.on_train_begin()
    clock.wait(1)
    clock.on_step_end()
    assert sum(clock.total.values()) == 1


def test_a_part_that_raises_ends(clock):
    with pytest.raises(KeyError), clock.part("rewards"):
        clock.wait({}["nothing"])
    clock.wait(1)
    with clock.part("rewards"):
        clock.wait(1)
    clock.wait(2)
    clock.on_step_end()
    assert (clock.total["rewards"], clock.total["other"]) == (1, 3)


class Wall(TrainerCallback):
    """Wall time at the begin of the training and at the end of each step."""

    def __init__(self):
        self.at = []

    def on_train_begin(self, *_, **__):
        self.at.append(time.perf_counter())

    def on_step_end(self, *_, **__):
        self.at.append(time.perf_counter())


def test_the_logged_parts_of_each_step_add_up_to_its_wall_time(tmp_path):
    """With gradients accumulated, an old pass, and parts that take a known time."""
    slow = {"rollout": 0.03, "rewards": 0.02, "old_and_reference": 0.01, "constraints": 0.015}

    def rollout(prompts, trainer):
        time.sleep(slow["rollout"])
        return fixed_rollouts.scripted(prompts, trainer)

    options = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "num_iterations": 2}
    trainer = fixed_rollouts.trainer_for(tmp_path, rollout_func=rollout, **options)

    def delay(owner, name, seconds):
        original = getattr(owner, name)

        def slower(*arguments, **named):
            time.sleep(seconds)
            return original(*arguments, **named)

        setattr(owner, name, slower)

    delay(trainer.engine, "score", slow["rewards"])
    delay(trainer.duals, "update", slow["constraints"])
    passes = []

    def hook(*_):
        if not torch.is_grad_enabled():
            passes.append(1)
            time.sleep(slow["old_and_reference"])

    trainer._sharing_checked = True
    trainer.model.register_forward_pre_hook(hook)
    wall = Wall()
    trainer.add_callback(wall)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "time/other" in entry]
    assert len(steps) == fixed_rollouts.STEPS == 4
    walls = [after - before for before, after in zip(wall.at[:-1], wall.at[1:], strict=True)]
    for entry, seconds in zip(steps, walls, strict=True):
        assert {key[5:] for key in entry if key.startswith("time/")} == set(PARTS)
        assert sum(entry[f"time/{name}"] for name in PARTS) == pytest.approx(seconds, abs=2e-2)
        assert entry["time/forward_backward"] > 0
        assert entry["time/optimizer_step"] > 0
    # Every second step begins with new rollouts, and the step after it reuses them.
    assert len(passes) == 4
    for name, seconds in slow.items():
        fresh, reused = (max(entry[f"time/{name}"] for entry in steps[i::2]) for i in (0, 1))
        assert fresh >= seconds, name
        assert reused == 0, name
    assert sum(trainer.clock.total.values()) == pytest.approx(sum(walls), abs=2e-2)
