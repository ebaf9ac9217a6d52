"""Text of others in a question stays data."""

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from injections import CONTROL, INJECTIONS

from recrl.envs.chat.untrusted import any_of, plain, quoted, without


def test_two_hundred_texts_leave_no_quotation_and_hold_no_control_token():
    assert len(set(INJECTIONS)) == 200
    for text in INJECTIONS:
        found = quoted(text, "episode")
        assert re.fullmatch(r"<episode>\n[^<]*\n</episode>", found), found
        folded = unicodedata.normalize("NFKC", found[len("<episode>") : -len("</episode>")])
        assert [token for token in CONTROL if token in folded] == []
    # Not so without: most carry something.
    assert sum("<" in unicodedata.normalize("NFKC", text) for text in INJECTIONS) >= 80


def test_what_is_no_control_token_stays():
    text = "[Organic] milk, 2 < 3, 7-up [A] [500 g]\nDairy > Milk & eggs"
    assert plain(text) == text.replace("<", "&lt;")
    assert plain("") == ""


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from([*CONTROL, "[", "]", "<", "\u200b", "INST", "/", "［", "】", "\n", "x"])))
def test_no_pieces_make_a_token(pieces):
    folded = unicodedata.normalize("NFKC", plain("".join(pieces)))
    assert [token for token in CONTROL if token in folded] == []


@pytest.mark.parametrize(
    ("tokens", "text", "left"),
    [
        (["<|a|>"], "x<|a|>y", "x y"),
        (["<|a|>"], "<|<|a|>a|>", "<| a|>"),
        (["a b"], "aa bb", " "),
        (["ab", "abc"], "abcd", " d"),
        ([], "<|a|>", "<|a|>"),
        (["", " "], "a b", "a b"),
    ],
)
def test_tokens_of_a_tokenizer_are_taken_out_until_none_is_left(tokens, text, left):
    found = without(text, any_of(tokens))
    assert found == left
    assert not any(token in found for token in tokens if token.strip())
