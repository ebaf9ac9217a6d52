"""Lists inside vLLM, by its own messages about a batch whose requests come, go and change places."""

import random
from types import SimpleNamespace

import pytest
import torch

from recrl.envs.task import Lines
from recrl.rl import policy
from recrl.rl.decoding.candidates import Candidates
from recrl.rl.decoding.known import KNOWN, LISTED, note
from recrl.rl.decoding.lists import DistinctLines, line_tokens
from recrl.rl.policy.settings import PolicyConfig, TinyConfig

pytest.importorskip("vllm", reason="rollouts on vLLM are optional; `make test` installs it")
from vllm import SamplingParams
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

from recrl.rl.decoding.processors import NUMBER, Held, Limit, ServedLists

OPTIONS = ("candy", "candy bars", "can", "soup", "soup bowls", "bread", "tea")
FORM = Lines(OPTIONS, 3)
PLACES = 3


@pytest.fixture(scope="module")
def tokenizer():
    tiny = PolicyConfig(tiny=TinyConfig(hidden=32, vocabulary=280))
    return policy.load(tiny, options=OPTIONS, texts=["candy soup"])[1]


def scores(prompt, tokens, vocabulary):
    """Logits of a made-up model."""
    seed = hash((tuple(prompt), tuple(tokens))) % 2**31
    return torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed))


class Request:
    def __init__(self, prompt, extra):
        self.prompt, self.tokens = prompt, []
        self.params = SamplingParams(temperature=0, extra_args=extra)


def run(processor, requests, vocabulary, end, limit=20):
    """Answer requests in a batch of few places; some are taken out midway, some change places."""
    waiting, batch, chance = list(requests), [], random.Random(0)
    while waiting or batch:
        ended = [i for i, one in enumerate(batch) if one.tokens[-1] == end or len(one.tokens) == limit]
        removed = list(ended)
        if batch and not ended and chance.random() < 0.3:  # as if memory were short
            removed = [chance.randrange(len(batch))]
            waiting.append(batch[removed[0]])
        added, moved = [], []
        free = sorted(removed)
        places: list = [None if i in removed else one for i, one in enumerate(batch)]
        while waiting and (free or len(places) < PLACES):
            place, one = (free.pop(0) if free else len(places)), waiting.pop(0)
            places[place : place + 1] = [one]
            added.append((place, one.params, one.prompt, one.tokens))
        while None in places:  # the last one fills the gap
            gap, last = places.index(None), len(places) - 1
            if places[last] is not None:
                moved.append((last, gap, MoveDirectionality.UNIDIRECTIONAL))
                places[gap] = places[last]
            places.pop()
        if len(places) > 1 and chance.random() < 0.3:
            places[0], places[1] = places[1], places[0]
            moved.append((0, 1, MoveDirectionality.SWAP))
        changed = removed or added or moved
        processor.update_state(
            BatchUpdate(len(places), sorted(free, reverse=True), added, moved) if changed else None
        )
        batch = places
        if not batch:
            continue
        logits = torch.stack([scores(one.prompt, one.tokens, vocabulary) for one in batch])
        for one, row in zip(batch, processor.apply(logits), strict=True):
            one.tokens.append(int(row.argmax()))
    return [one.tokens for one in requests]


def expected(prompt, tokens_of, end, nats, barred, vocabulary):
    """The best option that is left, each time; an option is one token here."""
    left = [option for option in range(len(OPTIONS)) if option not in barred]
    found = []
    for _ in range(min(FORM.count, len(left))):
        logits = scores(prompt, found, vocabulary)
        best = max(left, key=lambda option: float(logits[tokens_of[option]]) + float(nats[option]))
        left.remove(best)
        found.append(tokens_of[best])
    return [*found, end]


