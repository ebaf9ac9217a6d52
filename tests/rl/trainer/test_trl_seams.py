"""The contract with the installed TRL: what our trainer overrides is still there and still means the same.

When one of these fails, TRL has moved: mend recrl/rl/trainer before raising the pin.
"""

import inspect
import math
import re

import fixed_rollouts
import numpy as np
import pytest
import torch
import trl
from datasets import Dataset
from packaging.version import Version
from trl import GRPOConfig, GRPOTrainer

from recrl.rewards import RewardSpec
from recrl.rl.optimizer.advantages import AdvantageBatch
from recrl.rl.optimizer.problem import Problem
from recrl.rl.optimizer.rules import RULES
from recrl.rl.trainer.preconditions import check_gradient_conflict, check_groups

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


def batch(trainer, groups=GROUPS, segment=("cold", "warm")):
    rows = [row for row in trainer.train_dataset if row["segment"] in segment]
    return [row for row in rows[:groups] for _ in range(SIZE)]


def spied(trainer):
    """What the rule is given and what it returns, one pair a generation batch."""
    seen, rule = [], trainer.rule
    trainer.rule = lambda given: seen.append((given, rule(given))) or seen[-1][1]
    return seen


# --- TRL's own aggregation ---

COLUMNS = ("a", "b", "c")
WEIGHTS = (1.0, -0.5, 2.0)


def odd_rewards():
    """`[group, sample, reward]` float32 with missing values, equal ones, and a sample without any."""
    rewards = np.random.default_rng(0).uniform(0, 1, (GROUPS, SIZE, 3)).astype(np.float32)
    rewards[0, 1, 0] = np.nan
    rewards[0, 2] = np.nan
    rewards[1, :, 1] = 0.3
    rewards[2, 1:, 2] = np.nan
    return rewards


def trls_advantages(output, rewards, aggregation):
    """`[group, sample]` from TRL's trainer itself, on these rewards."""

    def column(k):
        def reward(completions, **_):
            return [None if math.isnan(value) else value for value in rewards[..., k].ravel().tolist()]

        reward.__name__ = COLUMNS[k]
        return reward

    model, tokenizer = fixed_rollouts.policy_and_tokenizer()
    options = {"reward_weights": list(WEIGHTS), "multi_objective_aggregation": aggregation}
    trainer = GRPOTrainer(
        model,
        [column(k) for k in range(3)],
        args=fixed_rollouts.arguments(output, **options),
        train_dataset=Dataset.from_list(fixed_rollouts.rows()),
        processing_class=tokenizer,
        rollout_func=fixed_rollouts.scripted,
    )
    trainer.model.train()
    return trainer._generate_and_score_completions(batch(trainer))["advantages"].unflatten(0, (GROUPS, SIZE))


@pytest.mark.parametrize(
    ("rule", "aggregation"), [("weighted_sum", "sum_then_normalize"), ("gdpo", "normalize_then_sum")]
)
@pytest.mark.parametrize("missing", [False, True])
def test_rules_equal_trls_own_aggregation(tmp_path, rule, aggregation, missing):
    rewards = odd_rewards() if missing else np.random.default_rng(1).uniform(0, 1, (GROUPS, SIZE, 3))
    expected = trls_advantages(tmp_path, rewards.astype(np.float32), aggregation)
    problem = Problem.build(
        "a", [], dict.fromkeys(COLUMNS, (0.0, 1.0)), weights=dict(zip(COLUMNS, WEIGHTS, strict=True))
    )
    none = torch.zeros(0, dtype=torch.float64)
    given = AdvantageBatch(
        torch.tensor(rewards, dtype=torch.float32), problem, none, problem.declared_units()
    )
    found = RULES[rule](given)
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-5)
    assert expected.abs().max() > 1
    assert (found.divisor, found.kl_scale) == (1.0, 1.0)
    if missing:
        assert expected[0, 2] == found.values[0, 2] == 0


