"""Replies as values: shapes, caches, ledgers, whoever answers."""

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from recrl.envs.chat.cache import Cache
from recrl.envs.chat.ledger import Ledger
from recrl.envs.chat.models import ChatError, Reply
from recrl.envs.chat.scripted import Scripted


class Verdict(BaseModel, extra="forbid"):
    grade: Literal["good", "bad"]
    reasons: list[str] = []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"grade": "good"}', None),
        ('  {"grade": "bad", "reasons": ["dull"]}\n', None),
        ('```json\n{"grade": "good"}\n```', None),
        ('Sure! {"grade": "good"}', "shape"),
        ('{"grade": "good"} {"grade": "bad"}', "shape"),
        ('{"grade": "good", "grade": "bad"}', "shape"),
        ('{"grade": "best"}', "shape"),
        ('{"grade": "good", "admin": true}', "shape"),
        ('{"grade": "good", "reasons": [NaN]}', "shape"),
        ('{"grade": "good", "reasons": ["\\ud83c"]}', "shape"),
        ("[" * 100_000, "shape"),
        ("null", "shape"),
        ("", "shape"),
    ],
)
def test_an_answer_has_the_shape_that_was_asked_for_or_is_missing(text, reason):
    (reply,) = Scripted([text]).replies(["?"], schema=Verdict)
    assert reply.reason == reason
    assert isinstance(reply.parsed, Verdict) == (reason is None)
    assert (reply.text is None) == (reason is not None)
    assert len(reply.detail) < 600


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=60) | st.dictionaries(st.text(max_size=8), st.text(max_size=8)).map(json.dumps))
def test_no_text_raises(text):
    (reply,) = Scripted([text]).replies(["?"], schema=Verdict)
    assert reply.reason == "shape"


def test_a_greedy_model_is_asked_once_and_a_sampled_one_each_time():
    model = Scripted(lambda messages: messages[-1]["content"].upper())
    replies = model.replies(["tea", "milk", "tea"])
    assert [(reply.text, reply.cached) for reply in replies] == [
        ("TEA", False),
        ("MILK", False),
        ("TEA", True),
    ]
    assert len(model.asked) == 2
    dice = Scripted(["1", "6", "3"])
    dice.greedy = False
    assert [reply.text for reply in dice.replies(["roll"] * 3)] == ["1", "6", "3"]


def test_samples_of_the_same_question_are_kept_apart(tmp_path):
    for script in (["1", "6", "3"], []):
        dice = Scripted(script, cache=Cache(tmp_path))
        dice.greedy = False
        assert [reply.text for reply in dice.replies(["roll"] * 3)] == ["1", "6", "3"]


def test_what_is_known_is_not_asked_and_costs_nothing(tmp_path):
    ledger = Ledger()
    answers = [Reply('{"grade": "good"}', prompt_tokens=5, completion_tokens=4, seconds=2.0)]
    first = Scripted(answers, cache=Cache(tmp_path), ledger=ledger)
    second = Scripted([], cache=Cache(tmp_path), ledger=ledger)
    (told,) = first.replies(["tea?"], schema=Verdict, caller="a")
    (again,) = second.replies(["tea?"], schema=Verdict, caller="b")
    assert again == Reply(**{**vars(told), "cached": True})
    assert again.parsed == Verdict(grade="good")
    assert (ledger["a"].prompt_tokens, ledger["a"].completion_tokens, ledger["a"].seconds) == (5, 4, 2.0)
    assert (ledger["b"].questions, ledger["b"].cached, ledger["b"].prompt_tokens) == (1, 1, 0)
    assert ledger.table().splitlines()[2:] == [
        "| a | 1 | 0 | 0 | 5 | 4 | 2.0 |",
        "| b | 1 | 1 | 0 | 0 | 0 | 0.0 |",
    ]


