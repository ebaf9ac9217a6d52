"""The tag task without data behind it: a catalogue and rows that a test makes up."""

from recrl.envs.catalog import Catalog
from recrl.envs.tags.task import Tags
from recrl.envs.task import Lines


class Listed(Tags):
    def __init__(self, catalog: Catalog, slots: int) -> None:
        self.settings = self.source = None
        self.catalog, self.slots, self.form = catalog, slots, Lines(catalog.tags, slots)
        self.resources = {"catalog": catalog, "slots": slots}

    def barred(self, row):
        return row.get("barred", ())
