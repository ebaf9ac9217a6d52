from recrl.benchmarks.hybrid.scale import Scale, measure


def test_a_small_store_is_measured(tmp_path):
    scale = Scale(20_000, prompts=2, each=50, text=5, hidden=64, layers=1, vocabulary=1000, inner=16)
    found = measure(scale, tmp_path / "store", repeats=1)
    assert found["touched"] == 100
    assert 0 < found["share"] < 1
    assert found["resident megabytes"] < 20
    assert (tmp_path / "store" / "vectors.bin").stat().st_size == 20_000 * 384 * 2
