"""The golden run stays the same, bit for bit, whatever is rebuilt."""

import platform

import golden
import pytest


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the fixtures hold the roundings of x86-64")
@pytest.mark.parametrize("kind", golden.KINDS)
def test_a_run_leaves_what_it_left_before(kind, tmp_path, cache):
    found = golden.written(golden.run(kind, tmp_path, cache))
    for name, content in found.items():
        expected = (golden.FOLDER / kind / name).read_text()
        assert content.splitlines() == expected.splitlines(), f"{kind}/{name} is another"
    assert {path.name for path in (golden.FOLDER / kind).iterdir()} == set(found)
