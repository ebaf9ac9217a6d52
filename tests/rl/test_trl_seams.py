"""The contract with the installed TRL: what our trainer overrides is still there and still means the same.

When one of these fails, TRL has moved: mend recrl/rl/trainer.py before raising the pin.
"""

import importlib.util
import inspect
from pathlib import Path

import pytest
import torch
import trl
from packaging.version import Version
from trl import GRPOConfig, GRPOTrainer

from recrl.rl.trainer import _check_groups

SPEC = importlib.util.spec_from_file_location("fixed_rollouts", Path(__file__).with_name("fixed_rollouts.py"))
fixed_rollouts = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fixed_rollouts)
SIZE, GROUPS = fixed_rollouts.SIZE, fixed_rollouts.GROUPS


def test_the_pinned_version():
    assert Version("1.16") <= Version(trl.__version__) < Version("1.17")


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("_calculate_rewards", ["self", "inputs", "prompts", "completions", "completion_ids_list"]),
        ("_generate_and_score_completions", ["self", "inputs"]),
        ("_save_checkpoint", ["self", "model", "trial"]),
        ("_load_optimizer_and_scheduler", ["self", "checkpoint"]),
    ],
)
def test_overridden_methods_keep_their_signature(method, parameters):
    assert list(inspect.signature(getattr(GRPOTrainer, method)).parameters) == parameters


def test_the_log_probability_pass_keeps_its_leading_parameters():
    names = list(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)
    assert names[:8] == [
        "self",
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
        "batch_size",
        "compute_entropy",
        "compute_aux_loss",
    ]


@pytest.fixture
def trainer(tmp_path):
    return fixed_rollouts.trainer_for(tmp_path, rollout_func=fixed_rollouts.scripted)


def batch(trainer, groups=GROUPS):
    return [row for row in list(trainer.train_dataset)[:groups] for _ in range(SIZE)]


def test_scores_are_gathered_and_advantages_replaced_in_the_order_of_the_samples(trainer):
    """One column a reward, groups contiguous, and the same numbers in the loss, the log and the rule."""
    trainer.model.train()
    seen = {}
    rule = trainer.rule

    def spy(given):
        seen["rewards"], seen["result"] = given.rewards, rule(given)
        return seen["result"]

    trainer.rule = spy
    inputs = batch(trainer)
    output = trainer._generate_and_score_completions(inputs)
    assert seen["rewards"].shape == (GROUPS, SIZE, 3)
    expected = seen["result"].values.flatten()
    assert output["advantages"].shape == (len(inputs),)
    assert torch.equal(output["advantages"], expected)
    assert list(trainer._logs["advantages"]) == pytest.approx(expected.tolist())
    assert expected.abs().max() > 0.1
    # The scores belong to the samples: recompute recall from the decoded completions.
    texts = trainer.processing_class.batch_decode(output["completion_ids"], skip_special_tokens=True)
    for row, text, scores in zip(inputs, texts, seen["rewards"].flatten(0, 1), strict=True):
        shown = fixed_rollouts.CATALOG.parse(text).top(fixed_rollouts.SLOTS)
        assert scores[0].item() == pytest.approx(len(set(shown) & set(row["target"])) / 2)


def test_shared_prefix_and_plain_forward_agree_whatever_the_order(trainer):
    trainer.model.eval()
    inputs = batch(trainer)
    output = trainer._generate_and_score_completions(inputs)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)[order][:-1]
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)[order][:-1]
    kept = output["completion_mask"][order][:-1].bool()
    found = []
    for share in (True, False):
        trainer.share_prefix = share
        found.append(
            trainer._get_per_token_logps_and_entropies(
                trainer.model, ids, mask, kept.shape[1], batch_size=8, compute_entropy=True
            )
        )
    (logps, entropies, _), (plain_logps, plain_entropies, _) = found
    assert (logps - plain_logps)[kept].abs().max() < 2e-5
    assert (entropies - plain_entropies)[kept].abs().max() < 2e-5


def test_evaluation_never_steps_the_multipliers(trainer):
    trainer.model.eval()
    before = trainer.duals.state_dict()
    trainer._generate_and_score_completions(batch(trainer))
    assert trainer.duals.state_dict() == before
    trainer.model.train()
    trainer._generate_and_score_completions(batch(trainer))
    assert trainer.duals.step == 1


def test_the_kl_coefficient_follows_the_advantages_divisor(tmp_path):
    trainer = fixed_rollouts.trainer_for(tmp_path, rollout_func=fixed_rollouts.scripted)
    trainer.kl_coefficient = 0.05
    trainer.model.train()
    scales = []
    rule = trainer.rule
    trainer.rule = lambda given: scales.append(rule(given)) or scales[-1]
    trainer._generate_and_score_completions(batch(trainer))
    (result,) = scales
    assert trainer.beta == pytest.approx(0.05 / (trainer.duals.units.objective * result.divisor))


def test_groups_that_would_straddle_ranks_are_refused():
    """Two ranks of 6 samples are 3 whole groups of 4 together, but not on each rank."""
    arguments = GRPOConfig(per_device_train_batch_size=4, num_generations=4, use_cpu=True, bf16=False)
    arguments.per_device_train_batch_size = 6
    with pytest.raises(ValueError, match=r"num_generations=4 must divide .* 6 \* 1 = 6.*the product is 8"):
        _check_groups(arguments)


def test_a_reward_that_raises_ends_the_run_with_its_name(trainer):
    from recrl.rewards import RewardError

    rows = batch(trainer)
    rows[5] = {**rows[5], "target": None}
    with pytest.raises(RewardError, match="reward 'recall' raised TypeError"):
        trainer._generate_and_score_completions(rows)
