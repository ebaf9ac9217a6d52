"""Answers have the model's distribution, and each prompt is read once."""

from collections import Counter

import numpy as np
import pytest
import tiny_models
import torch
from scipy.stats import chisquare
from transformers import GenerationConfig

from recrl.rl.decoding.generate import generate
from recrl.rl.prefix import attention, sharing
from recrl.rl.prefix import packing as prefix
from recrl.rl.prefix.branching import inverse_transform
from recrl.rl.prefix.sharing import can_share
from recrl.rl.sampling import Constraint, Sampling

VOCABULARY, FAMILIES, SLIDING, STATEFUL = (
    getattr(tiny_models, name) for name in ("VOCABULARY", "FAMILIES", "SLIDING", "STATEFUL")
)

END = 2
# A fifth of the vocabulary, so that answers end at different steps.
ENDS = tuple(range(2, VOCABULARY, 5))


def prompts(*lengths):
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


PROMPTS = prompts(9, 14, 1, 6, 1, 20)


def greedy(tokens, ends=(END,)):
    return Sampling(tokens, ends, temperature=0.0)


def alone(model, prompt, tokens, ends=(END,)):
    """What transformers continues one prompt with, greedily."""
    config = GenerationConfig(max_new_tokens=tokens, eos_token_id=list(ends), pad_token_id=0, do_sample=False)
    ids = torch.tensor([prompt])
    found = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return found[0, len(prompt) :].tolist()


def read_by(model):
    """Shape of the token ids of every forward pass, filled in as the model runs, once it was tried out."""
    can_share(model, 1)
    shapes = []
    embed = model.get_input_embeddings()
    embed.register_forward_hook(lambda _, given, __: shapes.append(tuple(given[0].shape)))
    return shapes


# --- greedy ---


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_are_those_of_transformers(family):
    """Uneven prompts, two of one token; keys and values shared by heads."""
    plain = tiny_models.build(family)
    expected = [alone(plain, prompt, 6) for prompt in PROMPTS]
    model = tiny_models.build(family)
    shapes = read_by(model)
    found = generate(model, PROMPTS, greedy(6), copies=2)
    assert found == [answer for answer in expected for _ in range(2)]
    assert shapes[0] == (6, 19), "went through transformers"


def test_answers_that_end_at_different_steps_are_those_of_transformers():
    plain, asked = tiny_models.build("qwen3"), prompts(*range(1, 25))
    expected = [alone(plain, prompt, 12, ENDS) for prompt in asked]
    assert len({len(answer) for answer in expected}) > 4
    assert generate(tiny_models.build("qwen3"), asked, greedy(12, ENDS)) == expected


@pytest.mark.parametrize("lengths", [(1,), (1, 1, 1), (8, 8)])
def test_prompts_without_padding(lengths):
    model, asked = tiny_models.build("llama"), prompts(*lengths)
    assert generate(model, asked, greedy(4), copies=3) == [
        answer for prompt in asked for answer in [alone(tiny_models.build("llama"), prompt, 4)] * 3
    ]


def test_equal_prompts_are_read_once_and_answered_in_order():
    model = tiny_models.build("llama")
    one, two, three = PROMPTS[:3]
    asked = [two, one, two, three, two]
    shapes = read_by(model)
    found = generate(model, asked, greedy(3, ends=(VOCABULARY - 1,)), copies=2)
    expected = [alone(tiny_models.build("llama"), prompt, 3, (VOCABULARY - 1,)) for prompt in asked]
    assert found == [answer for answer in expected for _ in range(2)]
    # Three distinct prompts without their last tokens; then every answer's place, six for each.
    assert shapes == [(3, 13), (18, 1), (18, 1), (18, 1)]


def test_answers_that_ended_leave_the_batch():
    model = tiny_models.build("qwen3")
    shapes = read_by(model)
    torch.manual_seed(0)
    found = generate(model, PROMPTS, Sampling(40, ENDS), copies=20)
    lengths = np.array([len(answer) for answer in found])
    steps = shapes[1:]
    assert len(steps) == lengths.max() > 10
    for step, (rows, width) in enumerate(steps):
        needed = int((lengths > step).sum())
        assert width == 1
        assert rows >= needed
        # Prompts are rows of equal numbers of answers: the prompt with most left counts for all.
        assert rows <= max(
            6, 6 * max(int((lengths[i * 20 : i * 20 + 20] > step).sum()) for i in range(6)) * 4 / 3
        )
    assert steps[0] == (120, 1)
    assert sum(rows for rows, _ in steps) < 0.5 * 120 * len(steps)


