"""An import only points down, between floors and between the rooms of ``rl/``, and never in a circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median

import pytest
from places import ROOT

from recrl.envs.task import SHIPPED

FLOORS = {"envs": 1, "rewards": 2, "rl": 3, "launch": 4}
# A room may know those below it, and itself.
ROOMS = {
    "optimizer": 1,
    "sampling": 1,
    "distributed": 1,
    "prefix": 2,
    "goal": 2,
    "reward_model": 4,
    "decoding": 3,
    "policy": 3,
    "rollouts": 3,
    "trainer": 4,
    "evaluation": 4,
    "chat": 4,
    "hybrid": 4,
}
FILES = sorted(path for folder in FLOORS for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> tuple[str, ...]:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


MODULES = {name_of(path): path for path in FILES}


def imported(path: Path, *, everywhere: bool = True) -> set[tuple[str, ...]]:
    """Modules of the package that a module imports.

    Args:
        everywhere: Inside functions too.
    """
    here = list(path.relative_to(ROOT).parent.parts)
    tree, found = ast.parse(path.read_text()), set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if not isinstance(node, ast.ImportFrom):
            continue
        if not node.level:
            assert not (node.module or "").startswith("recrl"), (
                f"{path}: import relatively inside the package"
            )
            continue
        base = here[: len(here) - node.level + 1] + (node.module.split(".") if node.module else [])
        for alias in node.names:
            full = (*base, alias.name)
            if full != ("__version__",):  # of the package itself
                found.add(full if full in MODULES else tuple(base))
    return found


def of_libraries(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    floor, *rest = name_of(path)
    for module in imported(path):
        assert module[0] in FLOORS, f"{path.relative_to(ROOT)} imports {module}, outside of the floors"
        assert FLOORS[module[0]] <= FLOORS[floor], f"{path.relative_to(ROOT)} imports {module}, a floor above"
        if floor == module[0] == "rl" and rest and module[1] != rest[0]:
            assert ROOMS[module[1]] < ROOMS[rest[0]], (
                f"{path.relative_to(ROOT)} imports {module}, a room that is not below"
            )


def test_rooms_are_those_of_the_floor():
    found = {path.stem for path in (ROOT / "rl").iterdir() if path.suffix == ".py"} - {"__init__"}
    found |= {path.parent.name for path in (ROOT / "rl").glob("*/__init__.py")}
    assert found == set(ROOMS)
    assert len(ROOMS) <= 13
    assert max(ROOMS.values()) <= 4


def test_no_import_goes_in_a_circle():
    graph = {name: imported(path, everywhere=False) - {name} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join('.'.join(name) for name in error.args[1])}")


def test_the_optimiser_knows_neither_trl_nor_tasks_nor_rewards():
    for path in (ROOT / "rl" / "optimizer").glob("*.py"):
        assert not of_libraries(path) & {"trl", "transformers", "accelerate", "datasets"}, path
        # Bounds of settings are nothing of an environment; they stand on the lowest floor, for all.
        others = {module for module in imported(path) if module[:2] != ("rl", "optimizer")}
        assert others <= {("envs", "settings")}, path


def test_only_the_trainer_knows_trl():
    for path in FILES:
        # Weights travel between GPUs by TRL's communicator.
        if name_of(path)[:2] != ("rl", "trainer") and name_of(path) != ("rl", "rollouts", "nccl"):
            assert "trl" not in of_libraries(path), path


def test_the_lowest_floor_needs_no_torch():
    for path in (ROOT / "envs").rglob("*.py"):
        assert not of_libraries(path) & {"trl", "transformers", "accelerate"}, path


def test_no_floor_but_the_lowest_asks_which_task_it_is():
    for path in FILES:
        if name_of(path)[0] == "envs":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Compare):
                continue
            compared = [node.left, *node.comparators]
            assert not any("task" in ast.unparse(one) for one in compared) or not any(
                isinstance(one, ast.Constant) and one.value in SHIPPED for one in compared
            ), f"{path}:{node.lineno}: ask the task, not for its name"


def test_files_are_short():
    lines = sorted(len(path.read_text().splitlines()) for path in FILES)
    assert median(lines) < 160
    assert sum(count > 400 for count in lines) <= 2
