"""Words and phrases are found in any script, however their characters are written."""

import pytest

from recrl.envs.words import Phrases, band, sentences, words


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
        ("हिन्दी ไม่ดี كَتَبَ", ["हिन्दी", "ไม่ดี", "كَتَبَ"]),  # vowels are marks
        ("コーヒー・紅茶", [*"コーヒー紅茶"]),
        ("人々 𠮷野家", [*"人々𠮷野家"]),
        ("", []),
        ("?! --", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


def test_nothing_invisible_splits_a_word():
    """All that Unicode 15 ignores by default (DerivedCoreProperties.txt), and controls."""
    ignored = (
        *(0xAD, 0x34F, 0x61C, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), *range(0x200B, 0x2010)),
        *(*range(0x202A, 0x202F), *range(0x2060, 0x2070), 0x3164, *range(0xFE00, 0xFE10), 0xFEFF, 0xFFA0),
        *(*range(0xFFF0, 0xFFF9), *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B)),
        *(*range(0xE0000, 0xE0080), *range(0xE0100, 0xE01F0), 0, 8, 0x1B, 0x7F, 0x9F),
    )
    assert [hex(c) for c in ignored if words(f"Mi{chr(c)}lk") != ["milk"]] == []
    assert [hex(c) for c in ignored if words(f"cafe{chr(c)}\u0301") != ["café"]] == []


@pytest.mark.parametrize("space", [*" \t\n\r\x0b\x0c\x85\xa0\u2003\u2028\u3000"])
def test_white_space_splits_words(space):
    assert words(f"oat{space}milk") == ["oat", "milk"]


def test_ascii_takes_a_short_way_to_the_same_words():
    text = "You'll like 7up's 'new' snack_mix, don't you? rock'n'roll 3.5% a''b 'tis it' x" + "".join(
        map(chr, range(32, 127))
    )
    assert words(text + " é")[:-1] == words(text)


def test_a_point_within_a_number_ends_no_sentence():
    assert sentences("You bought 1.5 l of milk.Try tea. 2.") == ["You bought 1.5 l of milk", "Try tea", " 2"]


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
