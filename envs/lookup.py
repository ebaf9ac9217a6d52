"""Objects of users by name: ``package.module:name`` or ``path/to/file.py:name``, or what a package offers.

Rewards and tasks are found alike; each says what it looks for, and how it fails.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from .settings import in_full, nearest

MOST_NAMES = 40
"""Largest number of a module's names that an error lists."""


@dataclass(frozen=True)
class Lookup:
    """A kind of object that users bring.

    Attributes:
        kind: What errors call it, such as ``reward``.
        member: What stands behind the colon, such as ``function``.
        group: Entry-point group through which packages offer such objects.
        error: Exception that names the fault and the fix.
    """

    kind: str
    member: str
    group: str
    error: type[Exception]

    def named(self, use: str) -> Any:
        """The object behind ``module:name`` or ``file.py:name``."""
        module_name, _, attribute = use.rpartition(":")
        module = self.module(module_name)
        if not hasattr(module, attribute):
            found = {name for name, value in vars(module).items() if callable(value)}
            found.update(getattr(module, "__all__", ()))  # a lazy module's are not there yet
            names = {name for name in found if not name.startswith("_")}
            raise self.error(f"{module_name} has no {attribute!r}{nearest(attribute, names, MOST_NAMES)}")
        return getattr(module, attribute)

    def module(self, name: str) -> ModuleType:
        """A module by its dotted name, or by the path of its file."""
        return self._import_file(name) if name.endswith(".py") else self._import_module(name)

    def offered(self) -> list[importlib.metadata.EntryPoint]:
        """Entry points that installed packages offer, in a fixed order."""
        return sorted(importlib.metadata.entry_points(group=self.group), key=where)

    def offer(self, name: str) -> Any | None:
        """Object that a package offers under a name; None where none does."""
        offered = [entry for entry in self.offered() if entry.name == name]
        if len(offered) > 1:
            raise self.error(
                f"{self.kind} {name!r} is offered by {' and by '.join(map(where, offered))}; say which: "
                f"{{name: {name}, use: {offered[0].value!r}}}"
            )
        for entry in offered:
            try:
                return entry.load()
            except Exception as error:
                raise self.error(
                    f"{self.kind} {name!r}: entry point {where(entry)} cannot be loaded, "
                    f"{type(error).__name__}: {error}"
                ) from error
        return None

    def _import_module(self, name: str) -> ModuleType:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            # Only when the named module is absent; an import that fails inside it keeps its own traceback.
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise self.error(
                f"no module {name!r}: install its package, put its folder on PYTHONPATH, or name the file "
                f"('path/to/file.py:{self.member}')"
            ) from error

    def _import_file(self, name: str) -> ModuleType:
        try:
            path = _file(name)
        except ValueError as error:
            raise self.error(f"{self.kind} file {name!r} {error}") from error
        if not path.is_file():
            raise self.error(f"no {self.kind} file {path} (given as {name!r}, read from folder {Path.cwd()})")
        # One module a file: two objects of one file share its state. In sys.modules, so that they pickle.
        module_name = f"recrl_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        if module_name not in sys.modules:
            module_spec = importlib.util.spec_from_file_location(module_name, path)
            assert module_spec is not None
            assert module_spec.loader is not None
            module = sys.modules[module_name] = importlib.util.module_from_spec(module_spec)
            try:
                module_spec.loader.exec_module(module)
            except Exception as error:
                del sys.modules[module_name]
                beside = (
                    isinstance(error, ModuleNotFoundError) and (path.parent / f"{error.name}.py").is_file()
                )
                hint = f"; for a module beside it, set PYTHONPATH={path.parent}" if beside else ""
                raise self.error(
                    f"{self.kind} file {path} cannot be imported, {type(error).__name__}: {error}{hint}"
                ) from error
        return sys.modules[module_name]


def where(entry: importlib.metadata.EntryPoint) -> str:
    """Origin of an entry point, for errors."""
    package = f" of {entry.dist.name} {entry.dist.version}" if entry.dist is not None else ""
    return f"{entry.value}{package}"


def anchored(use: str) -> str:
    """Name of the same object in any working folder: a file stands with its whole path."""
    module, _, attribute = use.rpartition(":")
    return f"{_file(module)}:{attribute}" if module.endswith(".py") else use


def _file(name: str) -> Path:
    return Path(in_full(name)).resolve()
