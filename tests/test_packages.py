"""What an installed recrl holds is what is here: pyproject.toml lists folders and files by hand."""

import tomllib
from pathlib import Path

import versions
from places import ROOT

import recrl

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
TOP = ("benchmarks", "configs", "envs", "launch", "rewards", "rl")


def package_of(folder: Path) -> str:
    return ".".join(("recrl", *folder.relative_to(ROOT).parts))


def files(pattern: str) -> list[Path]:
    found = [path for folder in TOP for path in (ROOT / folder).rglob(pattern)]
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def test_packages_are_the_folders_with_python_files():
    assert sorted(SETUPTOOLS["packages"]) == sorted({"recrl", *(package_of(p.parent) for p in files("*.py"))})


def test_every_other_file_is_package_data_and_every_pattern_finds_some():
    found = set()
    for package, patterns in SETUPTOOLS["package-data"].items():
        folder = ROOT.joinpath(*package.split(".")[1:])
        for pattern in patterns:
            matched = {path for path in folder.glob(pattern) if path.is_file()}
            assert matched, f"{package}: {pattern} finds nothing"
            found |= matched
    assert found == {path for path in files("*") if path.suffix not in (".py", ".pyc")}


def test_the_version_is_written_twice_alike():
    assert PROJECT["project"]["version"] == recrl.__version__


def test_every_dependency_has_tests_for_its_versions():
    """Or ``make versions`` says why none are tried; of ``==`` there is nothing to try."""
    ranges = {name for name, pin in versions.pins().items() if not str(pin.specifier).startswith("==")}
    assert ranges == {*versions.CONTRACTS, *versions.UNTRIED}
    for path in {path.partition("::")[0] for paths in versions.CONTRACTS.values() for path in paths}:
        assert (ROOT / "tests" / path).exists(), path
