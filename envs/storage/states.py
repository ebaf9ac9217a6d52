"""Nested values as files that cannot run code: JSON, and beside it tensors and arrays as safetensors.

These come back as they were, with their types: None, bool, int, float (each bit, NaN and infinities too),
str, bytes; list, tuple, set, frozenset, dict, Counter, OrderedDict and deque of such; numpy arrays and
scalars of anything but objects; torch tensors, on the CPU. Nothing else is written: a pickle could hold the
rest, but would run whatever code somebody put into it.

``write``  a value
``read``   it again
``fault``  why a value cannot be written
"""

import json
import math
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

KEPT = (
    "None, bool, int, float, str, bytes, list, tuple, set, frozenset, dict, Counter, OrderedDict, deque, "
    "numpy arrays and torch tensors"
)
"""Types that survive, for messages."""

# An object of JSON with one key that begins so stands for what JSON does not know.
_MARK = "$"
_DEEPEST = 100
_SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {"tuple": tuple, "set": set, "frozenset": frozenset}
_MAPPINGS: dict[str, Callable[[list[Any]], Any]] = {
    "dict": dict,
    "Counter": lambda pairs: Counter(dict(pairs)),
    "OrderedDict": OrderedDict,
}
_NUMBERS_OF_NUMPY = "biufcSUMm"
_DTYPES_OF_TORCH = (
    *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64", "bool"),
    *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
)


class StateError(ValueError):
    """A value cannot be written, or files do not hold one; the message says which part."""


def write(value: Any, stem: Path) -> None:
    """Write ``stem.json`` and, where there are tensors or arrays, ``stem.safetensors``.

    Raises:
        StateError: something in the value does not survive.
    """
    tensors: dict[str, Any] = {}
    text = _text(value, tensors)
    if tensors:
        from safetensors.torch import save_file

        save_file(_apart(tensors), stem.with_name(f"{stem.name}.safetensors"))
    stem.with_name(f"{stem.name}.json").write_text(text)


def read(stem: Path) -> Any:
    """The value that ``write`` wrote there.

    Raises:
        StateError: the files are missing, or hold something else.
    """
    path, beside = (stem.with_name(f"{stem.name}.{kind}") for kind in ("json", "safetensors"))
    try:
        tensors = {}
        if beside.exists():
            from safetensors.torch import load_file

            # Copies: the file may be gone while they are used.
            tensors = {name: tensor.clone() for name, tensor in load_file(beside).items()}
        return _decode(json.loads(path.read_bytes()), tensors)
    except Exception as error:  # something else may have written the file
        raise StateError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def fault(value: Any) -> str | None:
    """Why a value cannot be written; None if it can."""
    try:
        _text(value, {})
    except StateError as error:
        return str(error)
    return None


def _text(value: Any, tensors: dict[str, Any]) -> str:
    encoded = _encode(value, "", 0, tensors)
    try:
        return json.dumps(encoded, allow_nan=False)
    except ValueError as error:  # an integer of thousands of digits
        raise StateError(str(error)) from error


def _encode(value: Any, where: str, depth: int, tensors: dict[str, Any]) -> Any:
    """A value as JSON.

    Args:
        where: Place of the value in the whole, in Python's words.
        tensors: Tensors that stand beside the JSON; filled here.
    """

    def inner(part: Any, place: str) -> Any:
        return _encode(part, where + place, depth + 1, tensors)

    def pairs(mapping: Any) -> list[Any]:
        return [[inner(k, f" key {k!r:.40}"), inner(v, f"[{k!r:.40}]")] for k, v in mapping.items()]

    kind = type(value)
    if depth > _DEEPEST:
        raise StateError(f"{where[:80]}... is nested more than {_DEEPEST} deep, or holds itself")
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": str(value)}
    if kind is bytes:
        return {"$bytes": value.hex()}
    if kind is list:
        return [inner(part, f"[{i}]") for i, part in enumerate(value)]
    if kind.__name__ in _SEQUENCES and kind is _SEQUENCES[kind.__name__]:
        return {_MARK + kind.__name__: [inner(part, f"[{i}]") for i, part in enumerate(value)]}
    if kind is deque:
        return {"$deque": [[inner(part, f"[{i}]") for i, part in enumerate(value)], value.maxlen]}
    if kind is dict and all(type(key) is str and not key.startswith(_MARK) for key in value):
        return {key: inner(part, f"[{key!r:.40}]") for key, part in value.items()}
    if kind in (dict, Counter, OrderedDict):
        return {_MARK + kind.__name__: pairs(value)}
    if kind is np.ndarray or isinstance(value, np.generic):
        return _encode_array(value, where, tensors)
    torch = sys.modules.get("torch")
    if torch is not None and kind in (torch.Tensor, torch.nn.Parameter):
        return _encode_tensor(value, where, tensors)
    raise StateError(f"{where or 'it'} is a {kind.__qualname__}")


