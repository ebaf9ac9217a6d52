"""Packed rows and full rows give what each completion behind its own prompt gives, or a model is refused."""

import copy
import itertools

import pytest
import tiny_models
import torch
from torch.nn.attention.flex_attention import flex_attention
from trl.trainer import utils
from trl.trainer.utils import add_fused_lm_head

from recrl.rl.prefix import attention
from recrl.rl.prefix.attention import unsupported, window
from recrl.rl.prefix.branching import prefill
from recrl.rl.prefix.layouts import Packed, Prefill
from recrl.rl.prefix.packing import backbone, continuation_logits, pack, score
from recrl.rl.prefix.sharing import CostModel, Sharing, can_share

FAMILIES, PECULIAR, SLIDING, STATEFUL, WINDOW = (
    getattr(tiny_models, name) for name in ("FAMILIES", "PECULIAR", "SLIDING", "STATEFUL", "WINDOW")
)

TEMPERATURE = 0.7


def fused(model, temperature=TEMPERATURE):
    add_fused_lm_head(model, temperature=temperature, outputs=("log_probs", "entropy"))
    return model


def scored(model, batch, copies, body=None, kernel="split"):
    """Log-probabilities and entropies ``[R, G, C]`` from a flat batch of neighbours."""
    prompts, prompt_mask, ids, mask = batch
    groups = ids.shape[1]
    each = tuple(x.repeat_interleave(groups, dim=0) for x in (prompts, prompt_mask))
    body = backbone(model) if body is None else body
    found = score(model, body, each, (ids.flatten(0, 1), mask.flatten(0, 1)), copies, kernel)
    return tuple(x.view(ids.shape) for x in found)


def gradients(model, log_probs):
    """Of a sum that weighs every token differently."""
    weights = torch.linspace(-1, 1, log_probs.numel()).view(log_probs.shape)
    chosen = [weight for weight in model.parameters() if weight.requires_grad]
    found = torch.autograd.grad((weights * log_probs).sum(), chosen, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(chosen, found, strict=True)]


# --- equality ---


def answer_logits(model, prompts, completions):
    """Shared wherever that is exact."""
    shared = can_share(model, prompts[0].shape[1] + completions[0].shape[2])
    return continuation_logits(model, prompts, completions, shared)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_both_kinds_equal_each_completion_alone(family):
    """Uneven lengths, an empty completion, a truncated one, a prompt of one token; at a temperature."""
    batch = tiny_models.ragged()
    plain = tiny_models.build(family)
    expected, entropies = tiny_models.alone(plain, batch, TEMPERATURE)
    wanted = gradients(plain, expected)
    assert expected.abs().max() > 4
    for copies in (4, 2, 1):
        model = fused(tiny_models.build(family))
        assert unsupported(model) is None
        attention.install(model)
        log_probs, entropy = scored(model, batch, copies)
        assert (log_probs - expected).abs().max() < 1e-5
        assert (entropy - entropies).abs().max() < 1e-5
        assert tiny_models.relative(gradients(model, log_probs), wanted) < 1e-5


@pytest.mark.parametrize("family", PECULIAR)
def test_a_family_that_is_not_exact_says_so(family):
    batch = tiny_models.ragged()
    expected, _ = tiny_models.alone(tiny_models.build(family, PECULIAR[family]), batch)
    try:
        logits, labels = answer_logits(tiny_models.build(family, PECULIAR[family]), batch[:2], batch[2:])
    except (NotImplementedError, RuntimeError) as error:
        assert family.split("_")[0] in str(error).lower()  # noqa: PT017
        return
    found = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    assert (found - expected)[labels != -100].abs().max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_those_of_each_completion_alone(family):
    batch = tiny_models.ragged()
    expected, _ = tiny_models.alone(tiny_models.build(family), batch)
    logits, labels = answer_logits(tiny_models.build(family), batch[:2], batch[2:])
    kept = labels != -100
    assert torch.equal(labels[kept], batch[2][batch[3].bool()])
    found = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    assert (found - expected)[kept].abs().max() < 1e-5


