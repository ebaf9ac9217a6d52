"""Training on shared prompts ends where TRL's own passes end, and really reads each prompt once."""

import inspect
import logging
from functools import partial

import fixed_rollouts
import pytest
import tiny_models
import torch
from transformers import Qwen3ForCausalLM, Qwen3Model
from trl import GRPOTrainer

from recrl.rl import policy
from recrl.rl.optimizer.groups import permute_groups
from recrl.rl.prefix.sharing import can_share

SIZE, GROUPS = fixed_rollouts.SIZE, fixed_rollouts.GROUPS

# Four tags and the end: the longest scripted answer.
WIDTH = 5


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("_prepare_inputs", ["self", "generation_batch"]),
        ("_generate", ["self", "prompts"]),
        ("_tokenize_prompts", ["self", "prompts"]),
        (
            "_generate_single_turn",
            ["self", "prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images"],
        ),
        ("training_step", ["self", "model", "inputs", "num_items_in_batch"]),
    ],
)
def test_overridden_methods_keep_their_signature(method, parameters):
    assert list(inspect.signature(getattr(GRPOTrainer, method)).parameters) == parameters


def saved(model, folder):
    """The same policy, loaded from a folder, where a reference can be loaded from."""
    model.save_pretrained(folder)
    return Qwen3ForCausalLM.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32)


def trained(output, way="on", **options):
    """A trainer after its training; ``way`` may be ``stock``: TRL's own passes."""
    if options.get("beta"):
        options.setdefault("change", lambda model: saved(model, output / "policy"))
    options.setdefault("rollout_func", fixed_rollouts.scripted)
    mode = "off" if way == "stock" else way
    trainer = fixed_rollouts.trainer_for(output / way, prefix_sharing=mode, **options)
    trainer.sharing.understood = way != "stock"
    trainer.train()
    return trainer


def apart(one, other):
    """Largest difference of the weights, which have moved."""
    states = [trainer.model.state_dict() for trainer in (one, other)]
    return max((states[0][name] - states[1][name]).abs().max().item() for name in states[0])


# --- the same training ---


def test_twenty_steps_end_at_the_same_weights(tmp_path):
    on, off, stock = (trained(tmp_path, way, max_steps=20) for way in ("on", "off", "stock"))
    assert apart(on, off) < 1e-4
    assert apart(on, stock) < 1e-4
    untrained = fixed_rollouts.trainer_for(tmp_path / "untrained")
    assert apart(on, untrained) > 5e-3
    for name in ("loss", "grad_norm", "entropy"):
        logged = [[e[name] for e in t.state.log_history if name in e] for t in (on, off, stock)]
        assert len(logged[0]) == 20
        assert logged[0] == pytest.approx(logged[1], rel=1e-3, abs=1e-5)
        assert logged[0] == pytest.approx(logged[2], rel=1e-3, abs=1e-5)


BATCHES = {
    "micro-batches": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2},
    "half a group": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8},
    "groups and a half": {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 2, "copies": 2},
    "an old pass": {"num_iterations": 2, "max_steps": 6},
    "generated for two steps": {"steps_per_generation": 2, "per_device_train_batch_size": 8, "max_steps": 6},
    "a reference": {"beta": 0.1},
    "all": {
        "beta": 0.1,
        "num_iterations": 2,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "temperature": 0.8,
        "credit": "tag",
    },
    "checkpointing": {"gradient_checkpointing": True},
}


@pytest.mark.parametrize("name", BATCHES)
def test_batches_of_every_kind_end_at_the_same_weights(tmp_path, name):
    options = {key: value for key, value in BATCHES[name].items() if key != "copies"}
    on, off = (trained(tmp_path, way, **options) for way in ("on", "off"))
    assert on.state.global_step == options.get("max_steps", 4)
    assert apart(on, off) < 1e-4
    if options.get("beta"):
        kls = [[e["kl"] for e in t.state.log_history if "kl" in e] for t in (on, off)]
        assert kls[0] == pytest.approx(kls[1], rel=1e-3, abs=1e-6)
        assert max(kls[0]) > 1e-4


def adapters():
    from peft import LoraConfig

    return LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")


