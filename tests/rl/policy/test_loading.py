import json
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from recrl.envs.tags.prompts import prompted_rows
from recrl.rl import policy
from recrl.rl.policy.errors import PolicyError
from recrl.rl.policy.loading import check_machine
from recrl.rl.policy.settings import LoraConfig, PolicyConfig, TinyConfig
from recrl.rl.policy.tiny import tiny_model


@pytest.fixture(scope="module")
def loaded(panel_task):
    rows = prompted_rows(panel_task.split("train").head(200), panel_task.catalog, 10)
    texts = [message["content"] for row in rows for message in row["prompt"]]
    return rows, *policy.load(PolicyConfig(), options=panel_task.catalog.tags, texts=texts)


def test_the_tiny_policy_has_about_a_million_parameters(loaded):
    _, model, _ = loaded
    assert 0.5e6 <= sum(p.numel() for p in model.parameters()) <= 2e6


def test_every_tag_line_is_one_token_and_any_text_round_trips(loaded, panel_task):
    _, _, tokenizer = loaded
    for tag in range(len(panel_task.catalog)):
        assert len(tokenizer.encode(panel_task.catalog.render([tag]), add_special_tokens=False)) == 1
    for text in ("popcorn\ncorn\n", "Ünïcode — 漢字\n\n", "a tag that is none\nmilk"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    answer = panel_task.catalog.render([5, 9, 200])
    assert tokenizer.decode(tokenizer.encode(answer, add_special_tokens=False)) == answer


def test_a_prompt_renders_as_chat_and_ends_where_the_answer_begins(loaded, panel_task):
    rows, _, tokenizer = loaded
    text = tokenizer.apply_chat_template(rows[0]["prompt"], add_generation_prompt=True, tokenize=False)
    assert text.startswith("<|im_start|>system\n")
    assert text.endswith("one a line, none twice.<|im_end|>\n<|im_start|>assistant\n")
    data = text[text.index("<user>\n") : text.index("</user>")].splitlines()
    assert data[-1] == panel_task.catalog.tags[rows[0]["history"][0]], "the most frequent tag stands last"


def test_weights_follow_the_seed_and_leave_the_global_generator_alone(loaded):
    _, _, tokenizer = loaded
    state = torch.get_rng_state()
    one, same, other = (tiny_model(TinyConfig(), tokenizer, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    weight = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(one.state_dict()[weight], same.state_dict()[weight])
    assert not torch.equal(one.state_dict()[weight], other.state_dict()[weight])


def test_sampling_settings_of_a_saved_model_do_not_reach_us(loaded, tmp_path):
    _, model, tokenizer = loaded
    model.generation_config.temperature = 0.1
    model.generation_config.do_sample = True
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, same = policy.load(PolicyConfig(model=str(tmp_path)))
    assert again.generation_config.temperature in (None, 1.0)
    assert same.chat_template == tokenizer.chat_template
    assert same.padding_side == "left"


def test_faults_name_the_setting(tmp_path):
    with pytest.raises(ValueError, match=r"dtype\n.*'float32' or 'bfloat16'"):
        policy.load(PolicyConfig(dtype="float8"))
    with pytest.raises(ValueError, match="pass options=, texts= or both"):
        policy.load(PolicyConfig())
    with pytest.raises(ValueError, match=r"policy\.tiny\.hidden=100"):
        policy.load(PolicyConfig(tiny=TinyConfig(hidden=100, heads=3)), options=["a"], texts=["a"])


@pytest.fixture
def saved(loaded, tmp_path):
    _, model, tokenizer = loaded
    policy.save_policy(model, tokenizer, tmp_path / "policy")
    return tmp_path / "policy"


def test_attention_is_the_one_that_was_asked_for(saved):
    for name in ("sdpa", "eager"):
        model, _ = policy.load(PolicyConfig(model=str(saved), attention=name))
        assert model.config._attn_implementation == name
        model, _ = policy.load(PolicyConfig(attention=name), options=["a"], texts=["a"])
        assert model.config._attn_implementation == name


def test_attention_that_a_model_does_not_have_is_refused_with_one_that_it_has(saved):
    config = AutoConfig.for_model("bloom", vocab_size=100, hidden_size=32, n_layer=1, n_head=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(saved)
    with pytest.raises(
        PolicyError, match=r"policy\.attention=sdpa cannot be had with .*; set it to eager"
    ) as error:
        policy.load(PolicyConfig(model=str(saved)))
    assert "\n" not in str(error.value)
    model, _ = policy.load(PolicyConfig(model=str(saved), attention="eager"))
    assert model.config._attn_implementation == "eager"


def broken(folder, name, change):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def without_template(folder):
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    broken(folder, "tokenizer_config.json", lambda content: content.pop("chat_template", None))


def without_tokenizer(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()


def adapters_of(base):
    def write(folder):
        for file in folder.iterdir():
            file.unlink()
        settings = {
            "peft_type": "LORA",
            "base_model_name_or_path": base,
            "r": 8,
            "target_modules": ["q_proj"],
        }
        (folder / "adapter_config.json").write_text(json.dumps(settings))

    return write


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs"), "header"),
        (lambda folder: (folder / "config.json").write_text("{"), "not a valid JSON file"),
        (lambda folder: (folder / "config.json").unlink(), "model_type"),
        (lambda folder: broken(folder, "config.json", lambda c: c.update(model_type="foo")), "type .foo."),
        (lambda folder: broken(folder, "config.json", lambda c: c.update(model_type="t5")), "T5Config"),
        (
            lambda folder: broken(folder, "config.json", lambda c: c.update(hidden_size=64)),
            r"weights do not fit its config\.json: .* is \[.*\], not \[.*\].* and \d+ more",
        ),
        (
            lambda folder: broken(
                folder,
                "config.json",
                lambda c: c.update(num_hidden_layers=3, layer_types=["full_attention"] * 3),
            ),
            r"weights lack model\.layers\.2\..* and \d+ more",
        ),
        (without_template, "has no chat template; use an instruction-tuned model"),
        (
            lambda folder: (folder / "chat_template.jinja").write_text("{% for x %}"),
            r"its chat template cannot be used: .*; mend its chat_template\.jinja",
        ),
        (without_tokenizer, "has no tokenizer; put its files"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be loaded"),
        (adapters_of("/nowhere/model"), "adapts the model in /nowhere/model, which is not there"),
        (adapters_of(None), "does not name the model that it adapts"),
    ],
)
def test_a_model_that_cannot_be_had_is_one_line_with_the_setting(saved, breaks, message):
    breaks(saved)
    with pytest.raises(PolicyError, match=message) as error:
        policy.load(PolicyConfig(model=str(saved)))
    assert "policy.model=" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_adapters_without_weights_are_one_line(saved, tmp_path):
    folder = tmp_path / "adapters"
    folder.mkdir()
    adapters_of(str(saved))(folder)
    with pytest.raises(
        PolicyError, match=r"policy\.model=.*adapters', whose adapters adapt .* cannot be loaded"
    ):
        policy.load(PolicyConfig(model=str(folder)))


def test_a_place_that_is_no_folder_is_said_to_be_none(saved):
    for place in ("/nowhere/model", "./model", "runs/demo/policy"):
        with pytest.raises(PolicyError, match=rf"policy\.model={place}: no such folder \(from /"):
            policy.load(PolicyConfig(model=place))
    with pytest.raises(PolicyError, match=r"config\.json is a file; name its folder"):
        policy.load(PolicyConfig(model=str(saved / "config.json")))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"attention": "flash_attention_2", "dtype": "bfloat16"},
            "policy.attention=flash_attention_2 trains on CUDA",
        ),
        ({"attention": "flex_attention"}, "policy.attention=flex_attention trains on CUDA only"),
        ({"quantization": "4bit", "lora": {}}, "policy.quantization=4bit computes on CUDA only"),
        ({"quantization": "8bit", "lora": {}}, "leave it out .policy.quantization=null"),
    ],
)
def test_what_needs_a_gpu_is_refused_without_one(settings, message):
    with pytest.raises(PolicyError, match=message) as error:
        check_machine(PolicyConfig(model="some/model", **settings))
    assert "\n" not in str(error.value)


