"""The golden run stays the same, bit for bit, whatever is rebuilt."""

import json
import platform
from itertools import zip_longest

import golden
import pytest


def difference(expected, found):
    """What differs in two lines, in two objects by their keys."""
    try:
        one, other = json.loads(expected), json.loads(found)
        keys = [*one, *(key for key in other if key not in one)]
        return {key: (one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)}
    except (TypeError, ValueError):
        return expected, found


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """Embeddings that other tests kept have the roundings of this processor."""
    return tmp_path_factory.mktemp("golden")


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the fixtures hold the roundings of x86-64")
@pytest.mark.parametrize("kind", golden.KINDS)
def test_a_run_leaves_what_it_left_before(kind, tmp_path, own_cache):
    found = golden.written(golden.run(kind, tmp_path, own_cache))
    for name, content in found.items():
        expected = (golden.FOLDER / kind / name).read_text()
        apart = [
            difference(one, other)
            for one, other in zip_longest(expected.splitlines(), content.splitlines())
            if one != other
        ]
        assert not apart, f"{kind}/{name}: {apart[:3]}"
    assert {path.name for path in (golden.FOLDER / kind).iterdir()} == set(found)