def test_every_answer_ends_with_an_end_or_has_the_most_tokens():
    torch.manual_seed(0)
    found = generate(tiny_models.build("llama"), PROMPTS, Sampling(5, ENDS), copies=30)
    assert len(found) == 180
    whole = [answer for answer in found if answer[-1] in ENDS]
    assert 20 < len(whole) < 170
    assert all(len(answer) == 5 for answer in found if answer[-1] not in ENDS)
    assert all(len(answer) <= 5 and not set(answer[:-1]) & set(ENDS) for answer in found)
    assert len({answer[-1] for answer in whole}) > 5


def test_adapters_answer():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(tiny_models.build("qwen2"), config).eval()
    expected = [alone(model, prompt, 6) for prompt in PROMPTS]
    found = generate(model, PROMPTS, greedy(6))
    assert found == expected
    assert found != [alone(tiny_models.build("qwen2"), prompt, 6) for prompt in PROMPTS]


def test_a_family_with_a_mask_of_its_own_says_so_or_goes_through_transformers():
    plain = tiny_models.build("doge", {})
    expected = [alone(plain, prompt, 6) for prompt in PROMPTS]
    try:
        found = generate(tiny_models.build("doge", {}), PROMPTS, greedy(6))
    except (NotImplementedError, RuntimeError) as error:
        assert "Doge" in str(error)  # noqa: PT017
        return
    assert found == expected


# --- the distribution ---


def exact(model, prompt, **options):
    """Distribution of the next token after what transformers' own generation does to it."""
    config = GenerationConfig(
        max_new_tokens=1, do_sample=True, pad_token_id=0, eos_token_id=END, **{"top_k": 0, **options}
    )
    ids = torch.tensor([prompt])
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=config,
        output_scores=True,
        return_dict_in_generate=True,
    )
    return found.scores[0][0].double().softmax(-1)


def surprise(counts, probabilities):
    """p-value of the chi-square test; outcomes that are rarely expected count together."""
    total = sum(counts.values())
    expected = {outcome: total * p for outcome, p in probabilities.items()}
    assert set(counts) <= {outcome for outcome, n in expected.items() if n > 0}, "what cannot happen happened"
    common = [outcome for outcome, n in expected.items() if n >= 5]
    seen, wanted = [counts[o] for o in common], [expected[o] for o in common]
    seen.append(total - sum(seen)), wanted.append(total - sum(wanted))
    if wanted[-1] < 1e-9:
        seen.pop(), wanted.pop()
    return chisquare(seen, np.array(wanted) * sum(seen) / sum(wanted)).pvalue if len(seen) > 1 else 1.0


SETTINGS = [
    {},
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"top_p": 0.6},
    {"top_k": 7},
    {"min_p": 0.1},
    {"temperature": 1.5, "top_k": 20, "top_p": 0.8, "min_p": 0.05},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_first_and_second_tokens_have_the_models_distribution(settings):
    """Two prompts of different lengths; the second token is drawn from what the first one left."""
    plain, model = tiny_models.build("qwen3"), tiny_models.build("qwen3")
    for each in (plain, model):
        each.model.norm.weight.data.mul_(0.6)
    asked, ends, copies = PROMPTS[:2], (2, 7, 12), 8000
    torch.manual_seed(1)
    found = generate(model, asked, Sampling(2, ends, **settings), copies=copies)
    for prompt, answers in zip(asked, (found[:copies], found[copies:]), strict=True):
        first = exact(plain, prompt, **settings).tolist()
        assert surprise(Counter(a[0] for a in answers), dict(enumerate(first))) > 1e-3
        pairs = {}
        for one in (token for token, p in enumerate(first) if p * copies > 100):
            if one not in ends:
                second = exact(plain, [*prompt, one], **settings).tolist()
                pairs |= {(one, two): first[one] * p for two, p in enumerate(second)}
        assert len(pairs) > 100
        pairs["other"] = 1 - sum(pairs.values())
        counts = Counter(tuple(a) if tuple(a) in pairs else "other" for a in answers)
        assert surprise(counts, pairs) > 1e-3


