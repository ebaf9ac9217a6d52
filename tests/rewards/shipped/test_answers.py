"""Rewards of answers with a known result, by hand."""

import pytest

from recrl.rewards.shipped.answers import number_match, word_count


@pytest.mark.parametrize(
    ("completion", "answer", "score"),
    [
        ("12", 12, 1.0),
        ("5 + 7 = 12", 12, 1.0),
        ("12 or 13", 12, 0.0),
        ("it is 1,200.50.", "1200.5", 1.0),
        ("minus: -3", -3, 1.0),
        ("none", 12, 0.0),
        ("", 12, 0.0),
        ("The answer: 7", "therefore 7", 1.0),
        ("7", "no number", None),
        ([{"role": "assistant", "content": "so 4"}], 4.0, 1.0),
    ],
)
def test_the_last_number_counts(completion, answer, score):
    assert number_match([completion], [answer]) == [score]


def test_words_are_counted_between_blanks():
    assert word_count(["", "one", " two  words\n", [{"role": "assistant", "content": "a b c"}]]) == [
        0,
        1,
        2,
        3,
    ]
