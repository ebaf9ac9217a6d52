"""A drop-in passes what the original passes: each of TRL's features, with our trainer in its place.

Answers come from a small random policy, or from a script where they have to say something; settings are TRL's
own defaults (bfloat16 on a CPU too) except where a test is about them.
"""

from pathlib import Path

import fixed_rollouts
import pytest
import torch
import trl
from datasets import Dataset, IterableDataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    TrainerCallback,
)
from trl import GRPOConfig

from recrl import ConstrainedGRPOTrainer, Reward
from recrl.rewards import RewardSpecError
from recrl.rl.prefix.sharing import Sharing
from recrl.rl.trainer.shared import SharedPrefixGRPOTrainer

PROMPTS = [[{"role": "user", "content": f"Say {n} words"}] for n in ("some", "a few", "many", "no")]


def short(completions, **_):
    return [1 / (1 + len(completion[-1]["content"])) for completion in completions]


def vowels(completions, **_):
    return [sum(c in "aeiou" for c in completion[-1]["content"]) % 5 / 5 for completion in completions]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A folder; its tokenizer can write and read tool calls."""
    return fixed_rollouts.saved_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def make(policy, tmp_path):
    def made(kind=ConstrainedGRPOTrainer, *, data=PROMPTS, settings=None, model=None, **options):
        arguments = {
            "output_dir": str(tmp_path),
            "use_cpu": True,
            "max_steps": 2,
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "max_completion_length": 6,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            **(settings or {}),
        }
        if issubclass(kind, ConstrainedGRPOTrainer):
            options = {
                "reward_funcs": [Reward(vowels, range=(0, 1)), Reward(short, range=(0, 1))],
                "objective": "vowels",
                "constraints": ["short >= 0.05 (mean)"],
                **options,
            }
        else:
            options = {"reward_funcs": [vowels, short], **options}
        return kind(
            model=model or policy,
            args=GRPOConfig(**arguments),
            train_dataset=Dataset.from_dict({"prompt": data}) if isinstance(data, list) else data,
            **options,
        )

    return made


def trained(trainer):
    """What it logged of each step; every weight that is trained has moved, and stays finite."""
    before = {name: value.clone() for name, value in trainer.model.named_parameters() if value.requires_grad}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert any(not torch.equal(after[name], value) for name, value in before.items())
    assert all(after[name].isfinite().all() for name in before)
    return [row for row in trainer.state.log_history if "objective" in row or "reward" in row]


# --- precision ---


@pytest.mark.parametrize("kind", [SharedPrefixGRPOTrainer, ConstrainedGRPOTrainer])
def test_trls_default_bfloat16_shares_prompts_on_a_cpu(make, kind):
    trainer = make(kind, prefix_sharing="on")
    assert trainer.args.bf16
    rows = trained(trainer)
    assert len(rows) == 2
    assert trainer.sharing.reason is None
    assert 0 < rows[0]["prefix/first_batch_difference"] < 0.05


def test_shared_rows_in_bfloat16_are_those_of_full_rows(make):
    """Log-probabilities of one batch, read once and read for every answer."""
    shared = make(prefix_sharing="on")
    full = make(prefix_sharing="off")
    full.model.load_state_dict(shared.model.state_dict())
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 200, (8, 14), generator=generator)
    ids[:, :8] = ids[::4, :8].repeat_interleave(4, dim=0)
    found = [
        trainer._get_per_token_logps_and_entropies(trainer.model, ids, torch.ones_like(ids), 6)[0].detach()
        for trainer in (shared, full)
    ]
    assert (found[0] - found[1]).abs().mean() < 0.03
    assert found[1].abs().mean() > 1


def test_a_policy_in_float64_trains(make, policy):
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float64)
    trainer = make(model=model, settings={"bf16": False}, prefix_sharing="on")
    assert len(trained(trainer)) == 2


# --- adapters ---


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_adapters_that_are_new_or_were_there(make, policy, beta):
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    trained(make(peft_config=lora, settings={"beta": beta}))
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32), lora)
    rows = trained(make(model=model, settings={"beta": beta}))
    assert ("kl" in rows[-1]) == bool(beta)


# --- the loss ---


@pytest.mark.parametrize("loss", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"])
def test_each_loss_trains_with_and_without_credit_of_old_answers(make, loss):
    rows = trained(make(settings={"loss_type": loss, "num_iterations": 2}))
    assert all(torch.tensor(row["loss"]).isfinite() for row in rows)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_importance_sampling_levels_with_old_and_reference_log_probabilities(make, level):
    settings = {
        "loss_type": "grpo",
        "importance_sampling_level": level,
        "num_iterations": 2,
        "beta": 0.1,
        "max_steps": 4,
    }
    trainer = make(settings=settings)
    rows = trained(trainer)
    assert trainer.ref_model is not None
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-3)
    assert rows[-1]["kl"] > rows[0]["kl"]


@pytest.mark.parametrize(
    "settings",
    [
        {"mask_truncated_completions": True},
        {"top_entropy_quantile": 0.5},
        {"off_policy_mask_threshold": 0.5, "num_iterations": 2},
        {"delta": 1.5},
        {"sync_ref_model": True, "beta": 0.1, "ref_model_sync_steps": 1},
        {"pad_to_multiple_of": 8},
        {"cast_lm_head_to_fp32": True, "bf16": False},
        {"repetition_penalty": 1.2, "top_k": 20},
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
        {"generation_batch_size": 16},
        {"entropy_coef": 0.01},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_masks_and_settings_train(make, settings):
    trainer = make(settings=settings)
    rows = trained(trainer)
    # A generation may serve several steps.
    assert trainer.state.global_step == 2
    assert len(rows) == trainer.duals.step


def test_every_answer_may_be_cut_short(make):
    """All are masked: nothing is learned, and nothing breaks."""
    settings = {"mask_truncated_completions": True, "max_completion_length": 1, "weight_decay": 0.0}
    trainer = make(settings=settings)
    trainer.train()
    assert trainer.state.global_step == 2


# --- data, evaluation, callbacks ---


def test_streamed_data(make):
    stream = Dataset.from_dict({"prompt": PROMPTS, "wanted": [*"abcd"]}).to_iterable_dataset()
    assert isinstance(stream, IterableDataset)

    def matches(completions, wanted):
        return [float(w in c[0]["content"]) for c, w in zip(completions, wanted, strict=True)]

    rewards = [Reward(vowels, range=(0, 1)), Reward(matches, range=(0, 1))]
    trainer = make(data=stream, eval_dataset=stream, reward_funcs=rewards, constraints=[])
    assert len(trained(trainer)) == 2
    assert "eval_objective" in trainer.evaluate()


def test_evaluation_and_callbacks(make):
    class Counting(TrainerCallback):
        steps, logs = 0, 0

        def on_step_end(self, *_, **__):
            self.steps += 1

        def on_evaluate(self, args, state, control, metrics, **_):
            self.logs += "eval_rewards/short/mean" in metrics

    counting = Counting()
    settings = {"eval_strategy": "steps", "eval_steps": 1, "num_generations_eval": 1}
    settings["per_device_eval_batch_size"] = 2
    data = Dataset.from_dict({"prompt": PROMPTS})
    trained(make(eval_dataset=data, callbacks=[counting], settings=settings))
    assert (counting.steps, counting.logs) == (2, 2)


# --- tools, environments, rollout functions ---

CALL = '<tool_call>\n{"name": "double", "arguments": {"number": 21}}\n</tool_call><|im_end|>'


def double(number: int) -> int:
    """Double a number.

    Args:
        number: The number.

    Returns:
        Twice the number.
    """
    return 2 * number


class Desk:
    """An environment: it says what to double, and remembers what was doubled."""

    def reset(self, **_):
        self.doubled = []
        return "Double 21."

    def double(self, number: int) -> int:
        """Double a number.

        Args:
            number: The number.

        Returns:
            Twice the number.
        """
        self.doubled.append(number)
        return 2 * number


class Judging(Desk):
    def get_reward(self):
        return 0.5


@pytest.fixture
def calling(policy):
    """A tokenizer that can write tool calls, and what makes every first answer to a prompt one."""
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text()

    def script(trainer):
        def answer(input_ids, **_):
            texts = tokenizer.batch_decode(input_ids)
            said = [
                f"D{'o' * (i % 4)}ne!<|im_end|>" if "<tool_response>" in text else CALL
                for i, text in enumerate(texts)
            ]
            ids = tokenizer(said, add_special_tokens=False, padding=True, padding_side="right")["input_ids"]
            return torch.cat([input_ids, torch.tensor(ids)], dim=1)

        trainer.model.generate = answer
        return trainer

    return tokenizer, script


@pytest.mark.parametrize("kind", [SharedPrefixGRPOTrainer, ConstrainedGRPOTrainer])
def test_tools_are_called(make, calling, kind):
    tokenizer, script = calling
    settings = {"max_completion_length": 200}
    rows = trained(script(make(kind, tools=[double], processing_class=tokenizer, settings=settings)))
    assert [row["tools/call_frequency"] for row in rows] == [1, 1]
    assert [row["tools/failure_frequency"] for row in rows] == [0, 0]


@pytest.mark.parametrize("data", [PROMPTS, None], ids=["prompts", "no data"])
def test_environments_are_played_and_scored(make, calling, data):
    tokenizer, script = calling

    def right(environments):
        return [float(one.doubled == [21]) for one in environments]

    trainer = script(
        make(
            data=data,
            reward_funcs=[Reward(vowels, range=(0, 1)), Reward(right, range=(0, 1))],
            constraints=["right >= 0.9 (mean)"],
            environment_factory=Desk,
            processing_class=tokenizer,
            settings={"max_completion_length": 200},
        )
    )
    trainer.train()
    rows = [row for row in trainer.state.log_history if "objective" in row]
    assert [row["rewards/right/mean"] for row in rows] == [1, 1]
    assert [row["constraint/right >= 0.9/mean"] for row in rows] == [1, 1]


def test_fields_of_a_rollout_function_reach_the_rewards(make):
    def rollout(prompts, trainer):
        asked = trainer.processing_class.apply_chat_template(prompts, add_generation_prompt=True)
        ids = [[10 + i % 4, trainer.processing_class.eos_token_id] for i in range(len(prompts))]
        places = [i % 4 / 4 for i in range(len(prompts))]
        return {"prompt_ids": asked["input_ids"], "completion_ids": ids, "logprobs": None, "place": places}

    def placed(completions, place):
        return place

    trainer = make(
        rollout_func=rollout, reward_funcs=Reward(placed, range=(0, 1)), objective=None, constraints=()
    )
    rows = trained(trainer)
    assert [row["rewards/placed/mean"] for row in rows] == [pytest.approx(0.375)] * 2


# --- refusals ---


def test_an_environment_with_a_reward_of_its_own_is_refused_by_name(make, calling):
    tokenizer, _ = calling
    with pytest.raises(ValueError, match=r"environment Judging scores .* get_reward, .*name='Judging'"):
        make(environment_factory=Judging, processing_class=tokenizer)
    with pytest.raises(RewardSpecError, match=r"names no reward; .*; get_reward of an environment"):
        make(environment_factory=Judging, processing_class=tokenizer, reward_funcs=None)


def test_an_engine_answers_one_turn(make, calling):
    tokenizer, _ = calling
    with pytest.raises(ValueError, match=r"rollout\.engine answers in one turn; leave tools"):
        make(tools=[double], rollouts=object(), processing_class=tokenizer)


def test_a_model_of_images_is_refused_by_name_where_prompts_have_to_be_shared(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = LlamaConfig(vocab_size=40, num_key_value_heads=2, **sizes)
    seeing = CLIPVisionConfig(image_size=4, patch_size=2, projection_dim=8, **sizes)
    config = LlavaConfig(vision_config=seeing, text_config=text, image_token_index=39)
    model = LlavaForConditionalGeneration(config)
    with pytest.raises(
        ValueError, match=r"prefix_sharing=on, but .*Llava.* reads more than text; set it to auto"
    ):
        Sharing(model, "on", "split")
    assert "reads more than text" in Sharing(model, "auto", "split").reason
