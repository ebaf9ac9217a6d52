"""The trainer in TRL's words: what a script or a notebook gives it, and what it refuses."""

import functools
import re

import fixed_rollouts
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, LlamaConfig
from trl import GRPOConfig

import recrl
from recrl import ConstrainedGRPOTrainer, Reward, reward
from recrl.rewards import RewardSpec, RewardSpecError

TEXTS = ["Name a fruit:", "And another:", "A third one:", "The last one:"]


def vowels(completions, **_):
    return [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in completions]


@reward("script_brevity", range=(0, 1))
def brevity(completions):
    return [1 / (1 + len(text)) for text in completions]


@reward("script_matches", range=(0, 1))
class Matches:
    """A reward with a parameter, which reads a column."""

    def __init__(self, letters=3):
        self.letters = letters

    def __call__(self, completions, wanted):
        return [float(w in text[: self.letters]) for text, w in zip(completions, wanted, strict=True)]


class Plain:
    """An object that nobody declared."""

    def __call__(self, completions, **_):
        return [0.5] * len(completions)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return fixed_rollouts.saved_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def make(policy, tmp_path):
    def made(rewards, *, settings=None, data=None, **options):
        arguments = {"max_steps": 1, "per_device_train_batch_size": 8, "num_generations": 4}
        given = {
            "model": policy,
            "train_dataset": data or Dataset.from_dict({"prompt": TEXTS, "wanted": [*"abcd"]}),
        }
        return ConstrainedGRPOTrainer(
            reward_funcs=rewards,
            args=fixed_rollouts.arguments(tmp_path, **arguments | (settings or {})),
            **{**given, **options},
        )

    return made


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (brevity, "script_brevity"),
        (Reward(vowels, range=(0, 1)), "vowels"),
        (Reward(lambda completions, **_: [0.5] * len(completions), range=(0, 1), name="half"), "half"),
        (Reward(functools.partial(vowels), range=(0, 1)), "vowels"),
        (Reward(Plain(), range=(0, 1)), "Plain"),
        (Reward(Plain, range=(0, 1), name="made"), "made"),
        (Matches, "script_matches"),
        (Matches(2), "script_matches"),
        ("script_brevity", "script_brevity"),
        ({"name": "shorter", "use": "script_matches", "params": {"letters": 1}}, "shorter"),
        (RewardSpec(name="script_matches", timeout=5), "script_matches"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_every_way_to_write_a_reward_trains(make, given, name):
    trainer = make(given)  # one needs no list, and no objective
    assert (trainer.engine.names, trainer.problem.objective) == ((name,), name)
    trainer.train()
    (row,) = [row for row in trainer.state.log_history if "objective" in row]
    assert row["objective"] == pytest.approx(row[f"rewards/{name}/mean"])
    assert row["reward"] == row[f"rewards/{name}/mean"]
    assert 0 <= row["objective"] <= 1


def test_a_function_of_a_notebook_cell_may_be_defined_again(make):
    cell = '@reward("celled", range=(0, {}))\ndef celled(completions):\n    return [0.0] * len(completions)\n'
    for high in (1, 2):
        scope = {"reward": reward, "__name__": "__main__"}
        exec(cell.format(high), scope)
        assert make(scope["celled"]).engine.rewards[0].high == high


def test_objective_and_constraints_are_those_of_the_names(make):
    rewards = [Reward(vowels, range=(0, 1), unit=0.1), brevity]
    trainer = make(rewards, objective="vowels", constraints=["script_brevity >= 0.05 (mean)"])
    trainer.train()
    row = next(row for row in trainer.state.log_history if "objective" in row)
    assert row["objective"] == pytest.approx(row["rewards/vowels/mean"])
    assert row["constraint/script_brevity >= 0.05/mean"] == pytest.approx(row["rewards/script_brevity/mean"])
    assert trainer.duals.units.objective == pytest.approx(0.1)


def test_a_loaded_model_and_its_tokenizer_do_too(make):
    model, tokenizer = fixed_rollouts.policy_and_tokenizer()
    trainer = make(brevity, model=model, processing_class=tokenizer)
    trainer.train()
    assert trainer.state.global_step == 1
    assert trainer.accelerator.unwrap_model(trainer.model) is model


def test_positions_are_trls(policy, tmp_path):
    data = Dataset.from_dict({"prompt": TEXTS})
    args = fixed_rollouts.arguments(tmp_path, per_device_train_batch_size=4)
    trainer = ConstrainedGRPOTrainer(policy, brevity, args, data, data)
    assert trainer.eval_dataset is not None
    assert trainer.args is args


def test_arguments_may_be_left_out(policy, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    made = GRPOConfig.__post_init__

    def on_cpu(self):  # TRL's default, bfloat16, is refused where no GPU is and none was ruled out
        self.use_cpu = True
        made(self)

    monkeypatch.setattr(GRPOConfig, "__post_init__", on_cpu)
    data = Dataset.from_dict({"prompt": TEXTS})
    trainer = ConstrainedGRPOTrainer(policy, brevity, train_dataset=data)
    assert str(trainer.args.output_dir).endswith("-GRPO")


def test_objects_that_a_reward_names_come_from_the_script(make):
    def listed(completions, allowed):
        return [float(text[:1] in allowed) for text in completions]

    trainer = make(Reward(listed, range=(0, 1)), resources={"allowed": {"a", "b"}})
    trainer.train()
    assert trainer.state.global_step == 1


def reward_model():
    config = LlamaConfig(
        vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    return AutoModelForSequenceClassification.from_config(config)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (
            vowels,
            {},
            r"'vowels' declares no range: write Reward\(vowels, range=\(low, high\)\), or decorate it with "
            r"@reward\('vowels', range=\(low, high\)\)",
        ),
        (lambda completions: [], {}, r"Reward\(function, range=\(low, high\), name=\.\.\.\)"),
        (7, {}, "a reward is a int; write a function, a Reward, a name or a config entry"),
        ([], {}, "reward_funcs names no reward"),
        (None, {}, "reward_funcs names no reward; give the objective at least$"),
        ({"name": "x", "wieght": 1}, {}, "wieght: Extra inputs are not permitted"),
        (reward_model, {}, r"a LlamaForSequenceClassification scores as .*'use': 'reward_model'"),
        ([brevity, Reward(vowels, range=(0, 1))], {}, r"objective: say which of script_brevity, vowels"),
        (brevity, {"objective": "brevty"}, r"unknown reward 'brevty'; did you mean 'script_brevity'"),
        (
            Reward(lambda completions, nothing: [], range=(0, 1), name="odd"),
            {},
            r"'odd' needs 'nothing', which nothing provides. Dataset columns: .*wanted",
        ),
        (brevity, {"settings": {"scale_rewards": "batch"}}, r"scale_rewards='batch': .*leave it out"),
        (
            brevity,
            {"settings": {"multi_objective_aggregation": "normalize_then_sum"}},
            r"multi_objective_aggregation='normalize_then_sum': .* rule='gdpo'",
        ),
        (brevity, {"settings": {"reward_weights": [2.0]}}, r"reward_weights=\[2\.0\]: .*'weighted_sum'"),
        (
            brevity,
            {"settings": {"reward_weights": [2.0, 1.0]}, "rule": "weighted_sum"},
            r"reward_weights=\[2\.0, 1\.0\] for 1 rewards",
        ),
        (brevity, {"reward_processing_classes": []}, "reward_processing_classes: .*use: reward_model"),
    ],
)
def test_what_it_cannot_take_is_one_line_with_the_fix(make, given, options, message):
    if given is reward_model:
        given = reward_model()
    with pytest.raises((ValueError, RewardSpecError), match=message) as caught:
        make(given, **options)
    assert "\n" not in str(caught.value)


def test_weights_of_trl_are_those_of_the_rules_that_add_up(make):
    trainer = make(
        [Reward(vowels, range=(0, 1)), brevity],
        rule="weighted_sum",
        settings={"reward_weights": [2.0, -1.0]},
    )
    assert trainer.problem.weights == {"vowels": 2.0, "script_brevity": -1.0}
    trainer.train()
    assert trainer.state.global_step == 1


def test_adapters_train_alone(make):
    from peft import LoraConfig

    trainer = make(brevity, peft_config=LoraConfig(target_modules=["q_proj"], r=2), settings={"max_steps": 2})
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    moved = {n for n, value in trainer.model.named_parameters() if not torch.equal(value, before[n])}
    assert moved
    assert all("lora" in name for name in moved)


def test_public_names_are_there_and_no_others():
    assert set(recrl.__all__) == {"ConstrainedGRPOTrainer", "Reward", "reward"}
    for name in recrl.__all__:
        assert re.search(r"\n\s+Example:\n", getattr(recrl, name).__doc__)
    with pytest.raises(AttributeError, match="no attribute 'GRPOTrainer'"):
        _ = recrl.GRPOTrainer
