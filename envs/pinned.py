"""Tasks on the catalogue of their data, which a finished run keeps: what its policy writes can still be read
when the data have grown."""

from pathlib import Path
from typing import Any, Self

from .catalog import Catalog
from .data.prepared import Data
from .data.settings import Protocol
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
        (folder / _PROTOCOL).write_text(self.data.protocol.model_dump_json())

    def as_trained(self, folder: Path) -> Self:
        trained = Catalog.load(folder / "catalog.json").tags
        if self.catalog.tags == trained:
            return self
        if (folder / _PROTOCOL).is_file():
            protocol = Protocol.model_validate_json((folder / _PROTOCOL).read_bytes())
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
