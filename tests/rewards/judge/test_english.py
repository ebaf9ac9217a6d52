"""What grounded checkers read of English."""

import pytest

from recrl.envs.words import words
from recrl.rewards.judge.english import denies, how_often, stutters


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("you buy milk nearly every single week", ["weekly"]),
        ("most of your shopping trips include it", ["weekly"]),
        ("all weeks", ["weekly"]),
        ("every other week", ["often"]),
        ("every few trips", ["often"]),
        ("every now and then", []),
        ("over and over", ["often"]),
        ("lots of your baskets", ["often"]),
        ("a lot of cheese", []),
        ("in the last few days", ["last week"]),
        ("two days ago", ["last week"]),
        ("lately", ["last week"]),
        ("at last a good cheese", []),
        ("a good week to you", []),
    ],
)
def test_how_often(text, kinds):
    assert how_often(words(text)) == kinds


@pytest.mark.parametrize(
    ("text", "denied"),
    [
        ("You never buy it", True),
        ("you haven't bought it", True),
        ("You avoid it", True),
        ("You never skip it", False),
        ("hardly a month passes without it", False),
        ("more weeks than not", False),
        ("You buy it", False),
    ],
)
def test_two_negations_are_none(text, denied):
    assert denies(words(text)) is denied


def test_words_that_stand_twice_next_to_each_other():
    assert stutters(words("so say hello to tea hello to tea")) == ["hello", "to", "tea"]
    assert stutters(words("day by day by day")) == ["day", "by"]
    assert stutters(words("tea for two and two for tea")) == []
    assert stutters([]) == []