def test_the_plain_rows_do_not_depend_on_the_attention_that_transformers_chose():
    batch = tiny_models.ragged()
    one, other = (
        tiny_models.alone(tiny_models.build("qwen3", attention=a), batch) for a in ("sdpa", "eager")
    )
    assert (one[0] - other[0]).abs().max() < 1e-5


@pytest.mark.parametrize("lengths", [(1, 1, 1), (5, 5, 5), (2, 1, 40)])
def test_prompts_of_one_token_and_without_padding(lengths):
    batch = tiny_models.ragged(lengths)
    expected, _ = tiny_models.alone(tiny_models.build("llama"), batch)
    logits, labels = answer_logits(tiny_models.build("llama"), batch[:2], batch[2:])
    kept = labels != -100
    assert torch.equal(kept, batch[3].bool()[..., : kept.shape[-1]])
    found = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    assert (found - expected)[kept].abs().max() < 1e-5


def test_columns_that_are_padding_everywhere_change_nothing_and_are_not_read():
    prompts, prompt_mask, ids, mask = tiny_models.ragged()
    wide = tuple(torch.nn.functional.pad(x, (7, 0)) for x in (prompts, prompt_mask)) + tuple(
        torch.nn.functional.pad(x, (0, 9)) for x in (ids, mask)
    )
    narrow = pack(prompts, prompt_mask, ids, mask)
    for name in ("input_ids", "position_ids"):
        assert torch.equal(pack(*wide).inputs[name], narrow.inputs[name])
    model = fused(tiny_models.build("llama"))
    attention.install(model)
    log_probs, _ = scored(model, wide, 4)
    assert log_probs.shape == wide[2].shape
    assert torch.equal(log_probs[..., : ids.shape[2]], scored(model, (prompts, prompt_mask, ids, mask), 4)[0])
    assert log_probs[..., ids.shape[2] :].abs().sum() == 0


def test_nothing_but_padding():
    """All completions of a micro-batch masked: zeros that a backward pass can go through."""
    prompts, prompt_mask, ids, mask = tiny_models.ragged()
    model = fused(tiny_models.build("llama"))
    attention.install(model)
    for copies in (4, 1):
        log_probs, _ = scored(model, (prompts, prompt_mask, ids, torch.zeros_like(mask)), copies)
        log_probs.sum().backward()
        assert log_probs.abs().sum() == 0
        assert all(w.grad.abs().sum() == 0 for w in model.parameters() if w.grad is not None)


def test_padding_is_never_seen():
    """Whatever stands there, the numbers are the same to the bit."""
    prompts, prompt_mask, ids, mask = tiny_models.ragged()
    model = fused(tiny_models.build("qwen3"))
    attention.install(model)
    found, _ = scored(model, (prompts, prompt_mask, ids, mask), 4)
    other = scored(
        model, (prompts.where(prompt_mask == 1, 50), prompt_mask, ids.where(mask == 1, 60), mask), 4
    )[0]
    assert torch.equal(found, other)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant):
    batch = tiny_models.ragged()
    plain = tiny_models.build("qwen3")
    wanted = gradients(plain, tiny_models.alone(plain, batch, TEMPERATURE)[0])
    model = fused(tiny_models.build("qwen3"))
    attention.install(model)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    layers = 0

    def count(*_):
        nonlocal layers
        layers += 1

    model.model.layers[0].self_attn.register_forward_hook(count)
    log_probs, _ = scored(model, batch, 4)
    assert layers == 1
    weights = torch.linspace(-1, 1, log_probs.numel()).view(log_probs.shape)
    (weights * log_probs).sum().backward()
    assert layers == 2, "the layer was not computed again in the backward pass"
    found = [weight.grad for weight in model.parameters()]
    assert tiny_models.relative(found, wanted) < 1e-5


