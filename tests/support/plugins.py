"""Example packages, installed as a user installs them."""

import os
import subprocess
import sys
from pathlib import Path


def installed(package: Path, folder: Path) -> dict[str, str]:
    """Variable of an environment in which an example package is installed, beside those of the tests.

    Args:
        package: Folder of its ``pyproject.toml``.
        folder: Empty folder that takes what is installed.
    """
    site, source = folder / "site", folder / "source"
    # A build writes beside the sources.
    for path in (package, *(path.parent for path in package.glob("*/__init__.py"))):
        (source / path.relative_to(package)).mkdir(parents=True, exist_ok=True)
        for file in path.glob("*.*"):
            if file.is_file():
                (source / file.relative_to(package)).write_bytes(file.read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--no-index", "--target", str(site), str(source)], check=True)
    assert all((site / path.parent.name).is_dir() for path in package.glob("*/__init__.py"))
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path}
