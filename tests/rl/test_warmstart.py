import numpy as np
import pytest

from recrl.envs.catalog import Catalog
from recrl.rl import policy
from recrl.rl.decoding import deploy
from recrl.rl.policy import PolicyConfig, TinyConfig
from recrl.rl.warmstart import WarmStartConfig, _batches, sample_list, warm_start


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


def test_attention_that_takes_no_mask_is_refused():
    model, tokenizer = policy.load(
        PolicyConfig(tiny=TinyConfig(hidden=32, vocabulary=300)), tags=["a"], texts=["a"]
    )
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="this policy has 'flash_attention_2'"):
        warm_start(model, tokenizer, [], Catalog(["a"]), 1, WarmStartConfig(), seed=0)
