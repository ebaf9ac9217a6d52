"""Entity slots in front of a model: what changes, and what stays as it is."""

import json

import numpy as np
import pytest
import tiny_models
import torch
from entities import TITLES, store_in
from tiny_models import VOCABULARY

from recrl.envs.entities.marks import mark, spelled
from recrl.rl import policy
from recrl.rl.decoding.generate import _with_transformers, generate
from recrl.rl.policy import slots
from recrl.rl.policy.errors import PolicyError
from recrl.rl.policy.loading import save_policy
from recrl.rl.policy.settings import LoraConfig, PolicyConfig, TinyConfig
from recrl.rl.prefix.packing import continuation_logits
from recrl.rl.prefix.sharing import can_share
from recrl.rl.sampling import Sampling

# Gemma scales what it looks up, in an embedding of its own: a slot would need the scale too.
REFUSED = ("gemma", "gemma3_text")
TRIED = ("llama", "qwen3", "qwen3_moe", "gpt2", "opt", "smollm3", "granite", "deepseek_v3")
TAGS = [f"tag {letter}" for letter in "abcdefghijkl"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return store_in(tmp_path_factory.mktemp("entities"))


@pytest.fixture
def tiny(store):
    config = PolicyConfig(tiny=TinyConfig(hidden=32, vocabulary=300))
    model, tokenizer = policy.load(config, options=TAGS, texts=[f"{title}\n" for title in TITLES])
    layer = slots.add(model, store, 16, seed=0)
    slots.read_marks(tokenizer, store, layer.num_embeddings)
    return model.eval(), tokenizer


@pytest.mark.parametrize("family", TRIED)
def test_without_slots_a_model_is_the_same_bit_for_bit_and_with_them_prompts_are_still_shared(family, store):
    model = tiny_models.build(family)
    batch = tiny_models.ragged()
    before = model(input_ids=batch[0]).logits
    layer = slots.add(model, store, 16, seed=0)
    assert torch.equal(model(input_ids=batch[0]).logits, before)
    prompts = batch[0].clone()
    prompts[:, -4:-1] = VOCABULARY + torch.tensor([[1, 7, 1], [2, 2, 3], [39, 0, 4]])
    logits = model(input_ids=prompts).logits
    assert logits.shape == before.shape, "no answer can hold a slot"
    assert (logits[:, -1] - before[:, -1]).abs().max() > 1e-3, "slots are read"
    assert can_share(model, 40)
    both = [
        continuation_logits(model, (prompts, batch[1]), (batch[2], batch[3]), shared)
        for shared in (True, False)
    ]
    kept = both[0][1] != -100
    assert (both[0][0][kept] - both[1][0][kept]).abs().max() < 1e-3
    tied = model.get_output_embeddings().weight is layer.weight
    assert tied == bool(model.config.get_text_config().tie_word_embeddings)


@pytest.mark.parametrize("family", REFUSED)
def test_an_embedding_of_another_kind_is_refused_by_name(family, store):
    with pytest.raises(PolicyError, match="cannot take entity slots"):
        slots.add(tiny_models.build(family), store, 16, seed=0)


def test_a_slot_is_the_adaptor_of_the_stored_vector_made_once_for_each_entity_of_a_batch(tiny, store):
    model, _ = tiny
    layer, asked = slots.of(model), []

    class Counting:
        dim = store.dim

        def vectors(self, rows):
            asked.append(len(rows))
            return store.vectors(rows)

    with layer.reading(Counting()):
        found = layer(torch.tensor([[5, layer.num_embeddings + 3, layer.num_embeddings + 3]] * 50))
    assert asked == [1]
    first, last = layer.adaptor.inward, layer.adaptor.outward
    h = torch.from_numpy(store.vectors(np.array([3]))[0])
    expected = last.weight @ (first.weight @ h + first.bias).clamp(min=0) + last.bias
    torch.testing.assert_close(found[0, 1], expected)
    assert torch.equal(found[0, 0], layer.weight[5])
    assert 0.5 < found[0, 1].norm() / layer.weight.norm(dim=1).mean() < 2, "about as long as a token"


def test_generation_reads_slots_alike_here_and_in_transformers(tiny):
    model, _ = tiny
    v = slots.of(model).num_embeddings
    prompts = [[5, v + 1, v + 2, 9], [6, v + 3, 8, v + 39]]
    sampling = Sampling(6, ends=(1,), temperature=0.0)
    here = generate(model, prompts, sampling)
    assert here == _with_transformers(model, prompts, sampling, None, None)
    assert max(max(answer) for answer in here) < v


def test_a_saved_policy_is_loaded_with_its_slots_and_is_an_ordinary_folder_too(tiny, tmp_path):
    model, tokenizer = tiny
    save_policy(model, tokenizer, tmp_path / "policy")
    loaded, its = policy.load(PolicyConfig(model=str(tmp_path / "policy")))
    prompt = [{"role": "user", "content": f"w1\n{mark(TITLES[4])}{mark('unknown, tag a')}{mark(TITLES[5])}"}]
    ids = tokenizer.apply_chat_template(prompt, return_dict=True)["input_ids"]
    assert its.apply_chat_template(prompt, return_dict=True)["input_ids"] == ids
    assert sum(i >= slots.of(model).num_embeddings for i in ids) == 2
    ids = torch.tensor([ids])
    assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)
    assert loaded.get_output_embeddings().weight is slots.of(loaded).weight
    config = json.loads((tmp_path / "policy" / "tokenizer_config.json").read_text())
    assert "ReadsMarks" not in config["tokenizer_class"]


