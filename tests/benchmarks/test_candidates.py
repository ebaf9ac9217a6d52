"""The comparison of scoring with a context that is read once, small."""

from recrl.benchmarks.speed.candidates import compare


def test_both_ways_are_timed_in_turns_and_agree():
    sizes = {"context": 30, "candidates": 3, "tokens": 4, "contexts": 2}
    found = compare(**sizes, hidden=32, layers=1, rounds=2, seed=0)
    assert found["largest difference"] < 1e-5
    assert found["tokens not read"] == 1 - (30 + 12) / (3 * 34)
    for way in ("scoring", "forward and backward"):
        low, high = found[way]["ratios of rounds"]
        assert 0 < low <= high
        assert found[way]["ratio"] > 0
