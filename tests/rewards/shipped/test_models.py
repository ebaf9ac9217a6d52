"""Reward models against one forward pass a sample, of the same weights."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

from recrl.rewards import RewardEngine, RewardError, RewardSpec, RewardSpecError
from recrl.rewards.shipped.models import RewardModel

WORDS = [f"w{i}" for i in range(60)]
SPECIAL = ["<pad>", "<bos>", "<eos>", "<user>", "<assistant>", "<unk>"]
TEMPLATE = (
    "{{ '<bos> ' }}{% for m in messages %}{{ '<' + m['role'] + '> ' + m['content'] + ' <eos> ' }}{% endfor %}"
)
SIZE = {
    "vocab_size": len(SPECIAL) + len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {
    "llama": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "roberta": {"type_vocab_size": 1, "max_position_embeddings": 65},
    "bert": {"type_vocab_size": 2},  # looks both ways, with positions that are learned
}


def tokenizer(template=None, **settings):
    """Words at spaces; ``<bos>`` before a text and ``<eos>`` behind it, as BERT's [CLS] and [SEP]."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        "<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    settings = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", **settings}
    return PreTrainedTokenizerFast(tokenizer_object=made, chat_template=template, **settings)


def save(folder, family="llama", labels=1, words=None, kind=AutoModelForSequenceClassification, **changed):
    """A model with random weights, and its tokenizer."""
    options = {**SIZE, **FAMILIES[family], "num_labels": labels, **changed}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind.from_config(AutoConfig.for_model(family, **options)).eval()
    model.save_pretrained(folder)
    (words or tokenizer()).save_pretrained(folder)
    return model


def samples(n=13, seed=0):
    """Prompts of 1 to 25 words that end with a space, completions of 1 to 12."""
    rng = np.random.default_rng(seed)
    return [
        [" ".join(rng.choice(WORDS, rng.integers(1, most))) + end for _ in range(n)]
        for most, end in ((26, " "), (13, ""))
    ]


def alone(model, words, text, **options):
    """Logits of a text in a row by itself."""
    with torch.no_grad():
        return model(**words(text, return_tensors="pt", **options)).logits[0].double()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_score_is_that_of_the_text_alone_however_the_tokenizer_pads(tmp_path, family, side):
    words = tokenizer(padding_side=side)
    model = save(tmp_path, family, words=words)
    prompts, completions = samples()
    expected = [
        alone(model, words, p + c)[0].sigmoid().item() for p, c in zip(prompts, completions, strict=True)
    ]
    assert np.ptp(expected) > 0.1
    for batch_size in (1, 4, 100):
        reward = RewardModel(str(tmp_path), batch_size=batch_size, device="cpu")
        np.testing.assert_allclose(reward(prompts=prompts, completions=completions), expected, atol=1e-5)
    assert reward.shortened == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_messages_are_written_by_the_chat_template(tmp_path, family):
    words = tokenizer(TEMPLATE)
    model = save(tmp_path, family, words=words)
    plain = samples()
    prompts = [[{"role": "user", "content": text.strip()}] for text in plain[0]]
    completions = [[{"role": "assistant", "content": text}] for text in plain[1]]
    expected = [
        alone(
            model, words, f"<bos> <user> {p.strip()} <eos> <assistant> {c} <eos>", add_special_tokens=False
        )[0].sigmoid()
        for p, c in zip(*plain, strict=True)
    ]
    reward = RewardModel(str(tmp_path), batch_size=4, device="cpu")
    np.testing.assert_allclose(reward(prompts=prompts, completions=completions), expected, atol=1e-5)
    # A completion may be text, too.
    np.testing.assert_allclose(reward(prompts=prompts, completions=plain[1]), expected, atol=1e-5)


def test_without_a_chat_template_the_texts_of_the_messages_follow_one_another(tmp_path):
    words = tokenizer()
    model = save(tmp_path, words=words)
    prompt = [{"role": "system", "content": "w1 w2"}, {"role": "user", "content": "w3"}]
    [score] = RewardModel(str(tmp_path), device="cpu")([prompt], [[{"role": "assistant", "content": "w4"}]])
    assert score == pytest.approx(alone(model, words, "w1 w2 w3 w4")[0].sigmoid().item(), abs=1e-6)


