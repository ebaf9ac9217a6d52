"""A run that was stopped and resumed equals the one that was not, bit for bit."""

import contextlib
import json
import random
import shutil
from collections import deque

import fixed_rollouts
import poisoned
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, TrainerCallback

from recrl.envs.storage import states
from recrl.rewards import RewardError, reward
from recrl.rl import policy
from recrl.rl.distributed import checkpoints
from recrl.rl.distributed.checkpoints import CheckpointError
from recrl.rl.policy import adapters

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


class Log(TrainerCallback):
    def __init__(self):
        self.rows = []

    def on_log(self, args, state, control, logs, **kwargs):
        if "objective" in logs:
            kept = ("objective", "rewards/", "constraint/", "loss", "kl", "conflict/", "completions/")
            self.rows.append(
                {"step": state.global_step, **{k: v for k, v in logs.items() if k.startswith(kept)}}
            )


def train(output, stop=None, resume=None, watch=(), **options):
    """Sampled rollouts, so that the random state counts too; returns the trainer, prompts asked, and logs."""
    settings = {"data": fixed_rollouts.rows()[:PROMPTS], "max_steps": STEPS, "save_strategy": "steps"}
    if dropout := options.pop("adapters", None):
        options["change"] = lambda model: adapted(model, dropout)
    elif options.get("beta"):  # the reference is loaded from where the policy was
        options["change"] = lambda model: reloaded(model, output.with_name("policy"))
    trainer = fixed_rollouts.trainer_for(output, **{**settings, "save_steps": 100, "beta": 0.0, **options})
    log, asked, score = Log(), [], trainer.engine.score

    def spy(prompts, *arguments):
        asked.append([prompt[0]["content"] for prompt in prompts])
        return score(prompts, *arguments)

    trainer.engine.score = spy
    for callback in (log, *watch):
        trainer.add_callback(callback)
    if stop:
        trainer.add_callback(fixed_rollouts.Stop(stop))
    trainer.train(resume_from_checkpoint=resume)
    return trainer, asked, log.rows


def reloaded(model, folder):
    if not folder.exists():
        model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def adapted(model, dropout):
    """Adapters that a warm start has moved."""
    model = adapters.add(model, policy.LoraConfig(rank=4, dropout=dropout), seed=1)
    for i, (name, value) in enumerate(model.named_parameters()):
        if ".lora_B." in name:
            value.data.normal_(std=0.05, generator=torch.Generator().manual_seed(i))
    return model


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
    "adapters": {"adapters": 0.1, "num_iterations": 2},
    "adapters and kl": {"adapters": 0.1, "num_iterations": 2, "beta": 0.1, "disable_dropout": True},
}


@pytest.mark.parametrize(
    "name", ["plain", *(pytest.param(name, marks=pytest.mark.slow) for name in RUNS if name != "plain")]
)
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


@pytest.mark.parametrize("share", [0.5, 1.01], ids=["at the weights", "at the optimiser"])
def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(tmp_path, share):
    whole, _, _ = train(tmp_path / "whole")
    parts = tmp_path / "parts"
    train(parts, stop=2)
    size = (parts / "checkpoint-2" / "model.safetensors").stat().st_size
    with poisoned.full_disk(int(share * size)), pytest.raises(CheckpointError) as error:
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
    beginning = []

    class Look(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            beginning.extend(names(tmp_path))

    train(tmp_path, stop=2, resume=True, watch=[Look()])
    assert beginning == ["checkpoint-1"]
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]
    assert json.loads((tmp_path / "checkpoint-2" / "manifest.json").read_text())["step"] == 2