def test_another_encoders_store_is_refused(tiny, tmp_path, monkeypatch):
    model, tokenizer = tiny
    save_policy(model, tokenizer, tmp_path / "policy")
    path = tmp_path / "policy" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "entity_slots": {**config["entity_slots"], "encoder": "other"}}))
    with pytest.raises(PolicyError, match=r"encoder other.*recrl hybrid train"):
        policy.load(PolicyConfig(model=str(tmp_path / "policy")))
    path.write_text(json.dumps({**config, "entity_slots": {**config["entity_slots"], "store": "/nowhere"}}))
    with pytest.raises(PolicyError, match=r"/nowhere holds no whole store.*recrl hybrid store"):
        policy.load(PolicyConfig(model=str(tmp_path / "policy")))


def test_adapters_are_put_around_a_policy_with_slots_and_saved_beside_it(tiny, tmp_path):
    save_policy(*tiny, tmp_path / "policy")
    config = PolicyConfig(model=str(tmp_path / "policy"), lora=LoraConfig(rank=2))
    model, tokenizer = policy.load(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.fill_(0.1)
    assert not any("adaptor" in name for name, value in model.named_parameters() if value.requires_grad)
    save_policy(model, tokenizer, tmp_path / "adapted")
    again, _ = policy.load(config.at(tmp_path / "adapted"))
    ids = torch.tensor([[5, slots.of(again).num_embeddings + 3, 7]])
    plain = tiny[0](input_ids=ids).logits
    assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)
    assert (model(input_ids=ids).logits - plain).abs().max() > 1e-3


def test_gradients_of_the_adaptor_are_the_same_under_gradient_checkpointing(tiny):
    model, _ = tiny
    layer = slots.of(model)
    model.requires_grad_(False)
    layer.adaptor.requires_grad_(True)
    ids = torch.tensor([[5, layer.num_embeddings + 3, 7, 8]])
    found = []
    for checkpointing in (False, True):
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(input_ids=ids, labels=ids.clamp(max=9), use_cache=False).loss.backward()
        found.append([p.grad.clone() for p in layer.adaptor.parameters()])
        model.zero_grad()
    assert all(grad.abs().sum() > 0 for grad in found[0])
    assert tiny_models.relative(*found) < 1e-6