def test_another_question_schema_or_model_is_another_entry(tmp_path):
    class Other(Scripted):
        @property
        def settings(self):
            return {"backend": "scripted", "model": "other"}

    class Longer(BaseModel):
        grade: str

    def ask(kind, question, schema):
        model = kind(['{"grade": "good"}'], cache=Cache(tmp_path))
        return model.replies([question], schema=schema)[0].cached

    asked = [
        (Scripted, "a", Verdict),
        (Scripted, "b", Verdict),
        (Scripted, "a", Longer),
        (Scripted, "a", None),
    ]
    asked += [(Other, "a", Verdict)]
    assert not any(ask(*one) for one in asked)
    assert all(ask(*one) for one in asked)


def test_what_is_missing_is_asked_again(tmp_path):
    model = Scripted(["no JSON", '{"grade": "good"}'], cache=Cache(tmp_path))
    assert [model.replies(["?"], schema=Verdict)[0].reason for _ in range(2)] == ["shape", None]


def test_one_conversation_is_awaited_and_texts_alone_raise():
    model = Scripted(lambda messages: Reply.missing("refused", "no\n thanks"))
    assert asyncio.run(model.reply("?", caller="x")).reason == "refused"
    assert model.ledger["x"].missing == Counter(refused=1)
    with pytest.raises(ChatError, match=r"^no thanks$"):
        asyncio.run(model.ask("?"))
    with pytest.raises(ChatError, match=r"^no thanks$"):
        model.chat(["?"])


# Cache


def test_a_damaged_entry_is_a_miss(tmp_path):
    cache = Cache(tmp_path)
    key = "ab" * 32
    value = {"text": "x" * 50}
    for damage in (
        lambda whole: whole[:-3],
        lambda whole: whole.replace(b"x", b"y", 1),
        lambda whole: b"",
        lambda whole: b"\xff" * 40,
        lambda whole: b"0" * (2 << 20),
    ):
        cache.put(key, value)
        assert cache.get(key) == value
        path = tmp_path / "ab" / key
        path.write_bytes(damage(path.read_bytes()))
        assert cache.get(key) is None
    # Under another name it is another's answer.
    cache.put(key, value)
    (tmp_path / "ab" / key).rename(tmp_path / "ab" / ("ab" * 31 + "ff"))
    assert cache.get("ab" * 31 + "ff") is None
    (tmp_path / "ab" / key).mkdir()
    assert cache.get(key) is None
    cache.put(key, value)
    assert cache.get(key) is None


def test_the_least_recently_used_make_room(tmp_path):
    cache = Cache(tmp_path, most=3 * 256)
    keys = [f"00{i:062x}" for i in range(5)]
    for time, key in enumerate(keys[:3]):
        cache.put(key, {"text": key})
        os.utime(tmp_path / "00" / key, (time, time))
    assert cache.get(keys[0]) is not None  # which was the oldest
    cache.put(keys[3], {"text": "new"})
    assert [key for key in keys if cache.get(key)] == [keys[0], keys[2], keys[3]]
    assert len(list((tmp_path / "00").iterdir())) == 3


def test_a_cache_that_cannot_be_written_keeps_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        Cache(tmp_path / "file")
    cache = Cache(tmp_path / "file" / "below")
    cache.put("ab" * 32, {"text": "x"})
    assert cache.get("ab" * 32) is None


WRITER = """
import sys
from recrl.envs.chat.cache import Cache
cache, name = Cache(sys.argv[1], most=4 * 256), sys.argv[2]
torn = 0
for i in range(400):
    key = f"00{i % 8:062x}"
    cache.put(key, {"text": key * 20, "by": name})
    found = cache.get(f"00{(i * 5) % 8:062x}")
    torn += found is not None and found["text"] != f"00{(i * 5) % 8:062x}" * 20
print(torn)
"""


def test_two_processes_share_a_folder(tmp_path):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), name], stdout=subprocess.PIPE, text=True
        )
        for name in "ab"
    ]
    assert [(writer.communicate(timeout=60)[0], writer.returncode) for writer in writers] == [("0\n", 0)] * 2
    left = list((tmp_path / "00").iterdir())
    assert len(left) <= 5
    assert not [path for path in left if path.name.startswith(".")]