def test_adapters_train_on_shared_prompts_with_their_base_as_reference(tmp_path):
    options = {"peft_config": adapters(), "beta": 0.1, "change": lambda model: model, "num_iterations": 2}
    torch.manual_seed(0)
    on, off = (trained(tmp_path, way, **options) for way in ("on", "off"))
    assert on.ref_model is None
    assert apart(on, off) < 1e-4
    moved = [value.abs().max() for name, value in on.model.state_dict().items() if "lora_B" in name]
    assert min(moved) > 1e-4


def passes(trainer, model):
    """Shape of what each pass of a model reads, apart by whether it keeps gradients."""
    read = {True: [], False: []}
    embed = model.get_input_embeddings()
    embed.register_forward_hook(lambda _, given, __: read[torch.is_grad_enabled()].append(given[0].shape))
    return read


@pytest.mark.parametrize(
    ("micro", "accumulated", "copies"), [(16, 1, 4), (8, 2, 4), (2, 8, 2), (6, 2, 2), (3, 4, 1)]
)
def test_each_pass_reads_a_prompt_once_for_its_copies(tmp_path, micro, accumulated, copies):
    """Training, old and reference passes; against the same run that reads it for every answer."""
    found = {}
    for way in ("on", "off"):
        trainer = fixed_rollouts.trainer_for(
            tmp_path / way,
            prefix_sharing=way,
            rollout_func=fixed_rollouts.scripted,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulated,
            num_iterations=2,
            max_steps=2,
            beta=0.1,
            change=lambda model: saved(model, tmp_path / "policy"),
        )
        trainer._sharing_checked = True
        own, reference = passes(trainer, trainer.model), passes(trainer, trainer.ref_model)
        trainer.train()
        assert not reference[True]
        found[way] = {"train": own[True], "old": own[False], "reference": reference[False]}
    counts = {"train": 2 * accumulated, "old": accumulated, "reference": accumulated}
    for kind, number in counts.items():
        on, off = found["on"][kind], found["off"][kind]
        assert len(on) == len(off) == number, kind
        for (rows, length), (all_rows, full) in zip(on, off, strict=True):
            assert all_rows == micro
            assert rows == micro // copies
            if copies == 1:
                assert length == full
                continue
            assert (length - copies * full) % (copies - 1) == 0
            # full = P + C - 1 and length = P - 1 + copies C.
            width = (length - full) // (copies - 1)
            assert 1 <= width <= WIDTH
            assert length == full - width + copies * width
            assert rows * length < 0.75 * all_rows * full


def test_auto_shares_what_pays(tmp_path):
    trainer = fixed_rollouts.trainer_for(tmp_path, rollout_func=fixed_rollouts.scripted, max_steps=1)
    assert (trainer.sharing.mode, trainer.sharing.reason) == ("auto", None)
    trainer._sharing_checked = True
    read = passes(trainer, trainer.model)
    trainer.train()
    assert [rows for rows, _ in read[True]] == [GROUPS]


def test_evaluation_is_the_same(tmp_path):
    found = []
    for way in ("on", "off"):
        trainer = fixed_rollouts.trainer_for(
            tmp_path / way,
            prefix_sharing=way,
            rollout_func=fixed_rollouts.scripted,
            eval_dataset=fixed_rollouts.Dataset.from_list(fixed_rollouts.rows()[:6]),
            per_device_eval_batch_size=8,
        )
        trainer._sharing_checked = True
        read = passes(trainer, trainer.model)
        metrics = trainer.evaluate()
        assert {rows for rows, _ in read[False]} == {2 if way == "on" else 8}
        found.append(
            {key: value for key, value in metrics.items() if "runtime" not in key and "per_s" not in key}
        )
    keys = ["eval_loss", "eval_entropy", "eval_objective"]
    assert [found[0][key] for key in keys] == pytest.approx(
        [found[1][key] for key in keys], rel=1e-4, abs=1e-6
    )


# --- groups ---


def test_groups_change_their_order_and_their_samples_do_not():
    n, size = 24, 4
    batch = {
        "ids": torch.arange(n * 3).view(n, 3),
        "mask": torch.arange(n),
        "texts": [str(i) for i in range(n)],
        "count": torch.tensor(7),
        "nothing": None,
    }
    torch.manual_seed(0)
    orders = set()
    for _ in range(50):
        found = permute_groups(batch, size)
        order = found["mask"].view(-1, size)
        assert (order[:, 0] % size == 0).all()
        assert (order == order[:, :1] + torch.arange(size)).all()
        assert sorted(order.flatten().tolist()) == list(range(n))
        assert torch.equal(found["ids"], batch["ids"][found["mask"]])
        assert found["texts"] == [str(i) for i in found["mask"].tolist()]
        assert (found["count"], found["nothing"], set(found)) == (batch["count"], None, set(batch))
        orders.add(tuple(order[:, 0].tolist()))
    assert len(orders) > 40


