"""Scores of candidates whose context is read once equal those of whole texts."""

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from recrl.rl.reward_model.scoring import Texts, can_share, score

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_labels": 1,
    "pad_token_id": 0,
}


def classifier(kind="qwen3"):
    torch.manual_seed(0)
    if kind == "llama":
        return LlamaForSequenceClassification(LlamaConfig(**SHAPE)).eval()
    return Qwen3ForSequenceClassification(Qwen3Config(**SHAPE)).eval()


def ragged(seed=0):
    """Contexts with other lengths, numbers of candidates, and candidates of one token."""
    draw = torch.Generator().manual_seed(seed)
    contexts = []
    for shared, lengths in ((9, (4, 1, 7)), (1, (2, 2)), (23, (5,)), (4, (1, 1, 3, 8))):
        ids = torch.randint(1, 97, (shared + sum(lengths),), generator=draw).tolist()
        rests, at = [], shared
        for length in lengths:
            rests.append(ids[at : at + length])
            at += length
        contexts.append(Texts(ids[:shared], rests))
    return contexts


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_shared_and_whole_texts_get_the_scores_of_the_model_itself(kind):
    model, contexts = classifier(kind), ragged()
    assert can_share(model, 40)
    with torch.no_grad():
        packed, whole = (score(model, contexts, shared=shared) for shared in (True, False))
        own = [[model(torch.tensor([text])).logits.item() for text in one.whole] for one in contexts]
    torch.testing.assert_close(packed, whole, atol=1e-5, rtol=0)
    for row, expected in zip(packed.tolist(), own, strict=True):
        assert row[: len(expected)] == pytest.approx(expected, abs=1e-5)
        assert row[len(expected) :] == [float("-inf")] * (4 - len(expected))


def test_gradients_are_those_of_whole_texts():
    found = []
    for shared in (True, False):
        model = classifier()
        can_share(model, 40)
        scores = score(model, ragged(), shared=shared)
        scores.masked_select(scores.isfinite()).square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    for packed, whole in zip(*found, strict=True):
        torch.testing.assert_close(packed, whole, atol=1e-4, rtol=1e-3)


def test_texts_are_split_where_they_part_and_each_keeps_a_token():
    texts = [[5, 6, 7, 8], [5, 6, 9], [5, 6]]
    split = Texts.of(texts)
    assert (split.shared, split.rests) == ([5], [[6, 7, 8], [6, 9], [6]])
    assert split.whole == texts
    assert Texts.of([[1, 2, 3]] * 2).rests == [[3], [3]]
    assert Texts([1] * 600, [[2] * 40] * 8).saved == pytest.approx(1 - (600 + 320) / (640 * 8))


@pytest.mark.parametrize(
    ("texts", "message"), [([], "needs candidates"), ([[1], []], "needs"), ([[1, 2], [2, 2]], "first token")]
)
def test_texts_without_anything_in_common_are_refused(texts, message):
    with pytest.raises(ValueError, match=message):
        Texts.of(texts)
