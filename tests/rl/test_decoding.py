"""Deployed answers: exactly K distinct tags, the model's own choice among what is left."""

import pytest
import torch

from recrl.envs.catalog import Catalog
from recrl.rl import policy
from recrl.rl.decoding import CatalogDecoder, TagTrie, deploy, line_tokens
from recrl.rl.policy import PolicyConfig, TinyConfig

# Tags that are prefixes of one another, which a careless decoder cannot tell apart.
CATALOG = Catalog(["candy", "candy bars", "candy bars - mini", "can", "soup", "soup bowls"])
PROMPTS = [[{"role": "user", "content": text}] for text in ("one", "two, a longer prompt", "three")]


def load(tags):
    """``tags`` empty: every tag is spelled in several byte-level pieces."""
    return policy.load(
        PolicyConfig(tiny=TinyConfig(hidden=32, vocabulary=270)),
        tags=tags,
        texts=["candy soup one two three"],
    )


@pytest.mark.parametrize(
    "tags", [CATALOG.tags, ("something else",)], ids=["one token a tag", "many tokens a tag"]
)
@pytest.mark.parametrize("slots", [1, 4, 6])
def test_lists_are_complete_distinct_and_valid(tags, slots):
    model, tokenizer = load(tags)
    answers = [
        CATALOG.parse(text) for text in deploy(model, tokenizer, PROMPTS, CATALOG, slots, batch_size=2)
    ]
    for answer in answers:
        assert len(answer.slots) == slots
        assert len(answer.valid) == slots
        assert answer.invalid == answer.duplicates == 0


def test_each_choice_is_the_likeliest_tag_that_is_left():
    model, tokenizer = load(CATALOG.tags)
    tokens = [ids[0] for ids in line_tokens(tokenizer, CATALOG)]
    (listed,) = deploy(model, tokenizer, PROMPTS[:1], CATALOG, 4)
    ids = tokenizer.apply_chat_template(PROMPTS[0], add_generation_prompt=True, return_dict=True)["input_ids"]
    left = list(range(len(CATALOG)))
    for chosen in CATALOG.parse(listed).slots:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        assert chosen == max(left, key=lambda tag: logits[tokens[tag]].item())
        left.remove(chosen)
        ids = [*ids, tokens[chosen]]


def test_more_slots_than_tags_and_tags_with_equal_tokens_are_refused():
    _, tokenizer = load(CATALOG.tags)
    with pytest.raises(ValueError, match="slots=7 is more than the catalogue's 6 tags"):
        CatalogDecoder(tokenizer, CATALOG, 7)
    with pytest.raises(ValueError, match="tags 0 and 1 have the same tokens"):
        TagTrie([[1, 2], [1, 2]])