# --- our trainer in TRL's ---


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


def test_the_samples_of_a_group_stay_neighbours_with_their_advantages(trainer):
    """What is shuffled after the scoring are groups, and every tensor of a sample moves along."""
    trainer.model.train()
    inputs, seen = batch(trainer), spied(trainer)
    torch.manual_seed(1)
    found = trainer._prepare_inputs(inputs)
    ((_, result),) = seen
    asked = trainer.processing_class.batch_decode(found["prompt_ids"], skip_special_tokens=True)
    texts = trainer.processing_class.batch_decode(found["completion_ids"], skip_special_tokens=True)
    users = [re.search(r"user (\d+)", text)[1] for text in asked]
    order = [[row["prompt"][0]["content"].split()[1] for row in inputs].index(user) for user in users]
    assert order[::SIZE] != sorted(order[::SIZE]), "nothing was shuffled"
    scripted = fixed_rollouts.scripted([row["prompt"] for row in inputs], trainer)["completion_ids"]
    scripted = trainer.processing_class.batch_decode(scripted, skip_special_tokens=True)
    for place, (start, text) in enumerate(zip(order, texts, strict=True)):
        sample = start + place % SIZE
        assert start == order[place - place % SIZE], "a group was torn apart"
        assert text == scripted[sample]
        assert found["advantages"][place] == result.values.flatten()[sample]


# --- credit per tag ---