def test_adapters_and_their_absence():
    """LoRA trains on packed rows, and without the adapters the same rows give the reference."""
    from peft import LoraConfig, get_peft_model

    def adapted(base):
        torch.manual_seed(3)
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        return get_peft_model(base, config).eval()

    batch = tiny_models.ragged()
    plain = adapted(tiny_models.build("qwen2"))
    expected, _ = tiny_models.alone(plain, batch, TEMPERATURE)
    with plain.disable_adapter(), torch.no_grad():
        reference, _ = tiny_models.alone(plain, batch, TEMPERATURE)
    base = fused(tiny_models.build("qwen2"))
    attention.install(base)
    model = adapted(base)
    assert backbone(model) is base.model
    found, _ = scored(model, batch, 4)
    assert (found - expected).abs().max() < 1e-5
    assert (expected - reference).abs().max() > 0.1
    assert tiny_models.relative(gradients(model, found), gradients(plain, expected)) < 1e-5
    with model.disable_adapter(), torch.no_grad():
        assert (scored(model, batch, 4)[0] - reference).abs().max() < 1e-5


def test_the_model_reads_the_prompt_once_and_projects_completions_only(monkeypatch):
    batch = tiny_models.ragged((20, 20, 20))
    model = fused(tiny_models.build("llama"))
    attention.install(model)
    read, projected, project = [], [], utils._ChunkedLogProbFunction.apply
    model.model.embed_tokens.register_forward_hook(lambda _, given, __: read.append(given[0].numel()))
    monkeypatch.setattr(
        utils._ChunkedLogProbFunction,
        "apply",
        lambda *given: projected.append(len(given[0])) or project(*given),
    )
    scored(model, batch, 4)
    scored(model, batch, 1)
    groups, width = 4, batch[2].shape[2]
    assert read == [3 * (19 + groups * width), 3 * groups * (20 + width - 1)]
    assert projected == [3 * groups * width] * 2


def test_prompts_that_differ_or_have_no_token_are_refused():
    prompts, prompt_mask, ids, mask = tiny_models.ragged()
    model = fused(tiny_models.build("llama"))
    attention.install(model)
    each = tuple(x.repeat(4, 1) for x in (prompts, prompt_mask))
    with pytest.raises(ValueError, match="the prompts of 4 neighbours differ; keep groups together"):
        score(model, backbone(model), each, (ids.flatten(0, 1), mask.flatten(0, 1)), 4)
    prompt_mask[0] = 0
    with pytest.raises(ValueError, match="prompts must have a token and be padded on the left"):
        pack(prompts, prompt_mask, ids, mask)


def test_without_a_layout_an_installed_model_is_what_it_was():
    batch = tiny_models.ragged()
    plain, installed = tiny_models.build("qwen3"), tiny_models.build("qwen3")
    attention.install(installed)
    attention.install(installed)
    assert torch.equal(tiny_models.alone(installed, batch)[0], tiny_models.alone(plain, batch)[0])
    prompts, mask = batch[:2]
    padded = {"input_ids": prompts, "attention_mask": mask, "max_new_tokens": 5, "do_sample": False}
    assert torch.equal(installed.generate(**padded), plain.generate(**padded))


# --- models that cannot share ---


@pytest.mark.parametrize("family", SLIDING)
def test_a_sliding_window_is_exact_up_to_its_length_and_not_shared_beyond(family):
    model = fused(tiny_models.build(family, SLIDING[family]))
    assert unsupported(model) is None
    assert window(model) == WINDOW
    sharing = Sharing(model, "on", "split")
    for lengths, shared in (((9, 1, 10), True), ((10, 1, 11), False), ((13, 1, 20), False)):
        batch = tiny_models.ragged(lengths)
        assert batch[0].shape[1] + batch[2].shape[2] - WINDOW == (0, 1, 10)[(10, 11, 20).index(lengths[-1])]
        plain = tiny_models.build(family, SLIDING[family])
        expected, _ = tiny_models.alone(plain, batch, TEMPERATURE)
        copies = sharing.copies(batch[0].shape[1], batch[2].shape[2], 4)
        assert copies == (4 if shared else 1)
        log_probs, _ = scored(model, batch, copies)
        assert (log_probs - expected).abs().max() < 1e-5
        assert tiny_models.relative(gradients(model, log_probs), gradients(plain, expected)) < 1e-5
        logits, labels = answer_logits(model, batch[:2], batch[2:])
        kept = labels != -100
        found = (logits / TEMPERATURE).log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        assert (found - expected)[kept].abs().max() < 1e-5