def test_micro_batches_hold_neighbours_of_one_group(tmp_path):
    trainer = fixed_rollouts.trainer_for(
        tmp_path,
        rollout_func=fixed_rollouts.scripted,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=8,
    )
    trainer.model.train()
    rows = [row for row in trainer.train_dataset.to_list()[:GROUPS] for _ in range(SIZE)]
    trainer._prepare_inputs(rows)
    buffered = trainer._buffered_inputs
    assert len(buffered) == 8
    prompts = torch.cat([batch["prompt_ids"] for batch in buffered]).unflatten(0, (GROUPS, SIZE))
    assert (prompts == prompts[:, :1]).all()
    assert len({tuple(prompt) for prompt in prompts[:, 0].tolist()}) == GROUPS


def passed(trainer, order=None):
    """Completion mask and arguments of a pass over a generation batch."""
    trainer.model.eval()
    rows = [row for row in trainer.train_dataset.to_list()[:GROUPS] for _ in range(SIZE)]
    output = trainer._generate_and_score_completions(rows)
    order = torch.arange(len(rows)) if order is None else order
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)[order]
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)[order]
    kept = output["completion_mask"][order].bool()
    return kept, (trainer.model, ids, mask, kept.shape[1])


@pytest.mark.parametrize("batch_size", [None, 16, 8, 4, 2, 6])
def test_a_pass_on_shared_prompts_equals_trls(tmp_path, batch_size):
    trainer = fixed_rollouts.trainer_for(
        tmp_path, rollout_func=fixed_rollouts.scripted, prefix_sharing="on", temperature=0.7
    )
    kept, arguments = passed(trainer)
    read = passes(trainer, trainer.model)
    found = trainer._get_per_token_logps_and_entropies(
        *arguments, batch_size=batch_size, compute_entropy=True
    )
    copies = {None: 4, 16: 4, 8: 4, 4: 4, 2: 2, 6: 2}[batch_size]
    assert sum(rows for rows, _ in read[True]) == 16 // copies
    stock = GRPOTrainer._get_per_token_logps_and_entropies(
        trainer, *arguments, batch_size=batch_size, compute_entropy=True
    )
    trainer.sharing.reason = "off"
    full = trainer._get_per_token_logps_and_entropies(*arguments, batch_size=batch_size, compute_entropy=True)
    for one, other, third in zip(found[:2], stock[:2], full[:2], strict=True):
        assert one.shape == other.shape == third.shape == kept.shape
        assert (one - other)[kept].abs().max() < 1e-5
        assert (third - other)[kept].abs().max() < 1e-5
        assert one[~kept].abs().sum() == 0
    assert found[2] is None
    assert trainer._get_per_token_logps_and_entropies(*arguments)[1] is None


def test_neighbours_with_different_prompts_are_refused(tmp_path):
    trainer = fixed_rollouts.trainer_for(tmp_path, rollout_func=fixed_rollouts.scripted, prefix_sharing="on")
    order = torch.arange(GROUPS * SIZE)
    order[[3, 4]] = order[[4, 3]]
    _, arguments = passed(trainer, order)
    with pytest.raises(ValueError, match="the prompts of 4 neighbours differ; keep groups together"):
        trainer._get_per_token_logps_and_entropies(*arguments)


def test_prompts_are_tokenised_once_each(tmp_path):
    trainer = fixed_rollouts.trainer_for(tmp_path)
    prompts = [row["prompt"] for row in fixed_rollouts.rows()[:3] for _ in range(SIZE)]
    prompts = [*prompts, prompts[0]]
    asked = []
    tokenizer = trainer.processing_class
    original = tokenizer.apply_chat_template

    def counted(**options):
        asked.append(len(options["conversation"]))
        return original(**options)

    tokenizer.apply_chat_template = counted
    ours = trainer._tokenize_prompts(prompts)
    assert sum(asked) == 3
    assert ours == GRPOTrainer._tokenize_prompts(trainer, prompts)


# --- the check on the first batch ---


