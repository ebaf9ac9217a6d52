"""YAML as a configuration needs it: plain values, each written once, of a size that a person writes.

``read``    text or bytes -> values
``write``   values -> text that ``read`` takes back

Differences from YAML 1.1 as PyYAML reads it, which surprises people or harms: ``1e-4`` is a number, ``010``
is ten, ``1:30`` and ``2026-01-01`` are text; a key stands once in its section; tags (``!!python/object``) are
refused, and so is what nests or repeats itself (through aliases) without measure.
"""

import re
from typing import Any

import yaml

MOST_BYTES = 1_000_000
_MOST_VALUES = 100_000
_DEEPEST = 40
_PREFIX = "tag:yaml.org,2002:"
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_INT = re.compile(r"[-+]?(?:[0-9][0-9_]*|0x[0-9a-fA-F_]+)")


def read(text: str | bytes) -> Any:
    """The values that a text stands for; None for an empty one.

    Raises:
        yaml.YAMLError: the text is no YAML, or holds what the module refuses.
    """
    if len(text) > MOST_BYTES:
        raise yaml.YAMLError(f"more than {MOST_BYTES:,} bytes")
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def write(values: Any) -> str:
    """The text of some values, in their order."""
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False))


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012

    def __init__(self, stream: str | bytes) -> None:
        super().__init__(stream)
        self._depth = 0

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            _measure(node, 0, {})
        return node

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        tag = getattr(event, "tag", None)
        if tag not in (None, "!", f"{_PREFIX}str"):
            raise _fault(f"found the tag {tag!r}, which is not read; leave it out", event)
        if self._depth >= _DEEPEST:
            raise _fault(f"found more than {_DEEPEST} levels, one inside the other", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            written = (key.tag, str(key.value))
            if written in seen:
                raise _fault(f"found {key.value!r} twice in one section; keep one of them", key)
            if isinstance(key, yaml.ScalarNode) and key.tag != f"{_PREFIX}merge":
                seen.add(written)
        return node

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        written = node.value.replace("_", "")
        try:
            if node.tag == f"{_PREFIX}float":
                return float(written.replace(".inf", "inf").replace(".nan", "nan"))
            return int(written, 16 if "x" in written else 10)
        except ValueError:  # more than 4,300 digits
            raise _fault(f"found a number of {len(written):,} digits", node) from None


class _Dumper(yaml.SafeDumper):
    """Quotes texts that either reading would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_CONSTRUCTORS: dict[str | None, Any] = {
    f"{_PREFIX}{kind}": yaml.SafeLoader.yaml_constructors[f"{_PREFIX}{kind}"]
    for kind in ("null", "bool", "str", "seq", "map")
}
_Loader.yaml_constructors = _CONSTRUCTORS | {
    f"{_PREFIX}{kind}": _Loader.construct_number for kind in ("int", "float")
}
for _kind, _pattern, _first in (
    (
        "bool",
        re.compile("yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF"),
        "ynYNtTfFoO",
    ),
    ("null", re.compile("~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("merge", re.compile("<<"), "<"),
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+0123456789."),
):
    _whole = re.compile(rf"(?:{_pattern.pattern})\Z")
    _Loader.add_implicit_resolver(f"{_PREFIX}{_kind}", _whole, list(_first))
    if _kind in ("int", "float"):
        _Dumper.add_implicit_resolver(f"{_PREFIX}{_kind}", _whole, list(_first))


def _measure(node: yaml.Node, depth: int, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Values that a node stands for, and its levels, aliases written out."""
    if id(node) in known:
        found = known[id(node)]
        if found is None:
            raise _fault("found a value that contains itself", node)
    else:
        known[id(node)] = None
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            parts = node.value
        elif isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        if depth > _DEEPEST:
            raise _fault(f"found more than {_DEEPEST} levels, one inside the other", node)
        measured = [_measure(part, depth + 1, known) for part in parts]
        found = 1 + sum(size for size, _ in measured), 1 + max((deep for _, deep in measured), default=0)
        known[id(node)] = found
    if found[0] > _MOST_VALUES or depth + found[1] > _DEEPEST + 1:
        raise _fault(f"found more than {_MOST_VALUES:,} values or {_DEEPEST} levels behind aliases", node)
    return found


def _fault(problem: str, place: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, place.start_mark)
