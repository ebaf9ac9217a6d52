"""Files of a run that reports are made of; one that is damaged is told of in one line."""

import json
from pathlib import Path
from typing import Any

from ...envs.faults import MendableError


class ReportError(MendableError, ValueError):
    """A file of a run cannot be read; the message names it and the fix."""


def content(path: Path) -> Any:
    """Content of a file that an evaluation wrote.

    Raises:
        ReportError: it is damaged or missing.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        said, fix = " ".join(str(error).split())[:200], f"recrl eval {path.parent} writes it anew"
        raise ReportError(f"{path} cannot be read: {said}; {fix}") from error


def lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a log of steps.

    Raises:
        ReportError: one is damaged, or the file is missing.
    """
    try:
        written = path.read_bytes().splitlines()
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}; restore it from a copy") from error
    found = []
    for number, line in enumerate(written, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise ReportError(f"{path}, line {number}: no JSON object; delete that line")
        found.append(row)
    return found
