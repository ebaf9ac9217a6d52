"""Answers under a grammar: always valid, ended by the policy, for any tokenizer."""

import random
import sys

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from recrl.envs.catalog import Catalog
from recrl.envs.task import Lines
from recrl.envs.text import normalise
from recrl.rl import policy
from recrl.rl.decoding.deploy import deploy
from recrl.rl.decoding.generate import generate
from recrl.rl.decoding.grammar import GrammarConstraint, answer_grammar
from recrl.rl.evaluation.settings import EvaluationConfig
from recrl.rl.policy.settings import PolicyConfig, TinyConfig
from recrl.rl.policy.tiny import tiny_model
from recrl.rl.sampling import Sampling

xgrammar = pytest.importorskip("xgrammar", reason="the extra `grammar` is not installed")

# Prefixes of one another, and every character that means something in a grammar.
CATALOG = Catalog(
    [
        "candy",
        "candy bars",
        'say "cheese"',
        "back\\slash \\n",
        "a-b]c^{2} | (d)* ?+ # ::=",
        "café crème",
        "日本 茶",
        "🍫",
        "tab\there",
    ]
)
ONE, MANY = CATALOG.tags, ("something else",)
TOKENS = pytest.mark.parametrize("tags", [ONE, MANY], ids=["one token a tag", "many tokens a tag"])
PROMPTS = [[{"role": "user", "content": text}] for text in ("one", "two, a longer prompt", "three")]
SLOTS = 3
PADDING = 13  # rows of the model's embedding that no token uses


def load(tags):
    model, tokenizer = policy.load(
        PolicyConfig(tiny=TinyConfig(hidden=32, vocabulary=300)),
        options=tags,
        texts=["candy bars, café crème, back\\slash one two three"],
    )
    model.resize_token_embeddings(len(tokenizer) + PADDING)
    return model, tokenizer


def constrained(tokenizer, catalog=CATALOG):
    return GrammarConstraint(tokenizer, Lines(catalog.tags, SLOTS), len(tokenizer) + PADDING)


def token_bytes(tokenizer):
    """What each token adds to an answer; nothing for special tokens."""
    byte = {char: value for value, char in bytes_to_unicode().items()}
    added = tokenizer.added_tokens_decoder
    texts = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return [
        (b"" if added[i].special else text.encode()) if i in added else bytes(byte[char] for char in text)
        for i, text in enumerate(texts)
    ]


def may_become_an_answer(text, lines=SLOTS):
    """Whether more bytes make this an answer, worked out line by line."""
    for tag in CATALOG.tags:
        line = f"{tag}\n".encode()
        if line.startswith(text) and lines:
            return True
        if text.startswith(line) and lines and may_become_an_answer(text[len(line) :], lines - 1):
            return True
    return not text


@TOKENS
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_answers_of_an_untrained_policy_are_valid_and_of_every_length(tags, temperature):
    model, tokenizer = load(tags)
    model.eval()
    constraint = constrained(tokenizer)
    sampling = Sampling(constraint.max_tokens, (tokenizer.eos_token_id,), temperature)
    prompts = tokenizer.apply_chat_template(PROMPTS, add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]
    lengths = set()
    for seed in range(6):
        torch.manual_seed(seed)
        answers = generate(model, prompts, sampling, copies=8, constraint=constraint)
        for tokens, text in zip(
            answers, tokenizer.batch_decode(answers, skip_special_tokens=True), strict=True
        ):
            assert tokens[-1] == tokenizer.eos_token_id
            parsed = CATALOG.parse(text)
            assert parsed.invalid == 0
            assert text == CATALOG.render(parsed.slots)
            lengths.add(len(parsed.slots))
    assert lengths == {1, 2, 3}


@TOKENS
def test_exactly_the_tokens_that_can_still_become_an_answer_are_allowed(tags):
    _, tokenizer = load(tags)
    constraint, spelled = constrained(tokenizer), token_bytes(tokenizer)
    rng = random.Random(0)
    for _ in range(8):
        constraint.begin(1)
        text, last, ended = b"", None, False
        while not ended:
            (row,) = constraint.allowed([0], last)
            expected = torch.zeros(len(tokenizer) + PADDING, dtype=torch.bool)
            for token, more in enumerate(spelled):
                expected[token] = bool(more) and may_become_an_answer(text + more)
            expected[tokenizer.eos_token_id] = text.endswith(b"\n")  # only whole lines have a break
            assert torch.equal(row, expected)
            last = [rng.choice(row.nonzero().flatten().tolist())]
            ended = last[0] == tokenizer.eos_token_id
            text += spelled[last[0]]