def _encode_array(value: Any, where: str, tensors: dict[str, Any]) -> Any:
    if value.dtype.kind not in _NUMBERS_OF_NUMPY:
        raise StateError(f"{where or 'it'} is a numpy array of dtype {value.dtype}")
    import torch

    name = str(len(tensors))
    tensors[name] = torch.from_numpy(np.frombuffer(value.tobytes(), np.uint8).copy())
    if isinstance(value, np.generic):
        return {"$scalar": [name, value.dtype.str]}
    return {"$array": [name, value.dtype.str, list(value.shape)]}


def _encode_tensor(value: Any, where: str, tensors: dict[str, Any]) -> Any:
    import torch

    dtype = str(value.dtype).removeprefix("torch.")
    if value.layout != torch.strided or value.is_meta or dtype not in _DTYPES_OF_TORCH:
        raise StateError(f"{where or 'it'} is a tensor of dtype {dtype} and layout {value.layout}")
    name = str(len(tensors))
    tensors[name] = value.detach()
    return {"$tensor": name}


def _apart(tensors: dict[str, Any]) -> dict[str, Any]:
    """Tensors on the CPU, each in memory of its own, as safetensors wants them."""
    found, seen = {}, set()
    for name, tensor in tensors.items():
        own = tensor.to("cpu").contiguous()
        storage = own.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != own.numel() * own.element_size():
            own = own.clone()
        seen.add(own.untyped_storage().data_ptr())
        found[name] = own
    return found


def _decode(encoded: Any, tensors: dict[str, Any]) -> Any:
    if isinstance(encoded, list):
        return [_decode(part, tensors) for part in encoded]
    if not isinstance(encoded, dict):
        return encoded
    mark = next(iter(encoded), "")
    if not mark.startswith(_MARK):
        return {key: _decode(part, tensors) for key, part in encoded.items()}
    held, mark = encoded[mark], mark.removeprefix(_MARK)
    if mark in _SEQUENCES:
        return _SEQUENCES[mark](_decode(held, tensors))
    if mark in _MAPPINGS:
        return _MAPPINGS[mark]([tuple(_decode(pair, tensors)) for pair in held])
    if mark == "float":
        return float(held)
    if mark == "bytes":
        return bytes.fromhex(held)
    if mark == "deque":
        return deque(_decode(held[0], tensors), held[1])
    if mark == "tensor":
        return tensors[held]
    if mark in ("array", "scalar"):
        return _decode_array(held, tensors)
    raise ValueError(f"nothing is marked {mark!r}")


def _decode_array(held: list[Any], tensors: dict[str, Any]) -> Any:
    dtype = np.dtype(held[1])
    if dtype.kind not in _NUMBERS_OF_NUMPY:
        raise ValueError(f"dtype {dtype} is not read")
    raw = tensors[held[0]].numpy()
    shape = tuple(held[2]) if len(held) > 2 else ()
    array = (
        np.frombuffer(raw.tobytes(), dtype).reshape(shape).copy()
        if dtype.itemsize
        else np.zeros(shape, dtype)
    )
    return array if len(held) > 2 else array[()]
