"""Deployed answers: exactly K distinct tags, the model's own choice among what is left."""

import random

import pytest
import torch

from recrl.envs.catalog import Catalog
from recrl.envs.task import Lines
from recrl.rl import policy
from recrl.rl.decoding.deploy import answer_texts, deploy
from recrl.rl.decoding.lists import DistinctLines, Trie, line_tokens
from recrl.rl.policy.settings import PolicyConfig, TinyConfig
from recrl.rl.sampling import Sampling

# Tags that are prefixes of one another, which a careless decoder cannot tell apart.
CATALOG = Catalog(["candy", "candy bars", "candy bars - mini", "can", "soup", "soup bowls"])
TOKENS = pytest.mark.parametrize(
    "tags", [CATALOG.tags, ("something else",)], ids=["one token a tag", "many tokens a tag"]
)
PROMPTS = [[{"role": "user", "content": text}] for text in ("one", "two, a longer prompt", "three")]


def load(tags):
    """``tags`` empty: every tag is spelled in several byte-level pieces."""
    return policy.load(
        PolicyConfig(tiny=TinyConfig(hidden=32, vocabulary=270)),
        options=tags,
        texts=["candy soup one two three"],
    )


@TOKENS
@pytest.mark.parametrize("slots", [1, 4, 6])
def test_lists_are_complete_distinct_and_valid(tags, slots):
    model, tokenizer = load(tags)
    answers = [
        CATALOG.parse(text)
        for text in deploy(model, tokenizer, PROMPTS, Lines(CATALOG.tags, slots), batch_size=2)
    ]
    for answer in answers:
        assert len(answer.slots) == slots
        assert len(answer.valid) == slots
        assert answer.invalid == answer.duplicates == 0


def test_each_choice_is_the_likeliest_tag_that_is_left():
    model, tokenizer = load(CATALOG.tags)
    tokens = [ids[0] for ids in line_tokens(tokenizer, Lines(CATALOG.tags, 3))]
    (listed,) = deploy(model, tokenizer, PROMPTS[:1], Lines(CATALOG.tags, 4))
    ids = tokenizer.apply_chat_template(PROMPTS[0], add_generation_prompt=True, return_dict=True)["input_ids"]
    left = list(range(len(CATALOG)))
    for chosen in CATALOG.parse(listed).slots:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        assert chosen == max(left, key=lambda tag: logits[tokens[tag]].item())
        left.remove(chosen)
        ids = [*ids, tokens[chosen]]


@TOKENS
@pytest.mark.parametrize("shared", [True, False], ids=["our sampler", "transformers"])
def test_options_that_are_worth_enough_are_chosen_whatever_the_policy_thinks(tags, shared, monkeypatch):
    """Each copy of an answer has a bonus of its own; without one it is the policy's own choice."""
    model, tokenizer = load(tags)
    if not shared:
        monkeypatch.setattr("recrl.rl.decoding.generate.can_share", lambda *_: False)
    form = Lines(CATALOG.tags, 3)
    wanted = [[5, 0, 2], [1, 4, 3]]
    bonuses = torch.zeros(len(PROMPTS), 3, len(CATALOG))
    for copy, order in enumerate(wanted):
        for place, option in enumerate(order):
            bonuses[:, copy, option] = 300.0 - 100 * place
    found = deploy(
        model, tokenizer, PROMPTS, form, batch_size=6, bonuses=lambda first, end: bonuses[first:end], copies=3
    )
    own = deploy(model, tokenizer, PROMPTS, form)
    for i, text in enumerate(own):
        lists = [list(CATALOG.parse(answer).slots) for answer in found[3 * i : 3 * i + 3]]
        assert lists == [*wanted, list(CATALOG.parse(text).slots)]