def test_the_window_is_needed():
    """Else the test above would pass with a window that does nothing."""
    batch = tiny_models.ragged((13, 1, 20))
    for family, options in SLIDING.items():
        model = fused(tiny_models.build(family, options))
        expected, _ = tiny_models.alone(tiny_models.build(family, options), batch, TEMPERATURE)
        attention.install(model)
        assert (scored(model, batch, 4)[0] - expected).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("family", "options", "expected"),
    [
        ("qwen2", {"sliding_window": 16, "use_sliding_window": False}, None),
        ("qwen3", {"head_dim": 8, "sliding_window": 16, "use_sliding_window": False}, None),
        ("phi3", {"sliding_window": 16}, 16),
        ("starcoder2", {"sliding_window": 16}, 16),
        ("mistral", {"sliding_window": None}, None),
        ("qwen3_moe", {"sliding_window": 16, "use_sliding_window": False}, None),
        ("llama", {}, None),
    ],
)
def test_the_window_is_the_one_in_use(family, options, expected):
    assert window(tiny_models.build(family, options)) == expected


@pytest.mark.parametrize("family", STATEFUL)
def test_models_that_carry_a_state_are_refused_by_name_and_go_through_full_rows(family, caplog):
    model = tiny_models.build(family, STATEFUL[family], attention=None)
    caplog.clear()
    assert unsupported(model).startswith(f"{family} ({type(model).__name__})")
    with pytest.raises(ValueError, match=f"prefix_sharing=on, but {family} .*set it to auto"):
        Sharing(model, "on", "split")
    assert not caplog.records
    sharing = Sharing(model, "auto", "split")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert family in caplog.text
    assert sharing.copies(1000, 10, 8) == 1
    assert not sharing.understood
    # No padding in front: a state would run through it.
    batch = tiny_models.ragged((13, 13))
    expected, _ = tiny_models.alone(model, batch)
    logits, labels = answer_logits(model, batch[:2], batch[2:])
    kept = labels != -100
    found = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    assert (found - expected)[kept].abs().max() < 1e-4


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("stablelm", {}),
        ("bloom", {"num_key_value_heads": None}),
        ("mpt", {"num_key_value_heads": None}),
        ("falcon", {"alibi": True, "num_key_value_heads": None}),
        ("gpt_oss", {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}),
    ],
)
def test_other_models_that_cannot_share_are_refused_by_name(family, options):
    assert family in unsupported(tiny_models.build(family, options, attention=None))


def test_a_model_with_another_attention_is_refused_with_the_fix():
    model = tiny_models.build("llama", attention="eager")
    assert "attn_implementation='eager'; load it with 'sdpa'" in unsupported(model)
    batch = tiny_models.ragged()
    logits, labels = answer_logits(model, batch[:2], batch[2:])
    found = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    apart = found - tiny_models.alone(model, batch)[0]
    assert apart[labels != -100].abs().max() < 1e-5
    assert model.config._attn_implementation == "eager"


def test_sharing_that_is_off_leaves_the_model_alone_and_is_silent(caplog):
    model = tiny_models.build("llama")
    sharing = Sharing(model, "off", "split")
    assert (sharing.copies(1000, 10, 8), model.config._attn_implementation) == (1, "sdpa")
    Sharing(tiny_models.build("mamba", STATEFUL["mamba"], attention=None), "off", "split")
    assert not caplog.records


