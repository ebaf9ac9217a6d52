import contextlib
import json
import os
import shutil
import subprocess
import sys
import zlib

import killed_warm_starts
import numpy as np
import poisoned
import pytest
import tiny_models
import torch
from killed_warm_starts import STEPS, TAGS, forty_rows, started
from listed import Listed

from recrl.envs.catalog import Catalog
from recrl.envs.tags.teaching import sample_list
from recrl.envs.task import Lines
from recrl.rl import policy
from recrl.rl.decoding.deploy import deploy
from recrl.rl.distributed.checkpoints import CheckpointError
from recrl.rl.policy import warmstart as module
from recrl.rl.policy.resuming import StoppedTraining
from recrl.rl.policy.settings import PolicyConfig, TinyConfig, WarmStartConfig
from recrl.rl.policy.warmstart import _Batches, warm_start


def test_lists_hold_target_tags_and_are_filled_from_the_history_to_their_length():
    rng = np.random.default_rng(0)
    for _ in range(50):
        full = sample_list([1, 2, 3, 4, 5], [9, 8], 3, 20, rng)
        assert len(set(full)) == 3
        assert set(full) <= {1, 2, 3, 4, 5}
        short = sample_list([1], [1, 9, 8, 7], 3, 20, rng)
        assert set(short) == {1, 9, 8}, "the most frequent other tags come first"
        empty = sample_list([1], [1], 4, 20, rng)
        assert len(set(empty)) == 4
        assert {*sample_list([1], [], 4, 20, rng, range(2, 18))} == {0, 1, 18, 19}, "no barred tag fills"
        assert {*sample_list([1], [], 4, 5, rng, [0, 2, 3])} == {1, 4}, "shorter where none is left"


def test_each_target_tag_is_as_likely_as_another():
    rng = np.random.default_rng(0)
    counts = np.bincount(
        [t for _ in range(4000) for t in sample_list([0, 1, 2, 3], [], 2, 4, rng)], minlength=4
    )
    assert counts / 8000 == pytest.approx(np.full(4, 0.25), abs=0.02)