def test_a_prompt_without_slots_gives_the_adaptor_gradients_of_zero(tiny):
    """Where ranks share weights, or wait for each other's gradients, all of them need some."""
    model, _ = tiny
    model(input_ids=torch.tensor([[5, 6, 7]])).logits.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in slots.of(model).adaptor.parameters())


def test_the_reference_of_a_training_gets_slots_of_its_own(tiny, store):
    model, _ = tiny
    other, _ = policy.load(
        PolicyConfig(tiny=TinyConfig(hidden=32, vocabulary=300)),
        options=TAGS,
        texts=[f"{title}\n" for title in TITLES],
    )
    slots.copy(model, other)
    ids = torch.tensor([[5, slots.of(model).num_embeddings + 3, 7]])
    assert torch.equal(other(input_ids=ids).logits, model(input_ids=ids).logits)
    with torch.no_grad():
        slots.of(model).adaptor.outward.bias += 1
    assert not torch.equal(other(input_ids=ids).logits, model(input_ids=ids).logits)


def test_texts_without_known_titles_are_tokenised_as_before(tiny):
    _, tokenizer = tiny
    plain = "tag a\nmilk"
    assert tokenizer(plain)["input_ids"] == tokenizer([plain, "x"])["input_ids"][0]
    unknown = f"w1\n{mark('unknown, tag a')}w2"
    assert tokenizer(unknown)["input_ids"] == tokenizer(spelled(unknown))["input_ids"]
    batch = tokenizer([mark(TITLES[0]), "tag a\ntag b\n"], padding=True, return_tensors="pt")
    assert batch["input_ids"].shape == (2, 2)
    assert batch["attention_mask"].tolist() == [[0, 1], [1, 1]]
    assert isinstance(tokenizer.decode([5, 100_000]), str), "a log may show a prompt"


@pytest.mark.parametrize(
    "options",
    [
        {"text_pair": "milk"},
        {"truncation": True, "max_length": 3},
        {"stride": 2},
        {"is_split_into_words": True},
        {"return_offsets_mapping": True},
        {"return_overflowing_tokens": True},
        {"return_special_tokens_mask": True},
        {"return_token_type_ids": True},
        {"return_length": True},
    ],
)
def test_an_option_that_marked_titles_are_not_read_with_is_refused_by_name(tiny, options):
    _, tokenizer = tiny
    (name, *_) = options
    text = [mark(TITLES[0])] if name == "is_split_into_words" else mark(TITLES[0])
    with pytest.raises(PolicyError, match=rf"^{name}=.*marks\.spelled"):
        tokenizer(text, **options)


def test_pairs_with_marked_titles_are_refused_wherever_they_stand(tiny):
    _, tokenizer = tiny
    with pytest.raises(PolicyError, match=r"^text_pair="):
        tokenizer("milk", mark(TITLES[0]))
    with pytest.raises(PolicyError, match=r"^text_pair="):
        tokenizer([("milk", mark(TITLES[0]))])


def test_padding_of_marked_titles_is_that_of_other_texts(tiny):
    _, tokenizer = tiny
    marked, plain = [mark(TITLES[0]), f"{mark(TITLES[1])}tag a\n"], ["tag a\n", "tag a\ntag b\n"]
    for options in (
        {"padding": "max_length", "max_length": 6},
        {"padding": True, "pad_to_multiple_of": 4, "padding_side": "right"},
        {"padding": True, "return_attention_mask": False},
        {},
    ):
        found, known = tokenizer(marked, **options), tokenizer(plain, **options)
        assert found.keys() == known.keys(), options
        assert [len(ids) for ids in found["input_ids"]] == [len(ids) for ids in known["input_ids"]], options
        if "attention_mask" in known:
            assert found["attention_mask"] == known["attention_mask"], options