def test_the_longest_answer_spelled_byte_by_byte_is_not_cut_short():
    _, tokenizer = load(MANY)
    constraint, spelled = constrained(tokenizer), token_bytes(tokenizer)
    line = max((f"{tag}\n".encode() for tag in CATALOG.tags), key=len)
    tokens = [spelled.index(bytes([byte])) for byte in line * SLOTS] + [tokenizer.eos_token_id]
    constraint.begin(1)
    for last, token in zip([None, *tokens], tokens, strict=False):
        assert constraint.allowed([0], None if last is None else [last])[0, token]
    assert len(tokens) == constraint.max_tokens


@TOKENS
def test_finished_answers_leave_the_others_alone(tags):
    _, tokenizer = load(tags)
    together, alone = constrained(tokenizer), constrained(tokenizer)
    rng = random.Random(1)
    together.begin(5)
    history = {answer: [] for answer in range(5)}
    going, last = list(history), None
    while going:
        rows = together.allowed(going, last)
        for answer, row in zip(going, rows, strict=True):
            alone.begin(1)
            alone_row = alone.allowed([0], None)[0]
            for token in history[answer]:
                alone_row = alone.allowed([0], [token])[0]
            assert torch.equal(row, alone_row)
            history[answer].append(rng.choice(row.nonzero().flatten().tolist()))
        going = [answer for answer in going if history[answer][-1] != tokenizer.eos_token_id]
        last = [history[answer][-1] for answer in going]
    assert len({len(tokens) for tokens in history.values()}) > 1  # some did finish first


@TOKENS
def test_deployed_lists_are_the_same_in_batches_of_any_size(tags):
    model, tokenizer = load(tags)
    lists = [
        deploy(model, tokenizer, PROMPTS, Lines(CATALOG.tags, SLOTS), decoding="grammar", batch_size=size)
        for size in (1, 3)
    ]
    assert lists[0] == lists[1]
    for text in lists[0]:
        parsed = CATALOG.parse(text)
        assert 1 <= len(parsed.slots) <= SLOTS
        assert parsed.invalid == 0


def test_every_character_is_taken_as_it_is():
    points = [*range(0x20, 0x85), *range(0xA1, 0x250), 0x3042, 0xD7FF, 0xE000, 0xFFFD, 0x10000, 0x10FFFF]
    tags = {normalise(tag): tag for tag in (f"<{chr(point)}>" for point in points)}
    bytes_ = xgrammar.TokenizerInfo([bytes([b]) for b in range(256)] + [b"</s>"], stop_token_ids=[256])
    compiled = xgrammar.GrammarCompiler(bytes_).compile_grammar(answer_grammar(Lines((*tags.values(),), 1)))

    def accepts(text):
        matcher = xgrammar.GrammarMatcher(compiled)
        return matcher.accept_string(text) and matcher.accept_token(256)

    for tag in tags.values():
        assert accepts(f"{tag}\n")
    for text in ("", "\n", "<>\n", "<あ>", "<い>\n", "<あ>\n<あ>\n", "<\\U00003042>\n"):
        assert not accepts(text)


def test_a_tokenizer_that_writes_a_space_before_the_first_word():
    """As sentencepiece does: pieces with a marker for spaces, and bytes for what they cannot spell."""
    pieces = ["</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"candysoup", "▁c", "an"]
    backend = Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, [("▁", "c"), ("a", "n")])
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.model.byte_fallback = True
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>")
    catalog = Catalog(["candy", "soup"])
    model = tiny_model(TinyConfig(hidden=32), tokenizer, seed=0).eval()
    constraint = GrammarConstraint(tokenizer, Lines(catalog.tags, SLOTS), len(tokenizer))
    constraint.begin(1)
    first = constraint.allowed([0], None)[0].nonzero().flatten().tolist()
    assert {"▁", "▁c", "c", "s"} == {t for t in tokenizer.convert_ids_to_tokens(first) if t[0] != "<"}
    torch.manual_seed(0)
    sampling = Sampling(constraint.max_tokens, (tokenizer.eos_token_id,))
    answers = generate(model, [tokenizer.encode("soup\n")], sampling, copies=16, constraint=constraint)
    for text in tokenizer.batch_decode(answers, skip_special_tokens=True):
        parsed = catalog.parse(text)
        assert text == catalog.render(parsed.slots)
        assert parsed.slots


def test_what_cannot_be_written_is_refused():
    with pytest.raises(ValueError, match=r"option 'a\\nb' has a line break"):
        answer_grammar(Lines(("soup", "a\nb"), 3))
    with pytest.raises(ValueError, match="0 lines leave no room"):
        answer_grammar(Lines(CATALOG.tags, 0))


def test_without_the_package_it_is_named_before_a_run_starts(monkeypatch):
    _, tokenizer = load(MANY)
    monkeypatch.setitem(sys.modules, "xgrammar", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'recrl\[grammar\]'"):
        EvaluationConfig(decoding="grammar")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'recrl\[grammar\]'"):
        constrained(tokenizer)
    assert EvaluationConfig(decoding="free").decoding == "free"
