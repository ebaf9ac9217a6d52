"""The comparison of texts with and without a guideline: matching and pooling, on made-up texts."""

import numpy as np
import pytest

from recrl.benchmarks.styled.compare import GUIDED, MEASURES, UNGUIDED, _nearest, pooled


class Claims:
    """A task whose texts say of themselves what they claim: one letter a claim, capitals are false."""

    def grounds(self, row, text):
        return [(letter, letter.islower()) for letter in text]


def test_the_matching_text_is_true_first_and_then_nearest_in_claims():
    assert _nearest(Claims(), {}, ["abcd", "a", "ab"], 2) == "ab"
    assert _nearest(Claims(), {}, ["aB", "a", "abcd"], 2) == "a"
    assert _nearest(Claims(), {}, ["aB", "A", "abC"], 3) == "abC"


def test_differences_are_paired_by_row_and_pooled_over_runs():
    rng = np.random.default_rng(0)
    runs = []
    for shift in (0.1, 0.3):
        plain = rng.random(40)
        measured = {GUIDED: dict.fromkeys(MEASURES, plain + shift), UNGUIDED: dict.fromkeys(MEASURES, plain)}
        runs.append((measured, np.repeat(np.arange(20), 2)))
    found = pooled(runs)
    apart = found["differences"][UNGUIDED]["item_diversity"]
    assert apart["mean"] == pytest.approx(0.2)
    assert 0.1 <= apart["low"] <= apart["high"] <= 0.3
    assert found["means"][GUIDED]["claims"]["episodes"] == 80
    assert set(found["differences"]) == {UNGUIDED}
    for measured, _ in runs:
        measured[UNGUIDED]["precision"] = np.full(40, np.nan)
    assert pooled(runs)["differences"][UNGUIDED]["precision"] is None