@pytest.mark.parametrize("label", [1, "good"])
@pytest.mark.parametrize(
    ("activation", "apply"),
    [("sigmoid", torch.sigmoid), ("softmax", lambda row: row.softmax(0)), ("none", lambda row: row)],
)
def test_label_and_activation(tmp_path, label, activation, apply):
    words = tokenizer()
    model = save(tmp_path, labels=3, words=words, id2label={0: "bad", 1: "good", 2: "odd"})
    prompts, completions = samples(5)
    reward = RewardModel(str(tmp_path), label=label, activation=activation, device="cpu")
    expected = [
        apply(alone(model, words, p + c))[1].item() for p, c in zip(prompts, completions, strict=True)
    ]
    np.testing.assert_allclose(reward(prompts, completions), expected, atol=1e-5)


def test_logits_have_the_range_of_the_config(tmp_path):
    words = tokenizer()
    model = save(tmp_path, words=words)
    with torch.no_grad():
        model.score.weight *= 30
    model.save_pretrained(tmp_path)
    prompts, completions = samples(8)
    entry = {
        "name": "quality",
        "use": "reward_model",
        "params": {"model": str(tmp_path), "activation": "none", "device": "cpu"},
    }
    wide = RewardEngine([RewardSpec(**entry, range=(-1000, 1000))], resources={}, columns=[])
    expected = [alone(model, words, p + c)[0] for p, c in zip(prompts, completions, strict=True)]
    assert max(expected) > 1
    np.testing.assert_allclose(
        wide.score(prompts, completions, {}, group_size=1)[:, 0], expected, rtol=1e-4, atol=1e-4
    )
    narrow = RewardEngine([RewardSpec(**entry)], resources={}, columns=[])
    with pytest.raises(RewardError, match="outside the declared range"):
        narrow.score(prompts, completions, {}, group_size=1)


# --- texts that are too long ---


def test_a_long_prompt_loses_its_beginning_and_the_opening_token_stays(tmp_path, caplog):
    words = tokenizer()
    model = save(tmp_path, words=words)
    prompt, completion = " ".join(WORDS[:30]) + " ", "w31 w32 w33"
    reward = RewardModel(str(tmp_path), max_length=10, device="cpu")
    scores = reward([prompt, "w1 ", prompt], [completion, "w2", completion])
    # <bos>, five words of the prompt, the completion, <eos>
    cut = alone(model, words, "w25 w26 w27 w28 w29 w31 w32 w33")[0].sigmoid().item()
    whole = alone(model, words, "w1 w2")[0].sigmoid().item()
    np.testing.assert_allclose(scores, [cut, whole, cut], atol=1e-5)
    assert reward.shortened == 2
    assert [record.getMessage().count("the first has 35 tokens") for record in caplog.records] == [1]


def test_a_long_conversation_is_cut_before_the_answer(tmp_path):
    words = tokenizer(TEMPLATE)
    model = save(tmp_path, words=words)
    prompt = [{"role": "user", "content": " ".join(WORDS[:30])}]
    answer = [{"role": "assistant", "content": "w31 w32"}]
    [score] = RewardModel(str(tmp_path), max_length=8, device="cpu")([prompt], [answer])
    text = "<bos> w28 w29 <eos> <assistant> w31 w32 <eos>"
    expected = alone(model, words, text, add_special_tokens=False)[0].sigmoid().item()
    assert score == pytest.approx(expected, abs=1e-5)


def test_a_completion_is_never_cut(tmp_path):
    save(tmp_path, words=tokenizer())
    reward = RewardModel(str(tmp_path), max_length=6, device="cpu")
    assert len(reward(["w1 w2 w3 "], ["w4 w5 w6 w7"])) == 1  # with <bos> and <eos> just six
    with pytest.raises(RewardError, match="a completion has 7 tokens with what frames it, more than max_le"):
        reward(["w1 "], ["w4 w5 w6 w7 w8"])


def test_the_longest_text_is_what_the_model_was_made_for(tmp_path):
    words = tokenizer()
    model = save(tmp_path, "bert", words=words)  # 64 positions
    [score] = RewardModel(str(tmp_path), device="cpu")([" ".join([*WORDS, *WORDS]) + " "], ["w1"])
    kept = " ".join([*WORDS[-1:], *WORDS, "w1"])  # 62 words, <bos> and <eos>
    assert score == pytest.approx(alone(model, words, kept)[0].sigmoid().item(), abs=1e-5)


