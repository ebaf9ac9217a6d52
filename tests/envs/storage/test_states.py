"""A nested value that was written is the same when it is read, and files hold no code."""

import json
import math
import pickle
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from recrl.envs.storage import states
from recrl.envs.storage.states import StateError


def same(one, other):
    """The same types all the way down, and the same bits."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and bits(one) == bits(other)
    if isinstance(one, np.ndarray | np.generic):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, float):
        return one.hex() == other.hex()
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, set | frozenset):
        return one == other and Counter(map(type, one)) == Counter(map(type, other))
    if isinstance(one, deque) and one.maxlen != other.maxlen:
        return False
    if isinstance(one, list | tuple | deque):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def bits(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


VALUES = {
    "none": None,
    "words": ["", "ünï", "\ud800 alone", "\x00\n\u2028", "🛒", "$tensor", '"'],
    "numbers": [0, -1, 2**200, True, False, 0.1, -0.0, 5e-324, 1.7976931348623157e308, 1 / 3],
    "odd floats": [math.nan, math.inf, -math.inf],
    "bytes": [b"", b"\x00\xff"],
    "sequences": [(), (1, (2, [3, ()])), set(), {1, "a", (2, 3)}, frozenset({b"x"})],
    "deques": [deque(), deque([1, (2,)], maxlen=3), deque(maxlen=0)],
    "int keys": {0: "a", -5: {1: 2}},
    "odd keys": {(1, 2): 1, None: 2, 1.5: 3, True: 4, "": 5, b"k": 6, frozenset({1}): 7},
    "keys like marks": {"$tensor": 1, "$": [], "plain": {"$list": {}}},
    "mappings": [Counter("abca"), Counter({"down": -1}), OrderedDict([("b", 1), ("a", 2)]), {}],
    "order": {"z": 1, "a": 2, "m": 3},
    "arrays": [
        np.zeros((0, 3), np.float32),
        np.array(3.5),
        np.arange(6, dtype=">i2").reshape(2, 3)[:, ::-1],
        np.array(["ab", "c"]),
        np.array(["", ""], dtype="U0"),
        np.array([b"x"]),
        np.array([True, False]),
        np.array([1 + 2j, math.nan]),
        np.array(["2024-01-01"], dtype="datetime64[D]"),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    ],
    "scalars": [np.float64(0.1), np.float32(math.nan), np.int8(-3), np.bool_(True), np.str_("a")],
    "tensors": [
        torch.tensor([True, False]),
        torch.randn(3, 4).bfloat16(),
        torch.tensor([], dtype=torch.float16),
        torch.tensor(7),
        torch.zeros(2, 0, 3),
        torch.arange(12).reshape(3, 4).t(),
        torch.tensor([math.nan, -math.inf, -0.0], dtype=torch.float64),
        torch.zeros(3, dtype=torch.float8_e4m3fn),
        torch.tensor([1 + 2j]),
        torch.tensor([2**63 - 1, -5]),
        torch.zeros(2, dtype=torch.uint16),
    ],
    "a generator's state": np.random.default_rng(3).bit_generator.state,
    "torch's state": torch.get_rng_state(),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_come_back_as_they_were(tmp_path, name):
    states.write(VALUES[name], tmp_path / "state")
    assert same(states.read(tmp_path / "state"), VALUES[name])
    assert states.fault(VALUES[name]) is None
    json.loads((tmp_path / "state.json").read_text(), parse_constant=lambda word: pytest.fail(word))


def test_tensors_that_share_memory_come_back_apart(tmp_path):
    whole = torch.arange(10.0)
    value = {"whole": whole, "again": whole, "part": whole[2:5], "weight": torch.nn.Parameter(whole)}
    states.write(value, tmp_path / "state")
    found = states.read(tmp_path / "state")
    assert found["part"].tolist() == [2, 3, 4]
    assert len({part.untyped_storage().data_ptr() for part in found.values()}) == 4
    assert not found["weight"].requires_grad


@dataclass
class Answer:
    slots: tuple


ITSELF = []
ITSELF.append(ITSELF)
DEEP = 1
for _ in range(2000):
    DEEP = [DEEP]


REFUSED = [
    ({"seen": [1, Answer((1,))]}, r"\['seen'\]\[1\] is a Answer"),
    ({"rng": np.random.default_rng(0)}, r"\['rng'\] is a Generator"),
    (defaultdict(list), "it is a defaultdict"),
    ({"f": print}, "builtin_function"),
    (type("Words", (str,), {})("a"), "it is a Words"),
    (np.array([object()]), "dtype object"),
    (np.zeros(2, dtype=[("a", "i4")]), "numpy array of dtype"),
    (torch.eye(2).to_sparse(), "layout torch.sparse_coo"),
    (torch.zeros(2, device="meta"), "is a tensor"),
    ({Answer: 1}, "key .* is a type"),
    (ITSELF, "holds itself"),
    (DEEP, "nested more than 100 deep"),
    ([10**5000], "4300 digits"),
]


@pytest.mark.parametrize(("value", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_would_not_come_back_is_not_written(tmp_path, value, message):
    with pytest.raises(StateError, match=message):
        states.write(value, tmp_path / "state")
    assert not list(tmp_path.iterdir())
    assert states.fault(value)


class Poison:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        '{"$tensor": "9"}',
        '{"$array": ["0", "O", [1]]}',
        '{"$array": ["0", "i4,i4", [1]]}',
        '{"$array": ["0", "<f8", [1000]]}',
        '{"$set": [[]]}',
        '{"$dict": [[{}, 1]]}',
        '{"$os.system": "true"}',
        '{"$deque": 3}',
        '{"$float": "x"}',
        "\xff",
    ],
)
def test_files_that_hold_something_else_are_errors(tmp_path, text):
    states.write([np.arange(2.0)], tmp_path / "state")
    (tmp_path / "state.json").write_text(text, encoding="latin-1")
    with pytest.raises(StateError, match=r"state\.json cannot be read"):
        states.read(tmp_path / "state")


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
def test_code_in_a_file_does_not_run(tmp_path, name):
    states.write([torch.zeros(2)], tmp_path / "state")
    marker = tmp_path / "marker"
    (tmp_path / name).write_bytes(pickle.dumps(Poison(marker)))
    with pytest.raises(StateError):
        states.read(tmp_path / "state")
    assert not marker.exists()