def test_a_good_model_passes_and_the_difference_is_logged(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="recrl"):
        trainer = trained(tmp_path, "auto", max_steps=2)
    found = [
        e["prefix/first_batch_difference"]
        for e in trainer.state.log_history
        if "loss" in e and "prefix/first_batch_difference" in e
    ]
    assert len(found) == 1
    assert 0 < found[0] < 1e-5
    assert trainer.sharing.reason is None
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING and r.name.startswith("recrl")]


class IgnoresPositions(Qwen3ForCausalLM):
    """Counts positions along the row, whatever it is told."""

    def __init__(self, config):
        super().__init__(config)
        self.model = _CountsItself(config)
        self.post_init()


class _CountsItself(Qwen3Model):
    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **options):
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **options)


class DropsKeywords(Qwen3ForCausalLM):
    """Hands on what it knows and nothing else."""

    def __init__(self, config):
        super().__init__(config)
        self.model = _Deaf(config)
        self.post_init()


class _Deaf(Qwen3Model):
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        use_cache=None,
        **_,
    ):
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )


def as_class(kind, model):
    made = kind(model.config)
    made.load_state_dict(model.state_dict())
    made.tie_weights()
    for layer in made.model.layers:  # so that positions matter to an untrained model
        layer.self_attn.q_norm.weight.data.fill_(6.0)
    made.generation_config = model.generation_config
    return made


BROKEN = [IgnoresPositions, DropsKeywords]


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and "recrl" in r.name]


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize(
    "options", [{}, {"num_iterations": 2, "beta": 0.1}], ids=["plain", "old and reference"]
)
def test_a_model_that_cannot_share_is_found_out_and_trains_as_without(tmp_path, caplog, kind, options):
    def change(model):
        made = as_class(kind, saved(model, tmp_path / "policy"))
        made.config._name_or_path = str(tmp_path / "policy")
        return made

    auto = trained(tmp_path, "auto", change=change, **options)
    (warning,) = warnings_of(caplog)
    assert "each prompt is read once per answer from now on" in warning
    assert "first batch" in warning or "does not hand keyword arguments on" in warning
    off = trained(tmp_path, "off", change=change, **options)
    assert apart(auto, off) < 1e-6


@pytest.mark.parametrize("kind", BROKEN)
def test_a_model_that_cannot_share_ends_a_run_that_insists(tmp_path, kind):
    with pytest.raises(RuntimeError, match=r"prefix_sharing=on, but .*; set it to auto or off"):
        trained(tmp_path, "on", change=partial(as_class, kind))


@pytest.mark.parametrize("kind", BROKEN)
def test_a_model_that_cannot_share_is_found_out_before_its_answers_count(tmp_path, caplog, kind):
    """Rollouts of its own: the first batch's answers must not come from wrong positions either."""
    drawn = {}
    for way in ("auto", "off"):
        trainer = fixed_rollouts.trainer_for(
            tmp_path / way, prefix_sharing=way, change=partial(as_class, kind), top_k=1, max_steps=2
        )
        answers = drawn.setdefault(way, [])
        original = trainer._generate_single_turn

        def keep(*arguments, original=original, answers=answers):
            found = original(*arguments)
            answers.extend(found[0])
            return found

        trainer._generate_single_turn = keep
        trainer.train()
        assert len(answers) == 2 * GROUPS * SIZE
    assert len(warnings_of(caplog)) == 1
    assert drawn["auto"] == drawn["off"]


@pytest.mark.parametrize("kind", BROKEN)
def test_a_model_that_cannot_share_can_be_evaluated_before_it_trains(tmp_path, kind):
    found = []
    for way in ("auto", "off"):
        trainer = fixed_rollouts.trainer_for(
            tmp_path / way,
            prefix_sharing=way,
            change=partial(as_class, kind),
            top_k=1,
            eval_dataset=fixed_rollouts.Dataset.from_list(fixed_rollouts.rows()[:4]),
            per_device_eval_batch_size=16,
        )
        metrics = trainer.evaluate()
        found.append([metrics["eval_entropy"], metrics["eval_completions/mean_length"]])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_the_check_survives_a_group_without_a_token_to_compare(tmp_path, caplog):
    """Truncated answers that are masked out leave nothing of the first group."""
    trainer = trained(
        tmp_path,
        "on",
        rollout_func=None,
        mask_truncated_completions=True,
        max_completion_length=1,
        max_steps=1,
    )
    assert trainer.sharing.reason is None
    assert not warnings_of(caplog)


