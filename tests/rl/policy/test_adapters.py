"""Adapters: what is trained, what a folder of them holds, and who reads it."""

import json
import shutil

import peft
import pytest
import torch
from fixed_rollouts import CATALOG, rows
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from recrl.rl import policy
from recrl.rl.policy import adapters
from recrl.rl.policy.errors import PolicyError
from recrl.rl.policy.folders import holds_policy
from recrl.rl.policy.loading import merge, save_policy, whole_model
from recrl.rl.policy.settings import LoraConfig, PolicyConfig, TinyConfig

TINY = TinyConfig(hidden=32, vocabulary=300)
LORA = LoraConfig(rank=4, alpha=8)
IDS = torch.arange(24)[None]


def made(lora=LORA, **settings):
    texts = [row["prompt"][0]["content"] for row in rows()]
    return policy.load(PolicyConfig(tiny=TINY, lora=lora, **settings), options=CATALOG.tags, texts=texts)


def moved(model):
    """Adapters as after some training."""
    generator = torch.Generator().manual_seed(0)
    for name, value in model.named_parameters():
        if ".lora_B." in name:
            value.data.normal_(std=0.1, generator=generator)
    return model.eval()


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=IDS).logits


@pytest.fixture
def saved(tmp_path):
    """A folder of adapters around the tiny policy, and their output."""
    model, tokenizer = made()
    save_policy(moved(model), tokenizer, tmp_path / "policy")
    return tmp_path / "policy", logits(model)


def named(saved, tmp_path):
    """The same policy as adapters around a model that has a place of its own."""
    folder, output = saved
    shutil.copytree(folder / "base", tmp_path / "model")
    model, tokenizer = policy.load(PolicyConfig(model=str(tmp_path / "model"), lora=LORA))
    assert adapters.has_adapters(model)
    adapters.restore(model, folder)
    save_policy(model, tokenizer, tmp_path / "named")
    return tmp_path / "named", output


def test_new_adapters_leave_the_model_as_it_is_and_are_all_that_is_trained():
    plain, _ = made(lora=None)
    model, _ = made()
    assert torch.equal(logits(model), logits(plain))
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    layers = [name for name, part in plain.named_modules() if isinstance(part, torch.nn.Linear)]
    assert len(trained) == 2 * (len(layers) - 1), "every linear layer but the head"
    assert all(".lora_" in name for name in trained)
    shapes = {tuple(value.shape) for name, value in model.named_parameters() if ".q_proj.lora_" in name}
    assert shapes == {(4, 32), (32, 4)}


def test_new_adapters_follow_the_seed_and_leave_the_global_generator_alone():
    plain, _ = made(lora=None)
    state, found = torch.get_rng_state(), []
    for seed in (1, 1, 2):
        model = adapters.add(made(lora=None)[0], LORA, seed)
        found.append(model.state_dict()[next(name for name in model.state_dict() if "lora_A" in name)])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert plain.name_or_path == ""


def test_targets_are_names_of_layers():
    model, _ = made(lora=LoraConfig(targets=("q_proj", "layers.1.mlp.up_proj")))
    found = {name.partition(".lora_")[0] for name, value in model.named_parameters() if value.requires_grad}
    ends = [".layers.0.self_attn.q_proj", ".layers.1.mlp.up_proj", ".layers.1.self_attn.q_proj"]
    assert all(name.endswith(end) for name, end in zip(sorted(found), sorted(ends), strict=True))
    for target in ("q_prj", "lm_head", "embed_tokens"):
        with pytest.raises(
            PolicyError, match=f"names '{target}', which is no linear layer.* q_proj.*all-linear"
        ):
            made(lora=LoraConfig(targets=(target,)))


def test_a_folder_of_adapters_is_loaded_with_its_model_from_wherever_it_stands(saved, tmp_path):
    folder, output = saved
    assert holds_policy(folder)
    assert whole_model(folder) == str(folder / "base")
    shutil.move(folder, tmp_path / "elsewhere")
    config = PolicyConfig(tiny=TINY, lora=LORA).at(tmp_path / "elsewhere")
    model, tokenizer = policy.load(config)
    assert torch.equal(logits(model), output)
    assert tokenizer.chat_template
    assert any(value.requires_grad for value in model.parameters())
    # Saved again it takes its model along.
    save_policy(model, tokenizer, tmp_path / "again")
    shutil.rmtree(tmp_path / "elsewhere")
    assert torch.equal(logits(policy.load(config.at(tmp_path / "again"))[0]), output)


