"""Which two desks should see a ticket: a task of its own, with a reward and a cost to hold down."""

import random
from typing import Annotated

from recrl import reward
from recrl.envs.settings import Between
from recrl.envs.task import Lines, Task, TaskSettings

# Desk -> words of its tickets, and hours that it takes.
DESKS = {
    "billing": (("invoice", "refund", "card"), 1),
    "delivery": (("parcel", "courier", "late"), 2),
    "accounts": (("password", "login", "email"), 1),
    "legal": (("contract", "privacy", "claim"), 8),
}


class Settings(TaskSettings, frozen=True, use_attribute_docstrings=True):
    """Made-up tickets."""

    tickets: Annotated[int, Between(10, 100_000)] = 400
    """Number of tickets; every fifth is held out."""


class Tickets(Task):
    """Tickets name words of two desks; the answer lists two desks, one a line."""

    Settings = Settings
    columns = ("desks",)
    form = Lines(tuple(DESKS), 2)

    def load(self, split):
        draw, rows = random.Random(0), []
        for i in range(self.settings.tickets):
            desks = draw.sample([*DESKS], 2)
            words = " ".join(draw.choice(DESKS[desk][0]) for desk in desks)
            content = f"A ticket says: {words}. Which two desks should see it?"
            if (i % 5 == 0) == (split == "test"):
                rows.append({"prompt": [{"role": "user", "content": content}], "desks": desks})
        return rows

    def parse(self, texts):
        return [[line.strip() for line in text.splitlines()] for text in texts]

    def demonstration(self, row, rehearsing, rng):
        return "".join(f"{desk}\n" for desk in rng.permutation(row["desks"]))


@reward("routed", range=(0, 1))
def routed(answers, desks):
    """Share of the right desks that an answer names."""
    return [len({*found} & {*right}) / 2 for found, right in zip(answers, desks, strict=True)]


@reward("hours", range=(0, 16), direction="lower")
def hours(answers):
    """Hours that the named desks take."""
    return [float(sum(DESKS[desk][1] for desk in {*found} & {*DESKS})) for found in answers]
