"""A run that was stopped and resumed equals the one that was not."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

SPEC = importlib.util.spec_from_file_location("fixed_rollouts", Path(__file__).with_name("fixed_rollouts.py"))
fixed_rollouts = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fixed_rollouts)


def train(output, steps, resume=None):
    """Sampled rollouts, so that the random state counts too."""
    trainer = fixed_rollouts.trainer_for(output, max_steps=6, save_strategy="steps", save_steps=3, beta=0.0)
    if steps < 6:
        from transformers import TrainerCallback

        class Stop(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                control.should_training_stop = state.global_step >= steps

        trainer.add_callback(Stop())
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_stopped_and_resumed_equals_uninterrupted(tmp_path):
    whole = train(tmp_path / "whole", 6)
    train(tmp_path / "parts", 3)
    resumed = train(tmp_path / "parts", 6, resume=str(tmp_path / "parts" / "checkpoint-3"))
    assert resumed.duals.state_dict() == whole.duals.state_dict()
    for (name, one), (_, other) in zip(
        whole.model.state_dict().items(), resumed.model.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name


def test_a_checkpoint_without_multipliers_or_of_another_problem_is_refused(tmp_path):
    train(tmp_path, 3)
    checkpoint = tmp_path / "checkpoint-3"
    state = json.loads((checkpoint / "constraints.json").read_text())
    (checkpoint / "constraints.json").write_text(json.dumps({**state, "spec": "another"}))
    with pytest.raises(ValueError, match="belong to another problem"):
        train(tmp_path, 6, resume=str(checkpoint))
    (checkpoint / "constraints.json").unlink()
    with pytest.raises(FileNotFoundError, match="holds no multipliers"):
        train(tmp_path, 6, resume=str(checkpoint))