def test_others_read_the_folder_too(saved, tmp_path):
    for folder, output in (saved, named(saved, tmp_path)):
        base = AutoModelForCausalLM.from_pretrained(whole_model(folder))
        assert torch.equal(logits(peft.PeftModel.from_pretrained(base, folder)), output)
        assert torch.equal(logits(peft.AutoPeftModelForCausalLM.from_pretrained(folder)), output)


def test_a_model_that_has_a_place_is_named_and_not_copied(saved, tmp_path):
    folder, output = named(saved, tmp_path)
    assert not (folder / "base").exists()
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == whole_model(folder) == str(tmp_path / "model")
    assert torch.equal(logits(policy.load(PolicyConfig(lora=LORA).at(folder))[0]), output)


def test_without_the_section_adapters_are_merged_and_all_weights_are_trained(saved):
    folder, output = saved
    model, _ = policy.load(PolicyConfig(model=str(folder)))
    assert not adapters.has_adapters(model)
    assert all(value.requires_grad for value in model.parameters())
    assert (logits(model) - output).abs().max() < 1e-5


def test_a_merged_folder_is_a_whole_model(saved):
    folder, output = saved
    config = PolicyConfig(tiny=TINY, lora=LORA)
    merge(folder, config)
    assert not (folder / "adapter_config.json").exists()
    assert not any("lora" in name for name in load_file(folder / "model.safetensors"))
    assert (logits(AutoModelForCausalLM.from_pretrained(folder)) - output).abs().max() < 1e-5
    again, tokenizer = policy.load(config.at(folder))
    assert not adapters.has_adapters(again)
    assert tokenizer.chat_template


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 8}, r"policy\.lora\.rank=8, but the adapters in .* have 4"),
        ({"alpha": 9}, r"policy\.lora\.alpha=9\.0, but .* have 8"),
        ({"dropout": 0.1}, r"policy\.lora\.dropout=0\.1, but .* have 0\.0"),
        ({"targets": ("q_proj",)}, r"policy\.lora\.targets=\['q_proj'\], but .* have \['down_proj', "),
    ],
)
def test_other_adapters_than_the_configuration_says_are_refused(saved, change, message):
    lora = LORA.model_copy(
        update={key: LoraConfig(**{key: value}).__dict__[key] for key, value in change.items()}
    )
    with pytest.raises(PolicyError, match=message) as error:
        policy.load(PolicyConfig(model=str(saved[0]), lora=lora))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "/nowhere/model",
            "adapts the model in /nowhere/model, which is not there .*base_model_name_or_path",
        ),
        ("../elsewhere/base", r"adapts the model in \.\./elsewhere/base, which is not there \(from "),
        (None, "does not name the model that it adapts"),
        ("someone/something", "whose adapters adapt 'someone/something', cannot be loaded: "),
    ],
)
def test_a_model_that_is_not_where_its_adapters_say_is_one_line(saved, tmp_path, name, message):
    folder, _ = named(saved, tmp_path)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": name}))
    with pytest.raises(PolicyError, match=message) as error:
        policy.load(PolicyConfig(model=str(folder)))
    assert "\n" not in str(error.value)


def test_a_model_beside_its_adapters_is_found_by_a_relative_name(saved, tmp_path):
    folder, output = named(saved, tmp_path)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "../model"}))
    assert torch.equal(logits(policy.load(PolicyConfig(model=str(folder), lora=LORA))[0]), output)


def test_adapters_of_another_kind_are_refused(tmp_path):
    model = peft.get_peft_model(made(lora=None)[0], peft.VeraConfig(r=4, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path)
    with pytest.raises(PolicyError, match="holds adapters of the kind VERA"):
        policy.load(PolicyConfig(model=str(tmp_path)))


def test_code_beside_a_model_that_adapters_name_is_not_run(saved, tmp_path):
    folder, marker = saved[0], tmp_path / "marker"
    (folder / "base" / "planted.py").write_text(f"open({str(marker)!r}, 'w')\nclass Planted: pass\n")
    path = folder / "base" / "config.json"
    planted = {"auto_map": {"AutoModelForCausalLM": "planted.Planted"}, "model_type": "unknown"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **planted}))
    with pytest.raises(PolicyError):
        policy.load(PolicyConfig(model=str(folder)))
    assert not marker.exists()