def test_positions_that_a_model_lacks_are_no_room(tmp_path):
    save(tmp_path / "bert", "bert", words=tokenizer())
    with pytest.raises(ValueError, match=r"max_length=100: .* has positions for 64 tokens only"):
        RewardModel(str(tmp_path / "bert"), max_length=100, device="cpu")
    with pytest.raises(ValueError, match="max_length=-1 must be at least 1"):
        RewardModel(str(tmp_path / "bert"), max_length=-1, device="cpu")
    # RoBERTa counts from the position behind the one of its padding.
    words = tokenizer()
    model = save(tmp_path / "roberta", "roberta", words=words, max_position_embeddings=65)
    [score] = RewardModel(str(tmp_path / "roberta"), device="cpu")([" ".join([*WORDS, *WORDS]) + " "], ["w1"])
    kept = " ".join([*WORDS[-1:], *WORDS, "w1"])  # 62 words, <bos> and <eos>: 64 of 65 positions
    assert score == pytest.approx(alone(model, words, kept)[0].sigmoid().item(), abs=1e-5)


def test_weights_of_another_type(tmp_path):
    words = tokenizer()
    model = save(tmp_path, words=words)
    prompts, completions = samples(4)
    reward = RewardModel(str(tmp_path), dtype="bfloat16", batch_size=1, device="cpu")
    halved = model.to(torch.bfloat16)
    texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    expected = [alone(halved, words, text)[0].sigmoid().item() for text in texts]
    found = reward(prompts, completions)
    np.testing.assert_allclose(found, expected, atol=0.01)
    exact = RewardModel(str(tmp_path), device="cpu")(prompts, completions)
    assert 1e-5 < np.abs(np.subtract(exact, found)).max() < 0.02


# --- models that cannot be used, refused before training ---


def test_a_model_without_a_padding_token_scores_one_text_at_a_time(tmp_path):
    # Where the padding is the token that ends a text, the model would look for the end in the wrong place.
    words = tokenizer(pad_token="<eos>")
    model = save(tmp_path, pad_token_id=None, words=words)
    with pytest.raises(ValueError, match=r"batch_size=16: .* no padding token of its own.*set batch_size=1"):
        RewardModel(str(tmp_path), device="cpu")
    prompts, completions = samples(4)
    expected = [alone(model, words, p + c)[0].sigmoid() for p, c in zip(prompts, completions, strict=True)]
    scores = RewardModel(str(tmp_path), batch_size=1, device="cpu")(prompts, completions)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_a_padding_token_of_the_tokenizer_alone_will_do(tmp_path):
    words = tokenizer()
    model = save(tmp_path, pad_token_id=None, words=words)
    prompts, completions = samples(6)
    expected = [alone(model, words, p + c)[0].sigmoid() for p, c in zip(prompts, completions, strict=True)]
    scores = RewardModel(str(tmp_path), device="cpu")(prompts, completions)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_a_model_without_a_trained_head_is_refused(tmp_path):
    save(tmp_path, kind=AutoModelForCausalLM)
    with pytest.raises(ValueError, match=r"no trained classifier: it has no weights for score\.weight"):
        RewardModel(str(tmp_path))


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        (3, {}, "label=None: set one of the 3 labels of .*: LABEL_0, LABEL_1, LABEL_2"),
        (3, {"label": "good"}, "label='good': set one of"),
        (3, {"label": 3}, "label=3: set one of"),
        (1, {"activation": "softmax"}, "single label is always 1: use sigmoid"),
        (1, {"activation": "tanh"}, "activation='tanh' must be one of sigmoid, softmax, none"),
        (1, {"dtype": "int8"}, "dtype='int8' must be one of float32"),
        (1, {"batch_size": 0}, "batch_size=0 must be at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, labels, settings, message):
    save(tmp_path, labels=labels)
    with pytest.raises(ValueError, match=message):
        RewardModel(str(tmp_path), **settings)


def test_a_wrong_name_fails_when_the_engine_is_made(tmp_path):
    spec = RewardSpec(name="quality", use="reward_model", params={"model": str(tmp_path / "absent")})
    with pytest.raises(RewardSpecError, match=r"'quality': .*absent.* cannot be loaded"):
        RewardEngine([spec], resources={}, columns=[])


def test_looking_rewards_up_loads_neither_torch_nor_transformers():
    code = (
        "import sys, recrl.rewards; recrl.rewards.resolve('reward_model');"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
