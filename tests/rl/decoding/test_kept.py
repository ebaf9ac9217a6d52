"""An evaluation that was stopped goes on where it was, with the same answers."""

import json

import pytest
import torch

from recrl.rl import policy
from recrl.rl.decoding.deploy import answer_texts
from recrl.rl.decoding.kept import Kept
from recrl.rl.sampling import Sampling

TAGS = [f"tag {i}" for i in range(12)]
PROMPTS = [[{"role": "user", "content": f"name tags for user {i}"}] for i in range(7)]


class _StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def model():
    texts = [prompt[0]["content"] for prompt in PROMPTS]
    return policy.load(
        policy.PolicyConfig(tiny={"hidden": 32, "vocabulary": 300}), options=TAGS, texts=[*TAGS, *texts]
    )


def answers(model, kept=None, stop_after=None):
    """Two answers to each prompt in batches of two prompts; the random state behind them."""

    def on_batch(done):
        if done == stop_after:
            raise _StoppedError

    torch.manual_seed(7)
    texts = answer_texts(
        *model,
        PROMPTS,
        Sampling(max_tokens=6, ends=(int(model[1].eos_token_id),)),
        copies=2,
        batch_size=4,
        kept=kept,
        on_batch=on_batch,
    )
    return texts, torch.get_rng_state().tolist()


@pytest.mark.parametrize("stop_after", [2, 4, 6, 7])
def test_stopped_after_any_batch(model, tmp_path, stop_after):
    whole = answers(model)
    path = tmp_path / "answers" / "trained, sampled.json"
    with pytest.raises(_StoppedError):
        answers(model, Kept(path, "key", urgent=lambda: True), stop_after)
    assert len(json.loads(path.read_text())["texts"]) == 2 * stop_after
    seen = []
    kept = Kept(path, "key", urgent=lambda: seen.append(1) or False)
    assert answers(model, kept) == whole
    assert len(seen) == 4 - -(-stop_after // 2)  # only what was lacking was sampled


def test_answers_of_another_policy_or_damaged_ones_are_not_used(model, tmp_path):
    whole, path = answers(model), tmp_path / "kept.json"
    with pytest.raises(_StoppedError):
        answers(model, Kept(path, "key", urgent=lambda: True), 4)
    content = path.read_bytes()
    assert answers(model, Kept(path, "another key")) == whole
    for damaged in (content[:100], b"", b"[]", b"{}", content.replace(b"tag", b"gat", 1), b"\xff" + content):
        path.write_bytes(damaged)
        assert answers(model, Kept(path, "key")) == whole