def test_equal_answers_are_no_likelier_than_chance():
    """Answers to one prompt are drawn independently of each other."""
    model, copies = tiny_models.build("qwen3"), 2000
    torch.manual_seed(2)
    found = generate(model, [PROMPTS[0]], Sampling(1, (END,)), copies=copies)
    first = exact(tiny_models.build("qwen3"), PROMPTS[0])
    alike = np.mean([one == two for one, two in zip(found[::2], found[1::2], strict=True)])
    chance = first.square().sum().item()
    assert abs(alike - chance) < 4 * (chance * (1 - chance) / (copies / 2)) ** 0.5


@pytest.mark.parametrize(("number", "expected"), [(0.0, 2), (0.499, 2), (0.5, 4), (1 - 2**-53, 4)])
def test_a_token_without_probability_is_never_drawn(monkeypatch, number, expected):
    """Not even for the smallest and the largest random number."""
    monkeypatch.setattr(
        "recrl.rl.prefix.branching.torch.rand", lambda *shape, **options: torch.full(shape, number, **options)
    )
    assert inverse_transform(torch.tensor([[0.0, 0.0, 0.5, 0.0, 0.5, 0.0]])).tolist() == [[expected]]


STRANGE = {
    "temperature": 0.01,
    "top_k": 1,
    "min_p": 0.9,
    "repetition_penalty": 9.0,
    "min_new_tokens": 4,
    "suppress_tokens": list(range(40, 90)),
    "num_beams": 3,
    "num_return_sequences": 2,
    "max_length": 3,
}


