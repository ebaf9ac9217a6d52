"""An import only points down: launch -> rl -> rewards -> envs."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {"envs": 1, "rewards": 2, "rl": 3, "launch": 4}
MODULES = sorted(path for folder in FLOORS for path in (ROOT / folder).rglob("*.py"))


def imported_folders(path: Path, besides: str | None = None) -> set[str]:
    """Top folders of the package that a module imports from, ``besides`` one module."""
    here = list(path.relative_to(ROOT).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1]
            target = base + (node.module.split(".") if node.module else [])
            if ".".join(target) == besides:
                continue
            found |= {target[0]} if target else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("recrl"), (
                f"{path}: import relatively inside the package"
            )
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    own = FLOORS[path.relative_to(ROOT).parts[0]]
    for folder in imported_folders(path) & set(FLOORS):
        assert FLOORS[folder] <= own, f"{path.relative_to(ROOT)} imports from {folder}/, a higher floor"
    assert not imported_folders(path) & {"tests", "benchmarks"}


def test_the_optimiser_knows_neither_trl_nor_an_environment():
    for name in ("constraints", "duals", "advantages", "conflict"):
        path = ROOT / "rl" / f"{name}.py"
        modules = {
            (node.module or "").split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and not node.level
        }
        assert not modules & {"trl", "transformers", "accelerate"}
        # Bounds of settings are nothing of an environment; they stand on the lowest floor, for all.
        assert imported_folders(path, besides="envs.settings") <= {"rl"}