@pytest.mark.parametrize("window", [8, 2000])
def test_a_sliding_window_trains_as_without_sharing(tmp_path, caplog, window):
    """A window that cuts through the rows is no fault that the check should find."""

    def change(model):
        torch.manual_seed(0)
        options = {"sliding_window": window, "vocab_size": model.config.vocab_size}
        made = tiny_models.build("mistral", {**options, "max_position_embeddings": 2048})
        made.generation_config = model.generation_config
        return made.train()

    on, off = (trained(tmp_path, way, change=change, max_steps=3) for way in ("on", "off"))
    assert on.sharing.reason is None
    assert not warnings_of(caplog)
    assert apart(on, off) < 1e-4


@pytest.mark.parametrize("family", ["mamba", "qwen3_next"])
def test_a_model_with_a_state_trains_with_a_warning(tmp_path, caplog, family):
    def change(model):
        size = {"vocab_size": model.config.vocab_size, "max_position_embeddings": 2048}
        made = tiny_models.build(family, {**tiny_models.STATEFUL[family], **size}, attention=None)
        made.generation_config = model.generation_config
        return made.train()

    trainer = trained(tmp_path, "auto", change=change, max_steps=2, rollout_func=None)
    assert trainer.state.global_step == 2
    (warning,) = warnings_of(caplog)
    assert family in warning
    with pytest.raises(ValueError, match=f"prefix_sharing=on, but {family}"):
        fixed_rollouts.trainer_for(tmp_path / "on", change=change, prefix_sharing="on")


# --- rollouts ---


def test_rollouts_read_each_prompt_once_and_are_valid_answers(tmp_path):
    trainer = fixed_rollouts.trainer_for(tmp_path, prefix_sharing="on", max_steps=1, temperature=1.3)
    trainer._sharing_checked = can_share(trainer.model, 1)
    read, drawn = passes(trainer, trainer.model), []
    original = trainer._generate_single_turn
    trainer._generate_single_turn = lambda *a: drawn.append(original(*a)[0]) or (drawn[-1], None)
    trainer.train()
    assert read[False][0][0] == GROUPS
    assert {width for _, width in read[False][1:]} == {1}
    (answers,) = drawn
    end, most = trainer.processing_class.eos_token_id, trainer.args.max_completion_length
    assert len(answers) == GROUPS * SIZE
    assert all(len(a) == most or a[-1] == end for a in answers)
    assert all(end not in a[:-1] for a in answers)
    assert trainer.model.training


def test_rollouts_are_trls_where_sharing_is_off(tmp_path):
    trainer = fixed_rollouts.trainer_for(tmp_path, prefix_sharing="off", max_steps=1)
    read = passes(trainer, trainer.model)
    trainer.train()
    assert read[False][0][0] == GROUPS * SIZE


def test_greedy_rollouts_of_both_kinds_are_equal(tmp_path):
    found = []
    for way in ("on", "off"):
        trainer = fixed_rollouts.trainer_for(
            tmp_path / way, prefix_sharing=way, top_k=1, change=lambda m: saved(m, tmp_path / "policy")
        )
        ids, _, _ = trainer._tokenize_prompts([row["prompt"] for row in fixed_rollouts.rows()[:6]])
        found.append([list(answer) for answer in trainer._generate_single_turn(ids, None, {}, SIZE)[0]])
    assert found[0] == found[1]


def test_prompts_longer_than_the_window_are_refused_when_the_trainer_is_made(tmp_path):
    def change(model):
        model.config.max_position_embeddings = 20
        return model

    with pytest.raises(
        ValueError, match=r"prompt of \d+ tokens .* up to 8 .* window of 20 .*task\.max_history"
    ):
        fixed_rollouts.trainer_for(tmp_path, change=change)


def test_the_policy_can_be_saved_and_loaded(tmp_path):
    """The attention that was installed stays inside the training."""
    trainer = trained(tmp_path, "on", max_steps=1)
    trainer.save_model(str(tmp_path / "saved"))
    loaded, _ = policy.load(policy.PolicyConfig(model=str(tmp_path / "saved")))
    assert loaded.config._attn_implementation == "sdpa"
    ids = torch.tensor([[5, 6, 7]])
    trainer.model.eval()
    assert torch.equal(loaded(ids).logits, trainer.model(ids).logits)
