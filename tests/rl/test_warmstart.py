import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from recrl.envs.catalog import Catalog
from recrl.rl import policy
from recrl.rl import warmstart as module
from recrl.rl.decoding import deploy
from recrl.rl.policy import PolicyConfig, TinyConfig
from recrl.rl.warmstart import WarmStartConfig, _batches, sample_list, warm_start

SPEC = importlib.util.spec_from_file_location("tiny_models", Path(__file__).with_name("tiny_models.py"))
tiny_models = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tiny_models)


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


def test_each_target_tag_is_as_likely_as_another():
    rng = np.random.default_rng(0)
    counts = np.bincount(
        [t for _ in range(4000) for t in sample_list([0, 1, 2, 3], [], 2, 4, rng)], minlength=4
    )
    assert counts / 8000 == pytest.approx(np.full(4, 0.25), abs=0.02)


def test_an_epoch_visits_nearly_every_episode_once():
    lengths = np.random.default_rng(0).integers(1, 100, 1000).tolist()
    batches = _batches(lengths, 16, np.random.default_rng(0))
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
        tags=catalog.tags,
        texts=[row["prompt"][0]["content"] for row in rows],
    )
    config = WarmStartConfig(steps=80, prompts_per_step=16, lists_per_prompt=2)
    losses = warm_start(model, tokenizer, rows[:300], catalog, 2, config, seed=0)
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    held_out = rows[300:]
    answers = [
        catalog.parse(a) for a in deploy(model, tokenizer, [r["prompt"] for r in held_out], catalog, 2)
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
    _, tokenizer = policy.load(config, tags=catalog.tags, texts=[row["prompt"][0]["content"] for row in rows])
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
    found = warm_start(made[0], tokenizer, rows, catalog, 2, steps, seed=0)

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
        expected = warm_start(made[1], tokenizer, rows, catalog, 2, steps, seed=0)
    assert found == pytest.approx(expected, rel=1e-4)
    assert found[0] > 1