# --- what a checkpoint can hold ---


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was stopped after its third step, between two uses of a batch."""
    folder = tmp_path_factory.mktemp("stopped")
    for step, resume in ((1, None), (3, True)):
        train(folder, stop=step, resume=resume, **MEMORY)
    return folder


MEMORY = {"num_iterations": 2, "rewards": ("recall", "novelty", "duplicates", "fresh")}


def resumed(folder):
    return train(folder.parent, stop=4, resume=str(folder), **MEMORY)[0]


@pytest.mark.slow
def test_code_in_any_file_of_a_checkpoint_does_not_run(stopped, tmp_path):
    """Each file in turn, and those that somebody might add; sealed again, so that the manifest agrees."""
    source, marker, ended = stopped / "checkpoint-3", tmp_path / "marker", {}
    trainer = fixed_rollouts.trainer_for(tmp_path / "run", max_steps=4, beta=0.0, **MEMORY)
    added = ["pytorch_model.bin", "scaler.pt", "trainer-rank0.pt", "adapter_model.bin", "optimizer.bin"]
    for name in [*checkpoints.read(source).files, *added]:
        folder = tmp_path / name / "checkpoint-3"
        shutil.copytree(source, folder)
        if name in added:
            torch.save({}, folder / name)
        if name == "pytorch_model.bin":
            (folder / "model.safetensors").unlink()
        poisoned.plant(folder / name, marker)
        poisoned.seal_again(folder)
        try:
            trainer.train(resume_from_checkpoint=str(folder))
        except CheckpointError as error:
            ended[name] = str(error)
        assert not marker.exists(), name
    assert all("checkpoint-3 cannot be gone on from: " in message for message in ended.values())
    assert all("\n" not in message for message in ended.values())
    assert ended.keys() == {
        *(
            "config.json",
            "model.safetensors",
            "pytorch_model.bin",
            "optimizer.pt",
            "scheduler.pt",
            "scaler.pt",
        ),
        *("rng_state.pth", "trainer_state.json", "constraints.json"),
        *("trainer-rank0.json", "trainer-rank0.safetensors", "trainer-rank0.pt"),
    }, "the others are not read"


def test_one_flipped_bit_anywhere_is_passed_over(stopped, tmp_path, caplog):
    """200 places, half of them in the manifest."""
    run, draw = tmp_path / "run", random.Random(0)
    shutil.copytree(stopped, run)
    earlier, last = run / "checkpoint-1", run / "checkpoint-3"
    others = sorted(checkpoints.read(last).files)
    assert checkpoints.newest(run) == last
    for trial in range(200):
        path = last / ("manifest.json" if trial % 2 else draw.choice(others))
        good = path.read_bytes()
        bad, place = bytearray(good), draw.randrange(len(good))
        bad[place] ^= 1 << draw.randrange(8)
        path.write_bytes(bad)
        caplog.clear()
        assert checkpoints.newest(run) == earlier, (path.name, place)
        assert "checkpoint-3 is skipped" in caplog.text
        if trial < 20:
            with pytest.raises(CheckpointError, match="auto takes the newest whole one") as error:
                checkpoints.check(last, 1, "replicated")
            assert "\n" not in str(error.value)
        path.write_bytes(good)
    assert checkpoints.newest(run) == last


def as_of_an_earlier_version(folder, change=lambda state: state):
    stem = folder / "trainer-rank0"
    torch.save(change(states.read(stem)), folder / "trainer-rank0.pt")
    for path in folder.glob("trainer-rank0.[js]*"):
        path.unlink()
    poisoned.seal_again(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["crc"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_checkpoints_of_earlier_versions_go_on(stopped, tmp_path):
    new, old = (tmp_path / name / "checkpoint-3" for name in ("new", "old"))
    for folder in (new, old):
        shutil.copytree(stopped / "checkpoint-3", folder)
    as_of_an_earlier_version(old)
    assert_same(resumed(old), resumed(new))
    assert checkpoints.newest(old.parent).name == "checkpoint-4"


def test_a_memory_of_an_earlier_version_that_needs_code_is_one_line(stopped, tmp_path):
    folder = tmp_path / "checkpoint-3"
    shutil.copytree(stopped / "checkpoint-3", folder)
    as_of_an_earlier_version(folder, lambda state: {**state, "rewards": deque([1])})
    with pytest.raises(CheckpointError, match=r"it would call collections\.deque") as error:
        resumed(folder)
    assert "\n" not in str(error.value)


class Late:
    """Its memory holds what cannot be saved once it has seen a batch."""

    def __init__(self):
        self.seen = []

    def __call__(self, completions):
        self.seen.append(object())
        return [0.5] * len(completions)

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


reward(name="late", range=(0.0, 1.0))(Late)


def test_a_memory_that_cannot_be_saved_is_found_in_the_first_step(tmp_path):
    message = r"reward 'late': its state_dict\(\) cannot be saved: \['seen'\]\[0\] is a object\. Return"
    with pytest.raises(RewardError, match=message) as error:
        train(tmp_path, rewards=("recall", "novelty", "duplicates", "late"))
    assert "\n" not in str(error.value)


def test_a_policy_from_the_last_checkpoint_is_the_one_that_the_trainer_saves(tmp_path):
    trainer, _, _ = train(tmp_path / "run", stop=2)
    (tmp_path / ".policy.writing").mkdir()  # of a process that was killed
    for _ in range(2):  # another takes its place
        trainer.save_policy(tmp_path / "policy")
    last = policy.PolicyConfig(model=str(tmp_path / "run" / "checkpoint-2"))
    policy.save_policy(policy.load(last)[0], trainer.processing_class, tmp_path / "again")
    assert names(tmp_path) == ["again", "policy", "run"]
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("policy", "again")
    )
    assert first == second
    assert "training_args.bin" not in first, "a pickle that nobody reads"


def test_the_reference_of_adapters_is_what_training_began_with(tmp_path):
    """Not the model below them; and the adapters that are saved are the trained ones."""
    options = {"beta": 0.1, "learning_rate": 1e-2, "rollout_func": fixed_rollouts.scripted}
    trainer, _, logs = train(tmp_path / "run", adapters=1e-9, stop=2, **options)
    assert abs(logs[0]["kl"]) < 1e-6 < 1e-4 < logs[1]["kl"]
    begun = adapted(fixed_rollouts.policy_and_tokenizer()[0], 0.0).state_dict()
    now = trainer.model.state_dict()
    for name in filter(lambda name: ".ref." in name, now):
        assert torch.equal(now[name], begun[name.replace(".ref.", ".default.")])
        assert not torch.equal(now[name], now[name.replace(".ref.", ".default.")])
    trainer.save_policy(tmp_path / "policy")
    last = tmp_path / "run" / "checkpoint-2" / "adapter_model.safetensors"
    assert (tmp_path / "policy" / "adapter_model.safetensors").read_bytes() == last.read_bytes()
    assert not (tmp_path / "policy" / "ref").exists()


def test_a_checkpoint_of_other_adapters_is_one_line(tmp_path):
    trainer, _, _ = train(tmp_path / "run", adapters=0.1, stop=1)
    folder = tmp_path / "run" / "checkpoint-1"
    weights = load_file(folder / "adapter_model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, folder / "adapter_model.safetensors")
    poisoned.seal_again(folder)
    with pytest.raises(
        CheckpointError, match=r"checkpoint-1 cannot be gone on from: weights: .* other adapters"
    ):
        trainer.train(resume_from_checkpoint=str(folder))


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    trainer, _, _ = train(tmp_path / "run", stop=1)
    folder, marker = tmp_path / "policy", tmp_path / "marker"
    trainer.save_policy(folder)
    (folder / "planted.py").write_text(f"open({str(marker)!r}, 'w')\nclass Planted: pass\n")
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        content["auto_map"] = dict.fromkeys(
            ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"), "planted.Planted"
        )
        (folder / name).write_text(json.dumps(content))
    with contextlib.suppress(ValueError):
        policy.load(policy.PolicyConfig(model=str(folder)))
    assert not marker.exists()