@TOKENS
@pytest.mark.parametrize("shared", [True, False], ids=["our sampler", "transformers"])
def test_options_that_a_prompt_bars_are_never_named(tags, shared, monkeypatch):
    """Whatever the policy or a bonus thinks of them; a list is shorter where too few others are left."""
    model, tokenizer = load(tags)
    if not shared:
        monkeypatch.setattr("recrl.rl.decoding.generate.can_share", lambda *_: False)
    form, barred = Lines(CATALOG.tags, 3), [[0, 2], [1, 3, 4, 5], range(6)]
    bonuses = torch.zeros(len(PROMPTS), 2, len(CATALOG))
    bonuses[:, 1, [0, 1]] = 300.0
    found = deploy(
        *(model, tokenizer, PROMPTS, form),
        barred=barred,
        batch_size=4,
        bonuses=lambda first, end: bonuses[first:end],
        copies=2,
    )
    lists = [CATALOG.parse(text).slots for text in found]
    assert [len(listed) for listed in lists] == [3, 3, 2, 2, 0, 0]
    for i, listed in enumerate(lists):
        assert not {*listed} & {*barred[i // 2]}
        assert len({*listed}) == len(listed)
    assert lists[1][0] == 1
    assert lists[3][0] == 0
    plain = deploy(model, tokenizer, PROMPTS, form, barred=barred)
    assert plain == found[::2]
    with pytest.raises(ValueError, match=r"^evaluation.decoding=grammar: .*; set .*=distinct"):
        deploy(model, tokenizer, PROMPTS, form, barred=barred, decoding="grammar")


def next_tokens(tokens, lines, slots, end):
    """What may follow ``tokens``: the next token of a line that is not written yet, or the end."""
    left, here = list(lines), []
    for token in tokens:
        here = [*here, token]
        if here in left:
            left.remove(here)
            here = []
    if len(lines) - len(left) == slots:
        return {end}
    return {line[len(here)] for line in left if line[: len(here)] == here}


@TOKENS
@pytest.mark.parametrize("slots", [2, 6])
def test_exactly_the_tags_that_are_left_are_allowed_while_answers_finish(tags, slots):
    _, tokenizer = load(tags)
    lines, end = line_tokens(tokenizer, Lines(CATALOG.tags, 3)), tokenizer.eos_token_id
    decoder = DistinctLines(tokenizer, Lines(CATALOG.tags, slots), len(tokenizer) + 5)
    rng = random.Random(0)
    for _ in range(5):
        written = {answer: [] for answer in range(4)}
        decoder.begin(len(written))
        going, last = list(written), None
        while going:
            allowed = decoder.allowed(going, last)
            assert allowed.shape == (len(going), len(tokenizer) + 5)
            for answer, row in zip(going, allowed, strict=True):
                found = row.nonzero().flatten().tolist()
                assert set(found) == next_tokens(written[answer], lines, slots, end)
                written[answer].append(rng.choice(found))
            going = [answer for answer in going if written[answer][-1] != end]
            last = [written[answer][-1] for answer in going]
        assert max(map(len, written.values())) <= decoder.max_tokens


def test_free_answers_are_what_the_policy_writes():
    model, tokenizer = load(CATALOG.tags)
    free = deploy(model, tokenizer, PROMPTS, Lines(CATALOG.tags, 3), decoding="free", batch_size=2)
    ids = tokenizer.apply_chat_template(PROMPTS[1], add_generation_prompt=True, return_dict=True)["input_ids"]
    answer = []
    # One token a tag, and the end.
    while len(answer) < 3 + 1 and tokenizer.eos_token_id not in answer:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*ids, *answer]])).logits[0, -1]
        answer.append(int(logits.argmax()))
    assert free[1] == tokenizer.decode(answer, skip_special_tokens=True)


def test_texts_are_in_the_prompts_order_copies_side_by_side():
    """The policy is trained to repeat the user's word, so each text says which prompt it answers."""
    model, tokenizer = load(CATALOG.tags)
    words = ["candy", "soup", "can", "candy bars", "soup bowls"]
    chats = [[{"role": "user", "content": word}] for word in words]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rows = [
        tokenizer.apply_chat_template(
            [*chat, {"role": "assistant", "content": f"{word}\n"}], return_dict=True
        )["input_ids"]
        for chat, word in zip(chats, words, strict=True)
    ]
    for _ in range(60):
        for row in rows:
            optimizer.zero_grad()
            model(input_ids=torch.tensor([row]), labels=torch.tensor([row])).loss.backward()
            optimizer.step()
    model.train()
    progress = []
    sampling = Sampling(max_tokens=3, ends=(tokenizer.eos_token_id,), temperature=0.0)
    texts = answer_texts(model, tokenizer, chats, sampling, copies=2, batch_size=5, on_batch=progress.append)
    assert texts == [f"{word}\n" for word in words for _ in range(2)]
    assert progress == [2, 4, 5]  # five answers at once are two prompts of two copies
    assert model.training


def test_tags_that_do_not_come_back_from_an_answer_are_refused():
    _, tokenizer = load(CATALOG.tags)
    for tag in ("two\nlines", "two\u2028lines", "the <|im_end|>"):
        with pytest.raises(ValueError, match="does not name it twice"):
            line_tokens(tokenizer, Lines(("soup", tag), 1))


def test_more_slots_than_tags_and_tags_with_equal_tokens_are_refused():
    _, tokenizer = load(CATALOG.tags)
    with pytest.raises(ValueError, match="7 lines are more than the 6 options"):
        DistinctLines(tokenizer, Lines(CATALOG.tags, 7), len(tokenizer))
    with pytest.raises(ValueError, match="options 0 and 1 have the same tokens"):
        Trie([[1, 2], [1, 2]])
