"""Prompts that begin alike: answers are those to every prompt by itself, and the beginning is read once."""

import pytest

from recrl.envs.task import Lines
from recrl.rl.decoding.deploy import deploy
from recrl.rl.decoding.together import answer_together
from recrl.rl.policy.loading import load
from recrl.rl.policy.settings import PolicyConfig

GOODS = Lines(("milk", "tea", "bread", "cheese", "soap", "apples"), 3)
CONTEXT = "<user>\n" + "milk\ntea\nbread\n" * 8 + "</user>"


def asked(persona):
    return [
        {"role": "system", "content": "Name goods."},
        {"role": "user", "content": f"{CONTEXT}\n{persona}"},
    ]


@pytest.fixture(scope="module")
def policy():
    config = PolicyConfig(model="tiny", tiny={"hidden": 32, "layers": 2, "vocabulary": 300})
    return load(config, options=GOODS.options, texts=[CONTEXT])


def test_answers_are_those_to_each_prompt_by_itself(policy):
    model, tokenizer = policy
    groups = [
        [asked("soap, weekly"), asked("tea"), asked("cheese and apples, now and then")],
        [asked("milk")],
    ]
    flat = [prompt for group in groups for prompt in group]
    barred = [(0, 1), (), (5,), (2, 3)]
    for bars in (None, barred):
        together = answer_together(model, tokenizer, groups, GOODS, bars)
        assert [len(texts) for texts in together] == [3, 1]
        alone = deploy(model, tokenizer, flat, GOODS, barred=bars)
        assert [text for texts in together for text in texts] == alone
        assert all(len(set(text.splitlines())) == 3 for text in alone)


def test_the_shared_beginning_is_read_once(policy):
    model, tokenizer = policy
    read = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda _, given, out: read.append(given[0].shape)
    )
    try:
        answer_together(model, tokenizer, [[asked("tea"), asked("milk"), asked("soap")]], GOODS)
    finally:
        hook.remove()
    whole = len(
        tokenizer.apply_chat_template(asked("tea"), add_generation_prompt=True, return_dict=True)["input_ids"]
    )
    rows, width = read[0]
    assert rows == 1
    assert whole / 2 < width < whole
    assert {tuple(shape) for shape in read[1:]} <= {(count, 1) for count in (1, 2, 3)}
