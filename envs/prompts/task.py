"""The prompts task: prompts out of a file, answered in free text and judged by the run's rewards."""

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..audience import Audience
from ..data.settings import DataConfig
from ..markdown import code
from ..task import Message, Row, Task, TaskError, Text, Words
from .files import fingerprint, read
from .settings import PromptsConfig

_SPLITS = ("train", "test")
_ROLES = ("system", "user", "assistant")


class Prompts(Task):
    """Prompts that are answered in free text; a warm start needs the column of a reference answer."""

    Settings = PromptsConfig
    populations = ("held-out prompts", "all prompts")
    settings: PromptsConfig

    def __init__(self, settings: PromptsConfig, source: DataConfig) -> None:
        super().__init__(settings, source)
        self.form = Text(settings.max_tokens)
        assert settings.path is not None, "the settings ask for it"
        rows = read("task.path", settings.path)
        others = read("task.test_path", settings.test_path) if settings.test_path is not None else None
        self.columns = self._readable(rows, settings.path)
        self.outcomes = () if settings.reference is None else (settings.reference,)
        self._split = self._held_out(rows, others)
        for split in _SPLITS:
            if not self._split[split]:
                raise TaskError(f"task.path={settings.path}: no row is for {split}; {self._remedy()}")

    def load(self, split: str) -> Sequence[Row]:
        return self._split[split]

    def audience(self, at: dt.date | None = None, users: Path | None = None) -> Audience:
        given = self.settings
        if at is not None:
            raise TaskError(f"--at {at}: the rows of task.use=prompts have no date; leave it out")
        if users is None:
            raise TaskError(
                "--users is missing: task.use=prompts answers the rows of a file, such as --users "
                f"prompts.jsonl with the column {given.prompt!r}"
            )
        found = read("--users", users)
        if not found:
            raise TaskError(f"--users={users} holds no row")
        if given.prompt not in found[0]:
            raise TaskError(
                f"--users={users} has no column {given.prompt!r} (task.prompt); it has: {', '.join(found[0])}"
            )
        columns = tuple(name for name in self.columns if name in found[0] and name not in self.outcomes)
        named = given.user or "user"
        prepared = []
        for number, row in enumerate(found, start=1):
            prompt = self._messages(row[given.prompt], f"--users, row {number}")
            about = {"user": str(row.get(named, number)), "unseen": True}
            prepared.append({**{name: row[name] for name in columns}, "prompt": prompt, **about})
        return Audience(
            names=[row["user"] for row in prepared],
            rows=lambda numbers: [prepared[i] for i in numbers],
            columns=(*columns, "user", "unseen"),
        )

    @property
    def fingerprint(self) -> str:
        given = self.settings
        files = [fingerprint(path) for path in (given.path, given.test_path) if path is not None]
        told = given.model_dump(
            mode="json", exclude={"path", "test_path", "max_tokens", "max_train_episodes"}
        )
        return hashlib.sha256(json.dumps([files, told], sort_keys=True).encode()).hexdigest()[:16]

    @property
    def teaches(self) -> bool:
        return self.settings.reference is not None

    def demonstration(self, row: Row, rehearsing: bool, rng: np.random.Generator) -> str:
        if self.settings.reference is None:
            return super().demonstration(row, rehearsing, rng)
        found = row[self.settings.reference]
        return str(found[int(rng.integers(len(found)))]) if isinstance(found, list) else str(found)

    def target(self, row: Row) -> str:
        found = row[self.settings.reference] if self.settings.reference is not None else ""
        return " / ".join(map(str, found)) if isinstance(found, list) else str(found)

    @classmethod
    def words(
        cls, settings: Mapping[str, Any], source: Mapping[str, Any], result: Mapping[str, Any]
    ) -> Words:
        return Words(data=f"Data: {code(Path(settings['path']).name)}.")

    def _readable(self, rows: Sequence[Mapping[str, Any]], path: Path) -> tuple[str, ...]:
        """Columns of the rows besides the prompt; all that the settings name must be there."""
        given = self.settings
        if not rows:
            raise TaskError(f"task.path={path} holds no row")
        names = list(rows[0])
        wanted = {
            "prompt": given.prompt,
            "reference": given.reference,
            "split": given.split,
            "user": given.user,
        }
        named = [(f"task.{setting}", column) for setting, column in wanted.items() if column is not None]
        for setting, column in [*named, *(("task.columns", column) for column in given.columns or ())]:
            if column not in names:
                raise TaskError(f"{setting}={column}: {path} has no such column; it has: {', '.join(names)}")
        left_out = {given.prompt, given.split, given.user, "user", "unseen"}
        chosen = given.columns if given.columns is not None else [n for n in names if n not in left_out]
        kept = [*chosen, *([given.reference] if given.reference is not None else [])]
        return tuple(dict.fromkeys(kept))

    def _held_out(
        self, rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]] | None
    ) -> dict[str, list[dict[str, Any]]]:
        given = self.settings
        found: dict[str, list[dict[str, Any]]] = {split: [] for split in _SPLITS}
        places = [("task.path", row) for row in rows] + [("task.test_path", row) for row in others or ()]
        for number, (setting, row) in enumerate(places, start=1):
            prepared = self._row(
                row, f"{setting}, row {number if setting == 'task.path' else number - len(rows)}"
            )
            if others is not None:
                split = "train" if setting == "task.path" else "test"
            elif given.split is not None:
                split = str(row[given.split])
            else:
                told = prepared["user"] if given.user is not None else json.dumps(prepared["prompt"])
                split = "test" if _position(str(told)) < given.test_share else "train"
            if split in found:
                found[split].append({**prepared, "unseen": split == "test"})
        return found

    def _row(self, row: Mapping[str, Any], place: str) -> dict[str, Any]:
        given = self.settings
        lacking = [name for name in (given.prompt, *self.columns) if name not in row]
        if lacking:
            raise TaskError(f"{place} has no column {lacking[0]!r}; it has: {', '.join(row)}")
        prepared: dict[str, Any] = {"prompt": self._messages(row[given.prompt], place)}
        prepared |= {name: row[name] for name in self.columns}
        if given.user is not None:
            prepared["user"] = str(row[given.user])
        if given.reference is not None and not self._answers(row[given.reference]):
            raise TaskError(
                f"{place}: task.reference={given.reference} must be an answer or a list of answers, not "
                f"{row[given.reference]!r:.100}"
            )
        return prepared

    @staticmethod
    def _answers(found: Any) -> bool:
        texts = found if isinstance(found, list) else [found]
        return bool(texts) and all(isinstance(text, str | int | float) for text in texts)

    def _messages(self, asked: Any, place: str) -> list[Message]:
        given = self.settings
        if _is_text(asked) and asked.strip():
            system = [{"role": "system", "content": given.system}] if given.system else []
            return [*system, {"role": "user", "content": asked}]
        if isinstance(asked, list) and asked and all(map(_is_message, asked)) and asked[-1]["role"] == "user":
            return [{"role": message["role"], "content": message["content"]} for message in asked]
        raise TaskError(
            f"{place}: task.prompt={given.prompt} must be a text, or messages with role "
            f"({', '.join(_ROLES)}) and content of which the user has the last, not {asked!r:.100}"
        )

    def _remedy(self) -> str:
        given = self.settings
        if given.test_path is not None:
            return "one of the two files is empty"
        if given.split is not None:
            return f"the column {given.split} (task.split) must say train or test"
        return f"change task.test_share={given.test_share:g}, or give more rows"


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") in _ROLES and _is_text(message.get("content"))


def _is_text(value: Any) -> bool:
    """Whether a value is a text, and not a block of a file that a bad disk has filled with zeros."""
    return isinstance(value, str) and "\0" not in value


def _position(text: str) -> float:
    """Place of a text between 0 and 1: the same text is always on the same side of a share."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