@pytest.mark.parametrize("kind", ["shared", "transformers"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("setting", STRANGE)
def test_the_configuration_beside_a_model_has_no_influence(kind, temperature, setting):
    implementation = {"shared": "sdpa", "transformers": "eager"}[kind]
    found = []
    for beside in ({}, {setting: STRANGE[setting]}):
        model = tiny_models.build("qwen3", attention=implementation)
        model.generation_config = GenerationConfig(eos_token_id=50, pad_token_id=0, do_sample=True, **beside)
        torch.manual_seed(0)
        found.append(generate(model, PROMPTS, Sampling(6, ENDS, temperature=temperature), copies=2))
    assert found[0] == found[1]


# --- models that cannot share ---


@pytest.mark.parametrize("family", [*STATEFUL, *(f"sliding {family}" for family in SLIDING), "eager"])
def test_a_model_that_cannot_share_goes_through_transformers(family):
    if family == "eager":
        model = tiny_models.build("llama", attention="eager")
    elif family.startswith("sliding "):
        model = tiny_models.build(family.split()[1], SLIDING[family.split()[1]])
    else:
        model = tiny_models.build(family, STATEFUL[family], attention=None)
    expected = [alone(model, prompt, 6, ENDS) for prompt in PROMPTS]
    shapes = read_by(model)
    found = generate(model, PROMPTS, greedy(6, ENDS), copies=2)
    assert shapes[0] == (12, 20), "each answer's prompt is read"
    assert found == [answer for answer in expected for _ in range(2)]


def test_a_sliding_window_that_is_long_enough_is_shared():
    model = tiny_models.build("mistral", SLIDING["mistral"])
    asked = prompts(10, 4)
    expected = [alone(tiny_models.build("mistral", SLIDING["mistral"]), prompt, 6) for prompt in asked]
    shapes = read_by(model)
    assert generate(model, asked, greedy(6)) == expected
    assert shapes[0] == (2, 9)


# --- constraints ---


class Script(Constraint):
    """Allows two tokens at each step of an answer, its end alone at the last; keeps what it is asked."""

    def __init__(self, lengths):
        self.lengths, self.calls, self.begun = lengths, [], []
        self.step = 0

    def choice(self, answer, step):
        if step + 1 == self.lengths[answer]:
            return {END}
        return {3 + (answer * 7 + step * 13) % 90, 3 + (answer * 11 + step * 5 + 1) % 90}

    def begin(self, answers):
        self.begun.append(answers)
        self.step = 0

    def allowed(self, answers, last):
        self.calls.append((list(answers), None if last is None else list(last)))
        found = torch.zeros(len(answers), VOCABULARY, dtype=torch.bool)
        for row, answer in zip(found, answers, strict=True):
            row[list(self.choice(answer, self.step))] = True
        self.step += 1
        return found


@pytest.mark.parametrize("kind", ["shared", "transformers"])
def test_a_constraint_is_asked_for_the_answers_that_go_on(kind):
    """Answers to one prompt take different tokens and end at different steps.

    Each takes the likelier of two tokens, so its numbers must be its own after others have left.
    """
    plain = tiny_models.build("qwen3")
    model = tiny_models.build("qwen3", attention={"shared": "sdpa", "transformers": "eager"}[kind])
    asked = [*PROMPTS, PROMPTS[1]]
    lengths = [1 + (i * 5) % 9 for i in range(len(asked) * 3)]
    expected = []
    script = Script(lengths)
    for answer, length in enumerate(lengths):
        taken = []
        for step in range(length):
            row = torch.tensor([[*asked[answer // 3], *taken]])
            with torch.no_grad():
                logits = plain(row).logits[0, -1]
            taken.append(max(script.choice(answer, step), key=lambda token: logits[token].item()))
        expected.append(taken)
    assert generate(model, asked, greedy(12), copies=3, constraint=script) == expected
    assert script.begun == [len(lengths)]
    assert len(script.calls) == max(lengths)
    for step, (answers, last) in enumerate(script.calls):
        assert sorted(answers) == [i for i, length in enumerate(lengths) if length > step]
        assert last == ([expected[i][step - 1] for i in answers] if step else None)
    # A second batch starts afresh.
    assert generate(model, asked, greedy(12), copies=3, constraint=script) == expected
    assert script.begun == [len(lengths)] * 2


def test_truncation_works_on_what_a_constraint_leaves():
    """top_k=1 takes the likeliest of the allowed tokens, not an allowed one of the likeliest."""
    script = Script([4] * 6)
    model = tiny_models.build("qwen3")
    expected = generate(model, PROMPTS, greedy(4), constraint=script)
    assert generate(model, PROMPTS, Sampling(4, (END,), top_k=1), constraint=script) == expected


# --- precision and bad input ---


def test_half_precision_stays_within_the_stated_tolerance(record_property):
    """Of packed and full rows in bfloat16 against each other; both are as far from float32."""
    model = tiny_models.build("qwen3").to(torch.bfloat16)
    torch.manual_seed(0)
    found = generate(model, PROMPTS, Sampling(8, (END,)), copies=4)
    assert len(found) == 24
    ids = torch.zeros(6, 4, 8, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, answer in enumerate(found):
        ids[i // 4, i % 4, : len(answer)] = torch.tensor(answer)
        mask[i // 4, i % 4, : len(answer)] = 1
    width = max(map(len, PROMPTS))
    asked = torch.tensor([[0] * (width - len(p)) + p for p in PROMPTS])
    seen = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in PROMPTS])
    with torch.no_grad():
        packed, _ = prefix.continuation_logits(model, (asked, seen), (ids, mask), shared=True)
        plain = tiny_models.build("qwen3").to(torch.bfloat16)
        full, _ = tiny_models.alone(plain, (asked, seen, ids, mask))
        precise, _ = tiny_models.alone(tiny_models.build("qwen3"), (asked, seen, ids, mask))
    packed = packed.float().log_softmax(-1).gather(-1, ids[..., : packed.shape[2], None])[..., 0]
    kept = mask.bool()
    apart = (packed - full)[kept].abs().mean().item()
    rounding = (full - precise)[kept].abs().mean().item()
    record_property("mean difference of log-probabilities in bfloat16", apart)
    print(f"bf16: packed-full {apart:.4f}, full-fp32 {rounding:.4f}")
    assert apart < sharing.TOLERANCE[torch.bfloat16]
    assert apart < 2 * rounding


def test_what_does_not_fit_the_window_is_refused_by_name():
    model = tiny_models.build("llama")
    generate(model, prompts(506), greedy(6))
    with pytest.raises(
        ValueError,
        match=r"prompt of 507 tokens .* up to 6 .* window of 512 .*task\.max_history.*max_answer_tokens",
    ):
        generate(model, prompts(3, 507), greedy(6))


@pytest.mark.parametrize("asked", [[[5], []], [[]]])
def test_an_empty_prompt_is_refused(asked):
    with pytest.raises(ValueError, match="empty prompt"):
        generate(tiny_models.build("llama"), asked, greedy(6))


def test_no_gradient_is_kept_and_the_model_stays_as_it_was():
    model = tiny_models.build("llama")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generate(model, PROMPTS, Sampling(6, ENDS), copies=4)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert attention.unsupported(model) is None
