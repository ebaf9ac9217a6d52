"""Tasks on the catalogue of their data, which a finished run keeps: what its policy writes can still be read
when the data have grown."""

from pathlib import Path
from typing import Any, Self

from .catalog import Catalog
from .data.prepared import Data
from .data.settings import Protocol
from .storage import sealed
from .task import Task, TaskError

# File of the resolved protocol in a run folder.
_PROTOCOL = Path("task", "protocol.json")


class PinnedTask(Task):
    """A task on prepared data.

    Attributes:
        catalog: The tags of the data.
    """

    data: Data
    catalog: Catalog
    settings: Any

    def save(self, folder: Path) -> None:
        """Write the catalogue, and the protocol by which longer data have the same one."""
        self.catalog.save(folder / "catalog.json")
        (folder / "task").mkdir(exist_ok=True)
        sealed.write(folder / _PROTOCOL, self.data.protocol.model_dump_json())

    def as_trained(self, folder: Path) -> Self:
        trained, protocol = _of_run(folder)
        if self.catalog.tags == trained:
            return self
        if protocol is not None:
            pinned = type(self)(self.settings, self.source.model_copy(update={"protocol": protocol}))
            if pinned.catalog.tags == trained:
                return pinned
        gone, new = (
            {*one} - {*other} for one, other in ((trained, self.catalog.tags), (self.catalog.tags, trained))
        )
        raise TaskError(
            f"data.source={self.source.source}: its catalogue is not the one that the policy was trained on "
            f"({len(gone)} tags are gone, {len(new)} are new); give the data of the run, with newer rows "
            "behind them, or train again"
        )


def _of_run(folder: Path) -> tuple[tuple[str, ...], Protocol | None]:
    """Tags and protocol of a run; runs of earlier versions left no protocol."""
    path = folder / "catalog.json"
    try:
        tags = Catalog.load(path).tags
        path = folder / _PROTOCOL
        return tags, Protocol.model_validate_json(path.read_bytes()) if path.is_file() else None
    except Exception as error:  # JSON may hold anything
        said = " ".join(str(error).split())[:200]
        raise TaskError(f"{path} cannot be read: {said}; restore it from a copy, or train again") from error
