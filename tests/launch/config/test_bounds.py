"""Every setting is bounded, and what is outside of its bounds is refused in one line."""

import copy
from typing import Any

import pytest
from bounds import FREE, ODD, Setting, fields, put
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from small_run import TREE

from recrl.envs.settings import Between
from recrl.launch.config import plain_yaml
from recrl.launch.config.reading import dump, load, validate
from recrl.launch.config.schema import ConfigError, RunConfig

FIELDS = list(fields())
WHOLE = {
    **TREE,
    "rewards": [{"name": "recall", "range": [0, 1]}, "novelty", "duplicates"],
    "judge": {"url": "http://127.0.0.1:1/v1", "model": "owl"},
}


def accepted(*chosen: tuple[str, Any]) -> RunConfig | None:
    """The configuration with some settings; None where it is refused, in one line."""
    tree = copy.deepcopy(WHOLE)
    for place, value in chosen:
        put(tree, place, value)
    try:
        config = validate(tree, "test", resolve=False)
    except ConfigError as error:
        check_line(str(error))
        return None
    return config


def check_line(message: str) -> None:
    """One line, of a length that is read, which every terminal can show."""
    assert message.isprintable()
    assert len(message.encode()) < 600, message


def at(config: RunConfig, place: str) -> Any:
    """The value of a setting."""
    node: Any = config
    for part in place.split("."):
        if isinstance(node, dict):
            node = node[part]
        else:
            node = node[int(part)] if part.isdigit() else getattr(node, part)
    return node


def test_every_setting_says_what_it_admits():
    assert [field.place for field in FIELDS if not field.bounded] == []
    # Found through every kind of nesting: sections, lists, mappings, what may be absent.
    places = {field.place for field in FIELDS}
    assert places >= {
        "seed",
        "data.protocol.train_origins.0",
        "optimizer.duals.kp",
        "optimizer.reference.kl",
        "rewards.0.sum.recall",
        "rewards.0.range.1",
        "judge.timeout",
        "rollout.servers.0",
        *FREE,
    }


def test_a_setting_without_bounds_would_be_found():
    class Loose(BaseModel):
        depth: int = 3
        words: tuple[str, ...] = ()
        others: dict[str, float] = Field({})

    assert [field.place for field in fields(Loose) if not field.bounded] == [
        "depth",
        "words.0",
        "others.recall",
    ]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.place)
def test_odd_values_are_taken_as_they_are_or_refused_in_one_line(field: Setting):
    for value in (*ODD, 10**5000, *field.around()):
        config = accepted((field.place, value))
        if config is None:
            continue
        found = at(config, field.place)
        if field.kind in (int, float) and value is not None:
            assert type(value) in (int, float)
            assert type(found) is field.kind
            assert found == value
            bounds = field.numbers
            assert isinstance(bounds, Between)
            assert bounds.low <= found <= bounds.high


# The ends of some ranges need another setting to follow.
_IN_PROCESS: list[tuple[str, Any]] = [("judge.url", None), ("judge.backend", "vllm")]
TOGETHER: dict[str, list[tuple[str, Any]]] = {
    **{f"judge.{name}": _IN_PROCESS for name in ("batch", "context", "kv_cache", "gpu_memory")},
    "policy.tiny.hidden": [("policy.tiny.heads", 1)],
    "policy.tiny.heads": [("policy.tiny.hidden", 4096)],
    "task.cutoffs.0": [("task.slots", 10_000)],
    "train.micro_batches": [("train.prompts_per_step", 100_000)],
    "optimizer.reference.prompts": [("optimizer.reference.answers", 1)],
}
# One end of the interval is the other's bound.
INTERVAL = ("rewards.0.range.0", "rewards.0.range.1")
NUMBERS = [field for field in FIELDS if field.numbers is not None]


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.place)
def test_both_ends_of_a_range_are_admitted_and_nothing_beyond(field: Setting):
    moved = TOGETHER.get(field.place, [])
    below, low, high, above = field.ends
    for value in (low, high) if field.place not in INTERVAL else ():
        config = accepted(*moved, (field.place, value))
        assert config is not None
        assert at(config, field.place) == value
        assert validate(plain_yaml.read(dump(config)), "test", resolve=False) == config
    for value in (below, above):
        assert accepted(*moved, (field.place, value)) is None


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(ODD)
)
KEYS = st.none() | st.integers() | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
)


def random(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None, database=None, derandomize=True)


@random(150)
@given(st.lists(st.tuples(st.sampled_from(FIELDS), VALUES), min_size=1, max_size=3))
def test_any_values_are_taken_or_refused_in_one_line(chosen):
    accepted(*((field.place, value) for field, value in chosen))


@random(50)
@given(
    st.sampled_from(FIELDS),
    st.text(max_size=30) | SCALARS.map(str),
    st.sampled_from(["=", "", ".=", "..x=", ".0="]),
)
def test_any_override_is_taken_or_refused_in_one_line(field, text, between):
    try:
        load("demo", [f"{field.place}{between}{text}"], resolve=False)
    except ConfigError as error:
        check_line(str(error))