def test_known_unknown_and_free_requests_in_one_batch(tokenizer, tmp_path, monkeypatch):
    vocabulary, end = len(tokenizer), tokenizer.eos_token_id
    (tmp_path / "model").mkdir()
    (tmp_path / "known").mkdir()
    tokenizer.save_pretrained(tmp_path / "model")
    known = [[n, n + 1] for n in range(12)]
    nats = 2 * torch.randn(len(known), len(OPTIONS), generator=torch.Generator().manual_seed(0))
    barred = [{n % 7, 3} if n % 3 else range(5) for n in range(len(known))]
    note(tmp_path / "known", FORM, len(known), [(known, nats, barred)])
    monkeypatch.setenv(KNOWN, str(tmp_path / "known"))
    model = SimpleNamespace(tokenizer=str(tmp_path / "model"), get_vocab_size=lambda: vocabulary)
    processor = ServedLists(SimpleNamespace(model_config=model), torch.device("cpu"), False)
    assert not processor.is_argmax_invariant()
    unknown, free = [[100 + n] for n in range(6)], [[200 + n] for n in range(4)]
    requests = [Request(prompt, {LISTED: 1}) for prompt in (*known, *unknown)]
    requests += [
        Request(prompt, extra) for prompt, extra in zip(free, [None, {}, {LISTED: 0}, None], strict=True)
    ]
    random.Random(1).shuffle(requests)
    answers = dict(
        zip([tuple(one.prompt) for one in requests], run(processor, requests, vocabulary, end), strict=True)
    )
    lines = [tokens[0] for tokens in line_tokens(tokenizer, FORM)]
    for number, prompt in enumerate(known):
        own = expected(prompt, lines, end, nats[number], barred[number], vocabulary)
        assert answers[tuple(prompt)] == own
    assert {len(answers[tuple(prompt)]) for prompt in known} == {3, 4}
    for prompt in unknown:
        assert answers[tuple(prompt)] == expected(prompt, lines, end, [0.0] * 7, (), vocabulary)
    for prompt in free:
        tokens: list[int] = []
        while len(tokens) < 20 and end not in tokens:
            tokens.append(int(scores(prompt, tokens, vocabulary).argmax()))
        assert answers[tuple(prompt)] == tokens


def test_candidates_are_those_that_are_drawn_step_by_step_together(tokenizer):
    vocabulary, end, copies = len(tokenizer), tokenizer.eos_token_id, 4
    prompts = [[n, n] for n in range(5)]

    def limited(draw):
        lists = DistinctLines(tokenizer, FORM, vocabulary)
        lists.begin(len(prompts) * copies)
        draw.begin(0, len(prompts))
        return lists

    together = Candidates(copies, seed=3)
    lists = limited(together)
    own: list[list[int]] = [[] for _ in range(len(prompts) * copies)]
    open_, last = list(range(len(own))), None
    while open_:
        allowed = lists.allowed(open_, last)
        logits = torch.stack([scores(prompts[i // copies], own[i], vocabulary) for i in open_])
        drawn = together(open_, logits.masked_fill(~allowed, -torch.inf)).tolist()
        for i, token in zip(open_, drawn, strict=True):
            own[i].append(token)
        open_ = [i for i in open_ if own[i][-1] != end]
        last = [own[i][-1] for i in open_]

    class Mine(Held):
        pass

    apart = Candidates(copies, seed=3)
    Mine.now = Limit(limited(apart), apart, (end,))
    processor = Mine(None, torch.device("cpu"), False)
    requests = [Request(prompts[i // copies], {NUMBER: i}) for i in range(len(own))]
    assert run(processor, requests, vocabulary, end) == own
    assert len({tuple(tokens) for tokens in own}) > 10
    torch.testing.assert_close(torch.tensor(apart.logprobs), torch.tensor(together.logprobs))


@pytest.mark.parametrize(
    "asked",
    [
        {"ignore_eos": True},
        {"min_tokens": 2},
        {"allowed_token_ids": [1]},
        {"bad_words": ["tea"]},
        {"structured_outputs": StructuredOutputsParams(grammar="root ::= 'a'")},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_a_list_that_asks_for_other_tokens_is_refused_at_admission(asked):
    (name,) = asked
    ServedLists.validate_params(SamplingParams(**asked))
    ServedLists.validate_params(SamplingParams(extra_args={LISTED: 1}))
    with pytest.raises(ValueError, match=f"{name}=.* leave {name} out"):
        ServedLists.validate_params(SamplingParams(**asked, extra_args={LISTED: 1}))


def test_an_answer_that_goes_on_behind_its_end_stays_ended(tokenizer):
    lists = DistinctLines(tokenizer, Lines(OPTIONS, 1), 280)
    lists.begin(1)
    last = None
    for token in [*line_tokens(tokenizer, Lines(OPTIONS, 1))[6], *[tokenizer.eos_token_id] * 2]:
        assert lists.allowed([0], last)[0, token]
        last = [token]
    assert lists.allowed([0], last)[0].nonzero().flatten().tolist() == [tokenizer.eos_token_id]