def test_an_epoch_visits_nearly_every_episode_once():
    lengths = np.random.default_rng(0).integers(1, 100, 1000).tolist()
    batches = _Batches(lengths, 16, np.random.default_rng(0))
    visited = [i for _ in range(1000 // 16 - 4) for i in next(batches)]
    assert len(set(visited)) == len(visited)


def test_a_policy_learns_to_answer_from_the_prompt():
    """Users buy the two tags that their prompt names: after the warm start, the deployed list is those."""
    catalog = Catalog([f"tag {letter}" for letter in "abcdefghijklmnop"])
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(400):
        history = rng.permutation(16)[:2].tolist()
        content = f"<user>\n{catalog.render(history)}</user>"
        rows.append({"prompt": [{"role": "user", "content": content}], "target": history, "history": history})
    model, tokenizer = policy.load(
        PolicyConfig(tiny=TinyConfig(hidden=64, vocabulary=300)),
        options=catalog.tags,
        texts=[row["prompt"][0]["content"] for row in rows],
    )
    config = WarmStartConfig(steps=80, prompts_per_step=16, lists_per_prompt=2)
    losses = warm_start(model, tokenizer, rows[:300], Listed(catalog, 2), config, seed=0)
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    held_out = rows[300:]
    answers = [
        catalog.parse(a)
        for a in deploy(model, tokenizer, [r["prompt"] for r in held_out], Lines(catalog.tags, 2))
    ]
    right = [set(a.valid) == set(r["target"]) for a, r in zip(answers, held_out, strict=True)]
    assert np.mean(right) > 0.8


@pytest.mark.parametrize("family", ["llama", "opt", "mistral", "mamba", "eager"])
def test_every_kind_of_model_learns_the_same_as_from_full_rows(family):
    """A prompt that is shared, one behind a window, a state, another attention: losses of two steps."""
    rows = [
        {
            "prompt": [{"role": "user", "content": "buy " + " ".join("abcdefgh"[: 1 + i])}],
            "target": [i % 3, (i + 1) % 3],
            "history": [0, 1],
        }
        for i in range(8)
    ]
    catalog = Catalog(["milk", "bread", "cheese"])
    config = PolicyConfig(tiny=TinyConfig(hidden=32, vocabulary=300))
    _, tokenizer = policy.load(
        config, options=catalog.tags, texts=[row["prompt"][0]["content"] for row in rows]
    )
    size = {"vocab_size": len(tokenizer)}
    options = {
        "llama": {},
        "opt": tiny_models.FAMILIES["opt"],
        "mistral": {"sliding_window": 8},
        "mamba": tiny_models.STATEFUL["mamba"],
        "eager": {},
    }[family]
    attention = {"mamba": None, "eager": "eager"}.get(family, "sdpa")
    name = "llama" if family == "eager" else family
    made = [tiny_models.build(name, {**options, **size}, attention) for _ in range(2)]
    steps = WarmStartConfig(steps=2, prompts_per_step=4, lists_per_prompt=3, learning_rate=1e-3)
    found = warm_start(made[0], tokenizer, rows, Listed(catalog, 2), steps, seed=0)

    def alone(model, tokenizer, prompts, answers):
        total, count = 0.0, 0
        for i, answer in enumerate(answers):
            prompt = tokenizer.apply_chat_template(
                prompts[i * len(prompts) // len(answers)], add_generation_prompt=True, return_dict=True
            )["input_ids"]
            told = tokenizer.encode(answer + tokenizer.eos_token, add_special_tokens=False)
            ids = torch.tensor([[*prompt, *told]])
            logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
            total = total + torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :], reduction="sum")
            count += len(told)
        return total / count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_loss", alone)
        expected = warm_start(made[1], tokenizer, rows, Listed(catalog, 2), steps, seed=0)
    assert found == pytest.approx(expected, rel=1e-4)
    assert found[0] > 1


def test_a_step_that_would_not_fit_is_split_into_parts_with_the_same_gradient(monkeypatch):
    whole, parts = started(), started()
    assert len(whole[2]) == STEPS
    assert [loss.hex() for loss in whole[1]] == [loss.hex() for loss in parts[1]]
    model, _ = policy.load(
        PolicyConfig(tiny=TinyConfig(hidden=32, vocabulary=300)), options=TAGS.tags, texts=["a"]
    )
    # Room for about three of the eight prompts of a step.
    monkeypatch.setattr(module, "ROOM", 3.5 * module.activations(model, 40, 2, 10))
    parts = started()
    sizes = [len(prompts) for prompts, _ in parts[2]]
    assert sum(sizes) == sum(len(prompts) for prompts, _ in whole[2])
    assert STEPS < len(sizes) < sum(sizes)
    assert parts[1] == pytest.approx(whole[1], rel=1e-4)
    monkeypatch.setattr(module, "ROOM", 1)
    assert {len(prompts) for prompts, _ in started()[2]} == {1}, "one prompt with its lists, at least"


def test_the_estimate_of_activations_is_near_what_a_pass_keeps():
    config = PolicyConfig(tiny=TinyConfig(hidden=64, layers=4, vocabulary=300))
    model, tokenizer = policy.load(config, options=TAGS.tags, texts=["milk and tea"])
    prompt, answers = [{"role": "user", "content": "milk and tea " * 30}], ["milk and tea " * 5] * 3
    kept = {p.untyped_storage().data_ptr(): 0 for p in model.parameters()}

    def note(saved):
        kept.setdefault(saved.untyped_storage().data_ptr(), saved.untyped_storage().nbytes())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        loss = module._loss(model, tokenizer, [prompt], answers)
    asked = len(
        tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
    )
    told = len(tokenizer(answers[0])["input_ids"]) + 1
    assert loss.item() > 0
    assert sum(kept.values()) == pytest.approx(module.activations(model, asked, 3, told), rel=0.3)


# --- checkpoints of its own ---


@pytest.fixture(scope="module")
def whole():
    return started()


def assert_equal(found, whole):
    assert [loss.hex() for loss in found[1]] == [loss.hex() for loss in whole[1]]
    for name, value in whole[0].items():
        assert torch.equal(found[0][name], value), name


def test_draws_and_losses_are_those_of_the_saved_results(whole):
    """Taken before there were checkpoints."""
    _, losses, asked, _ = whole
    assert zlib.crc32(json.dumps(asked).encode()) == 104198121
    assert losses == pytest.approx(
        [5.532127, 5.141102, 4.914350, 4.772264, 4.550526, 4.374348, 4.248869, 4.353997, 4.260070], rel=1e-4
    )


def test_stopped_after_any_step_and_resumed_equals_uninterrupted(tmp_path, whole):
    checkpoint, asked = tmp_path / "warm", []
    real = module._loss

    def spy(model, tokenizer, prompts, answers):
        asked.append([[prompt[0]["content"] for prompt in prompts], answers])
        return real(model, tokenizer, prompts, answers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_loss", spy)
        for step in range(1, STEPS + 1):
            torch.manual_seed(step)  # a resume does not depend on what was random before it
            with pytest.raises(StoppedTraining) as stopped:
                started(checkpoint, stop_after=step)
            assert stopped.value.step == step
            assert [path.name for path in tmp_path.iterdir()] == ["warm"]
        found = started(checkpoint)
    assert asked == whole[2]
    assert found[3] == list(range(1, STEPS + 1)), "the steps of the checkpoint are told of again"
    assert_equal(found, whole)


def test_dropout_goes_on_where_it_was(tmp_path):
    config = {"attention_dropout": 0.3}

    def run(checkpoint, stop_after=None):
        torch.manual_seed(0)
        taken = []
        model, tokenizer = policy.load(
            PolicyConfig(tiny=TinyConfig(hidden=32, vocabulary=300)), options=TAGS.tags, texts=["a"]
        )
        for layer in model.model.layers:
            layer.mlp.act_fn = torch.nn.Sequential(
                torch.nn.Dropout(config["attention_dropout"]), torch.nn.SiLU()
            )
        steps = WarmStartConfig(steps=4, prompts_per_step=4, lists_per_prompt=2)
        return warm_start(
            *(model, tokenizer, forty_rows(), Listed(TAGS, 3), steps, 0),
            lambda step, _: taken.append(step),
            checkpoint=checkpoint,
            stop=lambda: len(taken) == stop_after,
        )

    whole = run(None)
    with pytest.raises(StoppedTraining):
        run(tmp_path / "warm", 2)
    assert run(tmp_path / "warm") == whole


def test_adapters_alone_are_trained_kept_and_gone_on_from(tmp_path):
    """With dropout, whose random numbers go on too."""
    config = PolicyConfig(
        tiny=TinyConfig(hidden=32, vocabulary=300), lora=policy.LoraConfig(rank=4, dropout=0.2)
    )

    def run(checkpoint, stop_after=None):
        torch.manual_seed(0)
        taken = []
        model, tokenizer = policy.load(config, options=TAGS.tags, texts=["a"])
        before = {name: value.clone() for name, value in model.state_dict().items()}
        steps = WarmStartConfig(steps=4, prompts_per_step=4, lists_per_prompt=2, learning_rate=0.1)
        with contextlib.suppress(StoppedTraining):
            warm_start(
                *(model, tokenizer, forty_rows(), Listed(TAGS, 3), steps, 0),
                lambda step, _: taken.append(step),
                checkpoint=checkpoint,
                stop=lambda: len(taken) == stop_after,
            )
        return before, model.state_dict()

    before, whole = run(None)
    assert all(torch.equal(value, before[name]) != (".lora_" in name) for name, value in whole.items())
    run(tmp_path / "warm", 2)
    (kept,) = (tmp_path / "warm").glob("*.safetensors")
    assert kept.stat().st_size < sum(value.nbytes for value in before.values())
    _, resumed = run(tmp_path / "warm")
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


def test_a_killed_warm_start_loses_the_steps_since_its_checkpoint_and_nothing_else(tmp_path, whole):
    """Eight real kills, at any moment: within steps and while a checkpoint is written."""
    checkpoint = tmp_path / "warm"
    killed = subprocess.run(
        [sys.executable, killed_warm_starts.__file__, checkpoint, "8"],
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    reached = json.loads(killed.stdout)
    assert reached == sorted(reached)
    assert len(set(reached)) > 2
    assert_equal(started(checkpoint, save_every=1), whole)
    assert {path.name for path in tmp_path.iterdir()} <= {"warm"}


def test_what_was_written_but_not_yet_named_is_gone_on_from(tmp_path, whole):
    with pytest.raises(StoppedTraining):
        started(tmp_path / "warm", stop_after=5)
    (tmp_path / "warm").rename(tmp_path / ".warm.writing")
    found = started(tmp_path / "warm")
    assert len(found[2]) == STEPS - 5
    assert_equal(found, whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "other seed"),
        ({"learning_rate": 1e-3}, "other settings"),
        ({"rows": forty_rows()[:30]}, "other episodes"),
    ],
)
def test_the_checkpoint_of_another_warm_start_is_not_gone_on_from(tmp_path, caplog, change, message):
    with pytest.raises(StoppedTraining):
        started(tmp_path / "warm", stop_after=2)
    found = started(tmp_path / "warm", save_every=4, **change)
    assert message in caplog.text
    assert len(found[2]) == STEPS


def test_another_cadence_goes_on(tmp_path, whole):
    with pytest.raises(StoppedTraining):
        started(tmp_path / "warm", stop_after=2)
    assert_equal(started(tmp_path / "warm", save_every=3), whole)


def test_damage_anywhere_begins_anew_with_a_warning(tmp_path, caplog, whole):
    with pytest.raises(StoppedTraining):
        started(tmp_path / "good", stop_after=4)
    for number, name in enumerate(["state.json", "state.safetensors", "manifest.json"]):
        bad = tmp_path / f"bad {number}"
        shutil.copytree(tmp_path / "good", bad)
        content = bytearray((bad / name).read_bytes())
        content[len(content) // 2] ^= 1
        (bad / name).write_bytes(content)
        caplog.clear()
        found = started(bad)
        assert "begins anew" in caplog.text
        assert len(found[2]) == STEPS
        assert_equal(found, whole)


def test_a_planted_state_runs_no_code_and_is_one_line(tmp_path):
    with pytest.raises(StoppedTraining):
        started(tmp_path / "warm", stop_after=1)
    marker = tmp_path / "marker"
    for name in ("state.json", "state.safetensors"):
        planted = tmp_path / name
        shutil.copytree(tmp_path / "warm", planted)
        poisoned.plant(planted / name, marker)
        poisoned.seal_again(planted)
        with pytest.raises(CheckpointError, match="cannot be gone on from: state: ") as error:
            started(planted)
        assert "\n" not in str(error.value)
    assert not marker.exists()


def test_a_full_disk_is_one_line(tmp_path):
    with (
        poisoned.full_disk(20_000),
        pytest.raises(CheckpointError, match="after step 2 of the warm start") as error,
    ):
        started(tmp_path / "warm", save_every=2)
    assert "GiB are free there; make room" in str(error.value)
    assert not list(tmp_path.iterdir())