def test_refusing_ends_sharing_or_the_run(caplog):
    sharing = Sharing(tiny_models.build("llama"), "auto", "split")
    assert sharing.copies(1000, 10, 8) == 8
    sharing.refuse("they differ")
    assert sharing.copies(1000, 10, 8) == 1
    assert "they differ" in caplog.text
    with pytest.raises(RuntimeError, match="prefix_sharing=on, but they differ; set it to auto or off"):
        Sharing(tiny_models.build("llama"), "on", "split").refuse("they differ")


# --- FlexAttention ---


def layout(kernel):
    """Three rows with fields of four; the widths are odd."""
    return Packed(torch.tensor([4, 0, 7]), prompt=7, groups=4, width=3, kernel=kernel)


def seen(packed):
    """Who sees whom, counted from the words of the docstring."""
    length = packed.prompt + packed.groups * packed.width
    found = torch.zeros(len(packed.lengths), length, length, dtype=torch.bool)
    for row, query, key in itertools.product(range(len(packed.lengths)), range(length), range(length)):
        in_prompt = key < packed.lengths[row]
        field = [(place - packed.prompt) // packed.width for place in (query, key)]
        same = min(query, key) >= packed.prompt and field[0] == field[1]
        found[row, query, key] = query == key or (query > key and bool(in_prompt or same))
    return found


def test_the_mask_of_flex_attention_is_that_of_the_layout():
    packed = layout("flex")
    length = packed.prompt + packed.groups * packed.width
    row, query, key = torch.meshgrid(*map(torch.arange, (3, length, length)), indexing="ij")
    assert torch.equal(packed.visible(row, torch.zeros_like(row), query, key), seen(packed))
    blocks = packed._block_mask()
    assert blocks.shape[-2:] == (length, length)


def test_both_kernels_agree(monkeypatch):
    """FlexAttention as it is written; transformers compiles it, which takes a minute on a CPU."""
    module = tiny_models.build("llama").model.layers[0].self_attn
    generator = torch.Generator().manual_seed(0)
    packed = {kernel: layout(kernel) for kernel in ("split", "flex")}
    length = 7 + 4 * 3
    query = torch.randn(3, 4, length, 8, generator=generator)
    key, value = (torch.randn(3, 2, length, 8, generator=generator) for _ in range(2))
    monkeypatch.setattr(
        "transformers.integrations.flex_attention.compile_friendly_flex_attention",
        lambda *args, training=False, **options: flex_attention(*args, **options),
    )
    with torch.no_grad():
        split, flex = (packed[k].attend(module, query, key, value, 0.3, 0.0) for k in ("split", "flex"))
    mask = seen(packed["split"])
    repeated = (x.repeat_interleave(2, dim=1) for x in (key, value))
    plain = torch.nn.functional.scaled_dot_product_attention(
        query, *repeated, attn_mask=mask[:, None], scale=0.3
    ).transpose(1, 2)
    # Padding of a prompt may hold anything.
    kept = torch.arange(length)[None] < torch.tensor([4, 0, 7])[:, None]
    kept = kept | (torch.arange(length) >= 7)
    assert (flex - plain)[kept].abs().max() < 1e-5
    assert (split - plain)[kept].abs().max() < 1e-5


def test_flex_rows_are_whole_blocks_and_hold_the_same(monkeypatch):
    monkeypatch.setattr(
        "transformers.integrations.flex_attention.compile_friendly_flex_attention",
        lambda *args, training=False, **options: flex_attention(*args, **options),
    )
    batch = tiny_models.ragged()
    packed = pack(*batch, kernel="flex")
    assert packed.inputs["input_ids"].shape == (3, 128 + 4 * 128)
    model = fused(tiny_models.build("llama"))
    attention.install(model)
    with torch.no_grad():
        split, flex = (scored(model, batch, 4, kernel=kernel) for kernel in ("split", "flex"))
    for one, other in zip(split, flex, strict=True):
        assert (one - other).abs().max() < 1e-5


def test_flex_attention_needs_a_gpu():
    with pytest.raises(
        ValueError, match=r"prefix_attention=flex trains on CUDA only.*on cpu.*set it to split"
    ):
        Sharing(tiny_models.build("llama"), "auto", "flex")
    Sharing(tiny_models.build("llama"), "off", "flex")


# --- what pays ---


def test_sharing_pays_for_long_prompts_only():
    cost = CostModel(tiny_models.build("llama"))
    assert cost.shares(500, 20, 8)
    assert cost.shares(2000, 200, 2)
    assert not cost.shares(4, 256, 8)
    assert not cost.shares(500, 20, 1)
    # Attention between fields and the prompt is not halved by causality, as it is in full rows.
    assert not cost.shares(5000, 5000, 2)
    decisions = [cost.shares(prompt, 64, 8) for prompt in range(1, 400)]
    assert decisions == sorted(decisions), "once it pays it pays for every longer prompt"
    decisions = [cost.shares(24, 32, copies) for copies in range(1, 64)]
    assert decisions == sorted(decisions), "and for more copies"


def test_what_pays_is_decided_in_auto_only():
    model = tiny_models.build("llama")
    assert [Sharing(model, mode, "split").copies(4, 256, 8) for mode in ("auto", "on", "off")] == [1, 8, 1]
    assert [Sharing(model, mode, "split").copies(500, 20, 8) for mode in ("auto", "on", "off")] == [8, 8, 1]


def test_decisions_follow_the_window():
    cost = CostModel(tiny_models.build("mistral", {"sliding_window": 100}))
    assert (cost.shares(90, 10, 8), cost.shares(90, 11, 8)) == (True, False)
    assert (cost.exact(90, 10), cost.exact(90, 11)) == (True, False)


def test_the_cost_is_that_of_counted_arithmetic():
    """The ratio of both ways, against torch's own count of floating-point operations."""
    from torch.utils.flop_counter import FlopCounterMode

    batch = tiny_models.ragged((120, 120, 120), width=8)
    batch = (*batch[:3], torch.ones_like(batch[3]))
    model = fused(copy.deepcopy(tiny_models.build("llama", {"num_key_value_heads": 4})))
    attention.install(model)
    spent = []
    for copies in (4, 1):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            scored(model, batch, copies)
        spent.append(counter.get_total_flops())
    cost = CostModel(model)
    shared, full = (cost._cost(120 + 4 * 8, 120 * 120 / 2 + 4 * 8 * 128), 4 * cost._cost(128, 128 * 128 / 2))
    assert shared / full == pytest.approx(spent[0] / spent[1], abs=0.08)


def test_the_prefill_of_no_prompt_keeps_nothing():
    assert (Prefill().keys, Prefill().values) == ([], [])


def test_the_last_feed_forward_part_reads_the_fields_only():
    """And so does its recomputation under gradient checkpointing; a prefill needs keys and values alone."""
    model = fused(tiny_models.build("qwen3"))
    attention.install(model)
    read = [[], []]  # of the first and of the last layer
    for layer, positions in zip((model.model.layers[0], model.model.layers[-1]), read, strict=True):
        # The weights of the part see what is left.
        layer.mlp.up_proj.register_forward_pre_hook(
            lambda _, given, positions=positions: positions.append(given[0].shape[1])
        )
    batch = tiny_models.ragged()
    prompt, fields = batch[0].shape[1] - 1, batch[2].shape[1] * batch[2].shape[2]
    scored(model, batch, copies=batch[2].shape[1])
    assert read == [[prompt + fields], [fields]]
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    log_probs, _ = scored(model, batch, copies=batch[2].shape[1])
    log_probs.sum().backward()
    assert read == [[prompt + fields] * 3, [fields] * 3]
    model.eval()
    prefill(model, [list(range(1, 12))], 10)
    assert (read[0][-1], read[1][-1]) == (10, 1)
    model(input_ids=batch[0])
    assert read[0][-1] == read[1][-1] == batch[0].shape[1]