def test_a_package_that_is_missing_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)  # as if it were not installed
    with pytest.raises(
        ModuleNotFoundError, match=r"policy\.lora needs the package peft: pip install 'recrl\[lora\]'"
    ):
        check_machine(PolicyConfig(lora=LoraConfig()))


@pytest.fixture
def hub(loaded, tmp_path, monkeypatch):
    """A model of the hub as its cache keeps it, in two revisions."""
    _, _, tokenizer = loaded
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name, sha, seed in (("main", "1" * 40, 1), ("v2", "2" * 40, 2)):
        repository = tmp_path / "models--some--model"
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / name).write_text(sha)
        model = tiny_model(TinyConfig(hidden=32), tokenizer, seed)
        policy.save_policy(model, tokenizer, repository / "snapshots" / sha)
    return "some/model"


def weight(model):
    return model.state_dict()["model.layers.0.mlp.up_proj.weight"]


def test_a_revision_is_loaded_and_adapters_remember_it(hub, tmp_path):
    first, _ = policy.load(PolicyConfig(model=hub))
    second, _ = policy.load(PolicyConfig(model=hub, revision="v2"))
    assert not torch.equal(weight(first), weight(second))
    adapted = policy.load(PolicyConfig(model=hub, revision="v2", lora=LoraConfig()))
    policy.save_policy(*adapted, tmp_path / "policy")
    settings = json.loads((tmp_path / "policy" / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == (hub, "v2")
    again, _ = policy.load(PolicyConfig(model=str(tmp_path / "policy")))
    assert torch.equal(weight(again), weight(second))
    with pytest.raises(PolicyError, match=r"policy\.revision='v3', cannot be loaded"):
        policy.load(PolicyConfig(model=hub, revision="v3"))


def test_code_that_comes_with_a_model_is_run_where_the_configuration_says_so(saved):
    (saved / "theirs.py").write_text(
        "from transformers import Qwen3Config, Qwen3ForCausalLM\n"
        "class Config(Qwen3Config):\n    model_type = 'theirs'\n"
        "class Model(Qwen3ForCausalLM):\n    config_class = Config\n"
    )
    content = json.loads((saved / "config.json").read_text())
    content |= {
        "model_type": "theirs",
        "auto_map": {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"},
    }
    (saved / "config.json").write_text(json.dumps(content))
    with pytest.raises(PolicyError, match="trust_remote_code"):
        policy.load(PolicyConfig(model=str(saved)))
    model, _ = policy.load(PolicyConfig(model=str(saved), trust_remote_code=True))
    assert type(model).__module__.endswith("theirs")


def test_a_term_is_one_token_wherever_it_stands_as_a_word():
    _, tokenizer = policy.load(
        PolicyConfig(), terms=["milk", "soft drinks", "dry bean/rice"], texts=["You often buy things."]
    )

    def pieces(text):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text
        return [tokenizer.decode([token]) for token in ids]

    assert "milk" in pieces("You often buy milk.")
    assert pieces("milk\nsoft drinks\n") == ["milk", "\n", "soft drinks", "\n"]
    assert "dry bean/rice" in pieces("milk, dry bean/rice and soft drinks!")
    assert "milk" not in pieces("milky")
