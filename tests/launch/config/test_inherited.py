"""A pre-trained policy does not inherit what was chosen for the tiny one."""

import pytest
import tiny_models
from safetensors.torch import save_file
from torch import zeros
from transformers import AutoConfig, AutoModelForCausalLM

from recrl.launch.config.reading import dump, load
from recrl.launch.config.schema import ConfigError


def test_a_file_of_the_tiny_policy_is_refused_for_a_pretrained_one_with_what_to_do():
    with pytest.raises(ConfigError) as raised:
        load("demo", ["policy=smollm2", "train.steps=3"])
    said = str(raised.value)
    assert "policy.model=smollm2 is pre-trained" in said
    assert "train.learning_rate=0.0002, warm_start.steps=900, warm_start.learning_rate=0.003" in said
    assert "recrl train llm policy=smollm2" in said
    assert said.isprintable()


@pytest.mark.parametrize(
    ("overrides", "left"),
    [
        (["warm_start.steps=0"], "train.learning_rate=0.0002 would"),
        (["warm_start={steps: 0}", "train.learning_rate=1e-6"], None),
        (["warm_start.steps=9", "train.learning_rate=1e-6"], "warm_start.learning_rate=0.003 would"),
        (["warm_start={steps: 9, learning_rate: 1e-5}", "train={learning_rate: 1e-6}"], None),
    ],
)
def test_what_is_said_beside_the_file_counts(overrides, left):
    given = ["policy=smollm2", *overrides]
    if left is None:
        assert load("demo", given).policy.model == "smollm2"
    else:
        with pytest.raises(ConfigError, match=left):
            load("demo", given)


def test_the_configuration_of_pretrained_models_takes_any_of_them():
    config = load("llm", ["policy=some/model"])
    assert config.policy.model == "some/model"
    assert config.policy.lora is not None
    assert config.warm_start.learning_rate <= 5e-4
    assert load("qwen3-8b").policy.model == "Qwen/Qwen3-8B"


def test_a_default_of_the_tiny_policy_is_no_choice_of_a_file(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        "name: own\npolicy: {model: some/model}\nwarm_start: {steps: 10}\nrewards: [recall]\n"
        "optimizer: {objective: recall}\ntrain: {learning_rate: 1.0e-6}\n"
    )
    with pytest.raises(ConfigError, match=r"warm_start\.learning_rate=0\.003 would"):
        load(str(path))
    path.write_text(path.read_text().replace("steps: 10", "steps: 10, learning_rate: 1.0e-5"))
    assert load(str(path)).warm_start.learning_rate == 1e-5


def test_a_run_of_a_pretrained_policy_is_read_again_from_its_folder(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(dump(load("llm")))
    assert load(str(path), ["evaluation.users=all"]) == load("llm", ["evaluation.users=all"])


def test_the_size_of_the_tiny_policy_says_nothing_of_another():
    with pytest.raises(ConfigError, match=r"policy\.tiny is the size of policy\.model=tiny, but"):
        load("llm", ["policy.tiny.hidden=64"])


def test_a_policy_that_a_run_made_of_the_tiny_one_goes_on_with_its_settings(tmp_path):
    small = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **tiny_models._SIZE))
    small.save_pretrained(tmp_path / "small")
    assert load("demo", [f"policy={tmp_path / 'small'}"]).warm_start.steps == 900
    save_file({"large": zeros(30_000_000)}, tmp_path / "small" / "model.safetensors")
    with pytest.raises(ConfigError, match="is pre-trained"):
        load("demo", [f"policy={tmp_path / 'small'}"])
