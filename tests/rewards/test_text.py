"""Words and phrases are found in any script, however their characters are written."""

import pytest

from recrl.rewards.text import Phrases, band, sentences, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Fresh milk, 2% fat!", ["fresh", "milk", "2", "fat"]),
        ("You’ll like O'Brien's", ["you'll", "like", "o'brien's"]),
        ("snake_case", ["snake", "case"]),
        ("ＭＩＬＫ ﬁsh", ["milk", "fish"]),
        ("mi\u200blk \ufeffbr\u00adead", ["milk", "bread"]),
        ("推荐牛奶2盒 ok", ["推", "荐", "牛", "奶", "2", "盒", "ok"]),
        ("Straße", ["strasse"]),
        ("", []),
        ("?! --", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


def test_sentences_end_with_a_stop_or_a_line():
    text = "You bought milk. Try tea!\nNow\n\n好。再见"
    assert sentences(text) == [
        "You bought milk",
        " Try tea",
        "Now",
        "好",
        "再见",
    ]


def test_the_longest_phrase_counts_once_and_only_as_whole_words():
    phrases = Phrases(["cream", "ice cream", "ice cream cones", "牛奶", "--"])

    def found(text):
        return [(m.start, m.end, m.phrase) for m in phrases.find(words(text))]

    assert found("Ice-cream, then cream") == [(0, 2, 1), (3, 4, 0)]
    assert found("ice cream cones") == [(0, 3, 2)]
    assert found("creamy ice") == []
    assert found("买牛奶吧") == [(1, 3, 3)]


@pytest.mark.parametrize(
    ("count", "score"), [(3, 0), (4, 0.5), (5, 0.5), (6, 1), (11, 1), (12, 0.5), (13, 0.5), (14, 0)]
)
def test_the_length_band_of_the_paper(count, score):
    assert band(count, (6, 11), (4, 13)) == score
