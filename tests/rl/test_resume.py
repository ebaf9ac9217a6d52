"""A run that was stopped and resumed equals the one that was not, bit for bit."""

import importlib.util
import json
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from recrl.rewards import reward
from recrl.rl.checkpoints import CheckpointError

SPEC = importlib.util.spec_from_file_location("fixed_rollouts", Path(__file__).with_name("fixed_rollouts.py"))
fixed_rollouts = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fixed_rollouts)

# Two optimiser steps an epoch where a batch serves one of them: eight prompts, four a step.
STEPS, PROMPTS = 6, 8


class Fresh:
    """Share of an answer's tokens that no answer before it had."""

    def __init__(self):
        self.seen = set()

    def __call__(self, completion_ids):
        found = []
        for ids in completion_ids:
            found.append(sum(token not in self.seen for token in ids) / max(len(ids), 1))
            self.seen.update(ids[:1])
        return found

    def state_dict(self):
        return {"seen": sorted(self.seen)}

    def load_state_dict(self, state):
        self.seen = set(state["seen"])


reward(name="fresh", range=(0.0, 1.0))(Fresh)


class Stop(TrainerCallback):
    """As SIGTERM does: a checkpoint after this step, and no more."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


class Log(TrainerCallback):
    def __init__(self):
        self.rows = []

    def on_log(self, args, state, control, logs, **kwargs):
        if "objective" in logs:
            kept = ("objective", "rewards/", "constraint/", "loss", "kl", "conflict/", "completions/")
            self.rows.append(
                {"step": state.global_step, **{k: v for k, v in logs.items() if k.startswith(kept)}}
            )


def train(output, stop=None, resume=None, **options):
    """Sampled rollouts, so that the random state counts too; returns the trainer, prompts asked, and logs."""
    settings = {"data": fixed_rollouts.rows()[:PROMPTS], "max_steps": STEPS, "save_strategy": "steps"}
    if options.get("beta"):  # the reference is loaded from where the policy was
        options["change"] = lambda model: reloaded(model, output.with_name("policy"))
    trainer = fixed_rollouts.trainer_for(output, **{**settings, "save_steps": 100, "beta": 0.0, **options})
    log, asked, score = Log(), [], trainer.engine.score

    def spy(prompts, *arguments):
        asked.append([prompt[0]["content"] for prompt in prompts])
        return score(prompts, *arguments)

    trainer.engine.score = spy
    trainer.add_callback(log)
    if stop:
        trainer.add_callback(Stop(stop))
    trainer.train(resume_from_checkpoint=resume)
    return trainer, asked, log.rows


def reloaded(model, folder):
    if not folder.exists():
        model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def names(folder):
    """What is there but TRL's model card."""
    return sorted(path.name for path in folder.iterdir() if path.name != "README.md")


def assert_same(resumed, whole):
    assert resumed.duals.state_dict() == whole.duals.state_dict()
    for (name, one), (_, other) in zip(
        whole.model.state_dict().items(), resumed.model.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name
    one, other = whole.optimizer.state_dict()["state"], resumed.optimizer.state_dict()["state"]
    for key, moments in one.items():
        assert all(torch.equal(moments[name], other[key][name]) for name in moments), key


RUNS = {
    "plain": {},
    "a memory": {"rewards": ("recall", "novelty", "duplicates", "fresh")},
    "micro-batches": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2},
    "reuse": {"num_iterations": 2, "lr_scheduler_type": "cosine"},
    "reuse of parts": {"per_device_train_batch_size": 8, "steps_per_generation": 2},
    "kl": {"num_iterations": 3, "beta": 0.1},
}


@pytest.mark.parametrize("name", RUNS)
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, name):
    """Stopped after every step: amid an epoch, at its end, or between two uses of a batch."""
    whole, asked, logs = train(tmp_path / "whole", **RUNS[name])
    assert len(logs) == len(asked)
    parts, found, rows = tmp_path / "parts", [], []
    for step in range(1, STEPS + 1):
        last = str(parts / f"checkpoint-{step - 1}") if step > 1 else None
        resumed, some, row = train(parts, stop=step, resume=last, **RUNS[name])
        found, rows = found + some, rows + row
    assert found == asked
    assert len({tuple(batch) for batch in asked}) == len(asked), "the epochs had the same order"
    assert rows == logs
    assert_same(resumed, whole)


def test_checkpoints_rotate_and_nothing_else_is_left(tmp_path):
    train(tmp_path, save_steps=1, save_total_limit=2)
    assert names(tmp_path) == ["checkpoint-5", "checkpoint-6"]


def test_a_torn_checkpoint_is_passed_over(tmp_path, caplog):
    whole, _, _ = train(tmp_path / "whole")
    parts = tmp_path / "parts"
    train(parts, stop=4, save_steps=2)
    weights = parts / "checkpoint-4" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model\.safetensors has"):
        train(parts, resume=str(parts / "checkpoint-4"))
    resumed, _, _ = train(parts, resume=True)
    assert "checkpoint-4 is skipped" in caplog.text
    assert_same(resumed, whole)


def test_another_problem_is_refused(tmp_path):
    train(tmp_path, stop=1)
    with pytest.raises(CheckpointError, match="belong to another problem"):
        train(tmp_path, resume=True, constraints=("novelty >= 0.5 (mean)",))


@contextmanager
def full_disk(size):
    """Files cannot grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("share", [0.5, 1.01], ids=["at the weights", "at the optimiser"])
def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(tmp_path, share):
    whole, _, _ = train(tmp_path / "whole")
    parts = tmp_path / "parts"
    train(parts, stop=2)
    size = (parts / "checkpoint-2" / "model.safetensors").stat().st_size
    with full_disk(int(share * size)), pytest.raises(CheckpointError) as error:
        train(parts, stop=4, resume=True)
    for word in ("checkpoint-4 could not be written", "GiB are free", "(checkpoint-2)", "--resume auto"):
        assert word in str(error.value)
    assert names(parts) == ["checkpoint-2"]
    resumed, _, _ = train(parts, resume=True)
    assert_same(resumed, whole)


def test_a_checkpoint_that_was_being_written_is_in_nobodys_way(tmp_path):
    train(tmp_path, stop=1)
    left = tmp_path / ".writing" / "checkpoint-2"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    train(tmp_path, stop=2, resume=True)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]
    assert json.loads((tmp_path / "checkpoint-2" / "manifest.json").read_text())["step"] == 2
