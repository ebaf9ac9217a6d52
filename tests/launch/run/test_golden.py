"""The golden run stays the same, bit for bit, whatever is rebuilt.

Where the processor has other square roots, numbers are compared to four digits, and weights by their shapes.
"""

import json
import math
import operator
import platform
import re
from itertools import zip_longest

import golden
import pytest


def difference(expected, found, same):
    """What differs in two objects by their keys."""
    if not isinstance(expected, dict) or not isinstance(found, dict):
        return expected, found
    keys = [*expected, *(key for key in found if key not in expected)]
    pairs = {key: (expected.get(key), found.get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if not same(*pair)}


def parts(name, content):
    """Lines of a text, and of JSON its objects."""
    if name.endswith(".json"):
        return [json.loads(content)]
    return [json.loads(line) if name.endswith(".jsonl") else line for line in content.splitlines()]


def alike(one, other):
    """Whether two values are the same but for rounding."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-5)
    if isinstance(one, str) and isinstance(other, str):
        if HEXADECIMAL.fullmatch(one) and HEXADECIMAL.fullmatch(other):
            return alike(float.fromhex(one), float.fromhex(other))
        return CHECKSUM.sub("", one) == CHECKSUM.sub("", other)
    # Of long files only a checksum is kept.
    return one == other or (type(one) is type(other) is int and min(one, other) > 2**20)


HEXADECIMAL = re.compile(r"-?0x[01]\.[0-9a-f]+p[+-]\d+")
CHECKSUM = re.compile(r"(?<=\]) [0-9a-f]{8}$")


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """Embeddings that other tests kept have the roundings of this processor."""
    return tmp_path_factory.mktemp("golden")


def test_what_is_more_than_rounding_is_a_difference():
    one = {"loss": 6.2568, "lam": "0x1.8p+0", "weight": "float32 [8] 1407ce5f", "steps": [1, 2]}
    assert alike(one, {**one, "loss": 6.256803, "lam": "0x1.80001p+0", "weight": "float32 [8] 06b261b1"})
    others = ({"loss": 6.258}, {"lam": "0x1.9p+0"}, {"weight": "float32 [9] 1407ce5f"}, {"steps": [1, 3]})
    for other in others:
        assert not alike(one, {**one, **other})
        assert difference(one, {**one, **other}, alike).keys() == other.keys()
    assert not alike(one, {"loss": 6.2568})


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the fixtures hold the roundings of x86-64")
@pytest.mark.parametrize("kind", golden.KINDS)
def test_a_run_leaves_what_it_left_before(kind, tmp_path, own_cache):
    same = operator.eq if golden.exact() else alike
    found = golden.written(golden.run(kind, tmp_path, own_cache))
    for name, content in found.items():
        expected = (golden.FOLDER / kind / name).read_text()
        apart = [
            difference(one, other, same)
            for one, other in zip_longest(parts(name, expected), parts(name, content))
            if not same(one, other)
        ]
        assert not apart, f"{kind}/{name}: {apart[:3]}"
    assert {path.name for path in (golden.FOLDER / kind).iterdir()} == set(found)
