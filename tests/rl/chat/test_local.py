"""A transformers model of this process: batches, schemas, stops, deadlines, and texts of others."""

import ast
import asyncio
import pickle
import re

import pytest
import torch
from injections import BENIGN, INJECTIONS
from pydantic import BaseModel
from transformers import AutoTokenizer

from recrl.envs.agents.style import Guideline
from recrl.envs.chat.endpoint import Endpoint
from recrl.envs.chat.models import Question, quoted
from recrl.envs.chat.settings import ChatConfig
from recrl.rl.chat.local import special_tokens
from recrl.rl.chat.make import ModelError, make_chat
from recrl.rl.policy.loading import load, save_policy
from recrl.rl.policy.settings import PolicyConfig

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What next?"}]
QUESTIONS = ["What next?", "Say yes.", "a" * 40, CHAT]


class Verdict(BaseModel, extra="forbid"):
    good: bool


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An untrained policy: it copies more than it says."""
    tiny = {"hidden": 64, "vocabulary": 400}
    found = tmp_path_factory.mktemp("tiny") / "policy"
    config = PolicyConfig(model="tiny", tiny=tiny)
    save_policy(*load(config, options=("milk", "tea"), texts=QUESTIONS[:2]), found)
    return found


@pytest.fixture(scope="module")
def local(folder):
    """Makes models by their settings; each once."""
    made = {}

    def make(**settings):
        key = repr(settings)
        if key not in made:
            given = {"backend": "transformers", "model": str(folder), "max_tokens": 100, "batch": 16}
            made[key] = make_chat(ChatConfig(**{**given, **settings}))
        return made[key]

    yield make
    for model in made.values():
        model.close()


def test_a_batch_is_answered_as_its_questions_alone(local):
    replies = local().replies(QUESTIONS, schema=Guideline)
    assert all(isinstance(reply.parsed, Guideline) for reply in replies)
    assert [local().replies([question], schema=Guideline)[0].text for question in QUESTIONS] == [
        reply.text for reply in replies
    ]
    assert re.fullmatch(r'\{"tone":"\w+","audience":"\w+",.*\}', replies[0].text)
    assert all(reply.prompt_tokens > 5 < reply.completion_tokens for reply in replies)


def test_schemas_and_free_text_share_a_batch(local):
    model = local()

    async def both():
        return await asyncio.gather(model.reply("Say yes.", schema=Guideline), model.reply("Say yes."))

    shaped, free = asyncio.run(both())
    assert isinstance(shaped.parsed, Guideline)
    assert free.reason == "cut off"
    assert "cut off at max_tokens=100" in free.detail


def test_a_stop_ends_an_answer_and_is_no_part_of_it(local):
    (whole,) = local(temperature=1.0).replies(["Say yes."])
    said = ast.literal_eval(re.search(r"\((.*)\)$", whole.detail)[1])
    stop = next(said[i : i + 2] for i in range(4, 40) if said.index(said[i : i + 2]) == i)
    (reply,) = local(temperature=1.0, stop=(stop, "never")).replies(["Say yes."])
    assert reply.text == said[: said.index(stop)]
    assert reply.completion_tokens < whole.completion_tokens


def test_what_cannot_be_asked_or_comes_late_is_missing_and_the_rest_comes(local):
    long, picture = "tea " * 100_000, [{"role": "user", "content": [{"type": "image"}]}]
    replies = local(context=300).replies(["Say yes.", long, picture], schema=Guideline)
    assert [reply.reason for reply in replies] == [None, "unfit", "unfit"]
    assert "do not fit its window of 300" in replies[1].detail
    (reply,) = local(deadline=0.001).replies(["Say yes."])
    assert reply.reason == "late"


def test_samples_depend_on_seed_and_question_alone_and_leave_the_trainers_numbers(local):
    model = local(temperature=1.0)
    before = torch.get_rng_state()
    first = model.replies(["Say yes."] * 3, schema=Guideline)
    assert len({reply.text for reply in first}) > 1
    again = model.replies(["What next?", "Say yes.", "Say yes.", "Say yes."], schema=Guideline)[1:]
    assert [reply.text for reply in again] == [reply.text for reply in first]
    other = local(temperature=1.0, seed=1).replies(["Say yes."] * 3, schema=Guideline)
    assert [reply.text for reply in other] != [reply.text for reply in first]
    assert torch.equal(torch.get_rng_state(), before)


def test_other_weights_are_another_model_to_the_cache(local, folder, tmp_path):
    model = local(cache=str(tmp_path))
    assert [model.replies(["Say yes."], schema=Guideline)[0].cached for _ in range(2)] == [False, True]
    before = model.settings
    (folder / "generation_config.json").touch()
    assert make_chat(model.config).settings != before


def test_two_hundred_injections_hold_no_special_token_and_change_no_shape(local, folder):
    model = local()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    special = {tokenizer.convert_tokens_to_ids(token) for token in special_tokens(tokenizer)}

    def controls(conversation):
        ids = model.prompt(Question(({"role": "user", "content": conversation},)))
        return [token for token in ids if token in special]

    # Quoted or not: what the tokenizer reads as control tokens is taken out of every message.
    for text in INJECTIONS:
        assert controls(text) == controls(BENIGN)
        assert controls(quoted(text, "episode")) == controls(BENIGN)
    raw = tokenizer.apply_chat_template([{"role": "user", "content": INJECTIONS[12 * 8]}], return_dict=True)
    plain = tokenizer.apply_chat_template([{"role": "user", "content": BENIGN}], return_dict=True)
    assert sum(t in special for t in raw["input_ids"]) > sum(t in special for t in plain["input_ids"])
    replies = model.replies([quoted(text, "title") for text in INJECTIONS], schema=Verdict)
    assert [reply for reply in replies if not isinstance(reply.parsed, Verdict)] == []


def test_a_model_of_this_process_does_not_travel(local):
    with pytest.raises(TypeError, match="cannot travel to another process: serve it"):
        pickle.dumps(local())


def test_a_fault_of_the_asker_is_raised_where_it_was_asked_and_nothing_hangs(local):
    broken, whole = local().start([Question((None,)), Question(({"role": "user", "content": "x"},), Verdict)])
    with pytest.raises(AttributeError):
        broken.result(timeout=60)
    assert whole.result(timeout=60).text in ('{"good":true}', '{"good":false}')
    assert local().replies(["Say yes."], schema=Guideline)[0].reason is None


def test_a_closed_model_is_not_asked(folder):
    model = make_chat(ChatConfig(backend="transformers", model=str(folder), max_tokens=4))
    model.close()
    with pytest.raises(RuntimeError, match="closed"):
        model.replies(["?"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"backend": "transformers", "model": "no/such/place"}, "judge: model=no/such/place: no such folder"),
        ({"backend": "transformers", "model": "tiny"}, "judge: model=tiny has random weights"),
        ({"backend": "vllm", "model": "smollm2"}, "judge: model=smollm2 is no folder that vLLM reads"),
        ({"url": "http://127.0.0.1:1/v1", "model": "x", "token_env": "NO_KEY"}, "judge: token_env='NO_KEY'"),
    ],
)
def test_a_model_that_cannot_be_had_is_named_by_its_section(settings, said):
    with pytest.raises(ModelError, match=re.escape(said)):
        make_chat(ChatConfig(**settings))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "x"}, "url is missing"),
        ({"model": "x", "backend": "vllm", "url": "http://x/v1"}, "url has no meaning with backend=vllm"),
        ({"model": "x", "backend": "transformers", "kv_cache": 2}, "kv_cache has no meaning"),
        ({"model": "x", "url": "http://x/v1", "batch": 3}, "batch has no meaning with backend=endpoint"),
    ],
)
def test_settings_of_other_backends_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        ChatConfig(**settings)


def test_a_server_needs_no_torch_and_is_made_by_the_same_function():
    assert isinstance(make_chat(ChatConfig(url="http://127.0.0.1:1/v1", model="x")), Endpoint)
