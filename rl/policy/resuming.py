"""Checkpoint of a supervised training: a sealed folder (:mod:`recrl.envs.storage.sealed`) with one state."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ...envs.storage import sealed, states
from ..distributed.checkpoints import CheckpointError, reading

logger = logging.getLogger(__name__)

RESUME = "go on with --resume auto"
"""How a run goes on."""


class Training(Protocol):
    """What is kept.

    Attributes:
        losses: Loss of each step so far.
    """

    losses: list[float]

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class StoppedTraining(Exception):  # noqa: N818  (no fault)
    """A training was asked to stop, and is saved if it has a checkpoint.

    Attributes:
        step: Last step that was taken.
    """

    def __init__(self, step: int, name: str) -> None:
        super().__init__(f"stopped after step {step} of the {name}")
        self.step = step


class TrainingCheckpoint:
    """The folder that a training is kept in.

    Args:
        folder: Folder of the checkpoint.
        training: What is kept.
        name: Name of the training in words, for messages.
        hint: How to go on where a checkpoint could not be written.
    """

    def __init__(self, folder: Path, training: Training, name: str, hint: str = RESUME) -> None:
        self.folder, self.training, self.name, self.hint = folder, training, name, hint
        self._aside = folder.with_name(f".{folder.name}.writing")
        self._identity: dict[str, Any] = {}

    def load(self, identity: dict[str, Any]) -> None:
        """Go on from the checkpoint that is there.

        Args:
            identity: Identity of the training; another one's checkpoint is not gone on from.
        """
        self._identity = identity
        sealed.finish(self._aside, self.folder)
        if not self.folder.exists():
            return
        why = sealed.fault(self.folder)
        if why is None:
            before = sealed.read(self.folder).get("identity")
            if before != identity:
                other = before if isinstance(before, dict) else {}
                names = [name for name in identity if other.get(name) != identity[name]]
                why = f"its {self.name} had other {', '.join(names) or 'settings'}"
        if why is not None:
            logger.warning("%s is not gone on from, the %s begins anew: %s", self.folder, self.name, why)
            return
        with reading(self.folder, "state"):
            self.training.load_state_dict(states.read(self.folder / "state"))

    def save(self) -> None:
        """Write the state.

        Raises:
            CheckpointError: it could not be written.
        """
        step = len(self.training.losses)
        try:
            sealed.remove(self._aside)
            self._aside.mkdir(parents=True)
            states.write(self.training.state_dict(), self._aside / "state")
            files = sealed.seal(self._aside, sealed.files(self._aside))
            sealed.publish(self._aside, self.folder, {"step": step, "identity": self._identity}, files)
        except Exception as error:
            shutil.rmtree(self._aside, ignore_errors=True)
            free = shutil.disk_usage(self.folder.parent).free / 2**30
            raise CheckpointError(
                f"{self.folder} could not be written after step {step} of the {self.name}: "
                f"{type(error).__name__}: {error}. {free:.2f} GiB are free there; make room; "
                f"{self.hint}"
            ) from error