def test_credit_per_tag_reaches_the_tokens_of_each_tag(tmp_path):
    """A tag is one token here, line break included: a token's place is its position."""
    options = {"credit": "tag", "constraints": ["novelty >= 0.9 (mean)"]}
    trainer = fixed_rollouts.trainer_for(tmp_path, rollout_func=fixed_rollouts.uneven, **options)
    trainer.model.train()
    seen, inputs = spied(trainer), batch(trainer)
    output = trainer._generate_and_score_completions(inputs)
    ((given, result),) = seen
    mask, ids = output["completion_mask"].bool(), output["completion_ids"]
    lengths = mask.sum(dim=1).tolist()  # tags and the end
    assert sorted(set(lengths)) == [2, 3, 4, 5]
    assert output["advantages"].shape == ids.shape
    positions = given.running.shape[2]
    assert (positions, result.values.shape) == (5, (GROUPS, SIZE, 5))

    logged = list(trainer._logs["advantages"])
    for i, n in enumerate(lengths):
        values = result.values[i // SIZE, i % SIZE]
        assert output["advantages"][i, :n].tolist() == pytest.approx(values[:n].tolist())
        assert output["advantages"][i, n:].abs().sum() == 0
        assert logged[i] == pytest.approx(values[:n].mean().item(), abs=1e-6)
        assert given.tokens[i // SIZE, i % SIZE].tolist() == [1.0] * n + [0.0] * (positions - n)
        text = trainer.processing_class.decode(ids[i, : n - 1])
        slots = fixed_rollouts.CATALOG.parse(text).slots
        assert len(slots) == n - 1
        for p in range(positions):
            shown = set(slots[: min(p, fixed_rollouts.SLOTS)])
            recall = len(shown & set(inputs[i]["target"])) / 2
            assert given.running[i // SIZE, i % SIZE, p, 0].item() == pytest.approx(recall)
    # A later tag of the same answer gets another advantage than the first.
    spread = output["advantages"].where(mask, torch.inf).amin(1) - output["advantages"].where(
        mask, -torch.inf
    ).amax(1)
    assert (spread.abs() > 0.1).float().mean() > 0.5


def test_the_loss_multiplies_each_token_by_its_own_advantage(tmp_path):
    """On policy its gradient is that of -sum A_t log p_t over all tokens, divided by their number."""
    trainer = fixed_rollouts.trainer_for(tmp_path, rollout_func=fixed_rollouts.uneven, credit="tag", beta=0.0)
    trainer.model.train()
    output = trainer._generate_and_score_completions(batch(trainer))
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
    attention = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
    mask, width = output["completion_mask"], output["completion_ids"].shape[1]
    logits = trainer.model(input_ids=ids, attention_mask=attention).logits[:, -width - 1 : -1]
    logps = logits.log_softmax(dim=-1).gather(-1, output["completion_ids"][..., None])[..., 0]
    expected = -(output["advantages"] * logps * mask).sum() / mask.sum()
    weights = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    trainer.current_gradient_accumulation_steps = 1  # set by the training loop
    gradients = torch.autograd.grad(expected, weights)
    found = torch.autograd.grad(trainer._compute_loss(trainer.model, output), weights)
    for one, other in zip(found, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    assert max(gradient.abs().max() for gradient in gradients) > 1e-3


def test_evaluation_credits_whole_answers(tmp_path):
    trainer = fixed_rollouts.trainer_for(tmp_path, rollout_func=fixed_rollouts.uneven, credit="tag")
    trainer.model.eval()
    output = trainer._generate_and_score_completions(batch(trainer))
    assert output["advantages"].shape == (GROUPS * SIZE,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"credit": "tag", "rule": "gdpo"},
            r"credit=tag does not work with rule 'gdpo'.*lagrangian, log_lambda",
        ),
        (
            {
                "credit": "tag",
                "rewards": [RewardSpec(name="recall", per="sample"), "novelty"],
                "constraints": (),
            },
            r"credit=tag: none of \['recall'\] is declared per='tag'",
        ),
        ({"credit": "tags"}, r"credit='tags'.*'sequence'.*'tag'"),
        ({"rule": "lagrange"}, "did you mean 'lagrangian'"),
    ],
)
def test_what_cannot_be_credited_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        fixed_rollouts.trainer_for(tmp_path, **options)


# --- segments ---

COLD = "novelty >= 0.9 where segment=cold (mean)"


def test_the_indicators_of_segments_are_gathered_beside_the_scores(tmp_path):
    options = {"rollout_func": fixed_rollouts.scripted, "constraints": [COLD, "duplicates <= 0.05 (mean)"]}
    trainer = fixed_rollouts.trainer_for(tmp_path, **options)
    trainer.model.train()
    seen, inputs = spied(trainer), batch(trainer)
    trainer._generate_and_score_completions(inputs)
    ((given, _),) = seen
    assert given.rewards.shape == (GROUPS, SIZE, 4)
    assert given.rewards[..., 3].flatten().tolist() == [float(row["segment"] == "cold") for row in inputs]
    cold = given.rewards[given.rewards[..., 3] == 1]
    assert 0 < len(cold) < GROUPS * SIZE
    assert trainer.duals.report()[0].mean == pytest.approx(cold[:, 1].mean().item())


def test_a_batch_without_anyone_of_the_segment_is_unobserved_and_trains_on(tmp_path):
    trainer = fixed_rollouts.trainer_for(tmp_path, rollout_func=fixed_rollouts.scripted, constraints=[COLD])
    trainer.model.train()
    output = trainer._generate_and_score_completions(batch(trainer, segment=("warm",)))
    assert trainer.duals.status(0) == "unobserved"
    assert trainer.duals.multipliers.tolist() == [0.0]
    assert output["advantages"].isfinite().all()
    assert output["advantages"].abs().max() > 0.1


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (
            "novelty >= 0.9 where group=cold (mean)",
            r"group=cold, but .* no column 'group'; they have: .*segment",
        ),
        (
            "novelty >= 0.9 where segment=col (mean)",
            r"segment=col, but no training prompt .* found: cold, warm",
        ),
    ],
)
def test_a_segment_that_the_data_do_not_have_is_refused(tmp_path, constraint, message):
    with pytest.raises(ValueError, match=message):
        fixed_rollouts.trainer_for(tmp_path, constraints=[constraint])


# --- the multipliers ---


def test_a_rule_brings_its_controller(tmp_path):
    trainer = fixed_rollouts.trainer_for(tmp_path, rule="log_lambda")
    assert (trainer.duals.controller, trainer.duals.multipliers.tolist()) == ("log", [1.0, 1.0])


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
        check_groups(arguments)


@pytest.mark.parametrize(("every", "size"), [(5, 2), (-1, 4)])
def test_groups_too_small_to_halve_are_refused(every, size):
    arguments = GRPOConfig(per_device_train_batch_size=4, num_generations=size, use_cpu=True, bf16=False)
    with pytest.raises(ValueError, match=f"gradient_conflict_every={every} with num_generations={size}"):
        check_gradient_conflict(arguments, every)
    check_gradient_conflict(arguments, 0)


def test_a_reward_that_raises_ends_the_run_with_its_name(trainer):
    from recrl.rewards import RewardError

    rows = batch(trainer)
    rows[5] = {**rows[5], "target": None}
    with pytest.raises(RewardError, match="reward 'recall' raised TypeError"):
        trainer._generate_and_score_completions(rows)


# --- gradients of the rewards ---


def test_the_logged_gradient_cosine_is_that_of_the_last_layer(tmp_path):
    """By automatic differentiation of each reward's policy gradient on the even and the odd samples."""
    options = {"rollout_func": fixed_rollouts.scripted, "gradient_conflict_every": 1}
    trainer = fixed_rollouts.trainer_for(tmp_path, **options)
    trainer.model.train()
    seen = spied(trainer)
    output = trainer._generate_and_score_completions(batch(trainer))
    ((given, _),) = seen
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
    attention = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
    width = output["completion_ids"].shape[1]
    with torch.no_grad():
        hidden = trainer.model.model(input_ids=ids, attention_mask=attention).last_hidden_state
    weight = trainer.model.lm_head.weight.detach().clone().requires_grad_()
    logps = (hidden[:, -width - 1 : -1] @ weight.T).log_softmax(dim=-1)
    logps = logps.gather(-1, output["completion_ids"][..., None])[..., 0] * output["completion_mask"]
    answers = logps.sum(dim=1).unflatten(0, (GROUPS, SIZE))

    def gradient(j, half):
        rewards, scored = given.rewards[:, half::2, j], answers[:, half::2]
        n = rewards.shape[1]
        advantages = (rewards - rewards.mean(dim=1, keepdim=True)) * n / (n - 1)
        return (
            torch.autograd.grad((advantages * scored).sum(), weight, retain_graph=True)[0].flatten().double()
        )

    gradients = [[gradient(j, half) for half in (0, 1)] for j in range(3)]

    def product(i, j):
        return (gradients[i][0] @ gradients[j][1] + gradients[i][1] @ gradients[j][0]) / 2

    names, found = trainer.problem.names, 0
    for i, j in ((0, 1), (0, 2), (1, 2)):
        logged = trainer._metrics["train"].get(f"conflict/gradient_cosine/{names[i]}~{names[j]}")
        if product(i, i) > 0 and product(j, j) > 0:
            cosine = product(i, j) / (product(i, i) * product(j, j)).sqrt()
            assert logged == [pytest.approx(cosine.item(), rel=1e-3, abs=1e-4)]
            found += 1
        else:
            assert logged is None
    assert found


# --- bad input ---


def test_one_answer_a_prompt_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 2 generations per prompt"):
        fixed_rollouts.trainer_for(tmp_path, num_generations=1)


def test_fewer_prompts_than_a_batch_takes_are_refused(tmp_path):
    """TRL would drop the incomplete batch, leave every rank without a sample and report a finished run."""
    with pytest.raises(ValueError, match=r"3 .*prompts.* 4"):
        fixed_rollouts.trainer_for(tmp_path, data=fixed_rollouts.rows()[: GROUPS - 1])
