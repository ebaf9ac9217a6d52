"""A household whose purchases fall into two groups, in a catalogue of eight tags."""

import datetime as dt
from types import SimpleNamespace

import numpy as np

from recrl.envs.catalog import Catalog
from recrl.envs.data.panel import Panel

CATALOG = Catalog(("milk", "bread", "eggs", "cat food", "dog food", "charcoal", "litter", "jam"))
FOOD, PETS = (0, 1, 2, 7), (3, 4, 6)
ORIGIN = 30

# Breakfast points one way, pets another, charcoal a third.
VECTORS = np.array(
    [[1, 0, 0], [0.9, 0.1, 0], [0.95, 0, 0], [0, 1, 0], [0, 0.9, 0], [0, 0, 1], [0, 0.95, 0], [0.9, 0, 0.1]],
    float,
)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)

# Tag -> weeks in which it was bought; the last ones lie behind the origin.
BOUGHT = {0: range(10, 30, 1), 1: range(10, 30, 2), 3: range(10, 30, 4), 6: (11, 19, 35), 5: (31,)}


def panel() -> Panel:
    entries = sorted((0, week, tag) for tag, weeks in BOUGHT.items() for week in weeks)
    user, week, tag = (np.array(column, np.int32) for column in zip(*entries, strict=True))
    return Panel(("ann",), np.array([False]), len(CATALOG), dt.date(2016, 12, 19), user, week, tag)


DATA = SimpleNamespace(panel=panel(), catalog=CATALOG)


def row(text: str = "milk\nbread\ncat food\nlitter") -> dict:
    counts = {tag: sum(week < ORIGIN for week in weeks) for tag, weeks in BOUGHT.items()}
    history = sorted((tag for tag, count in counts.items() if count), key=lambda tag: -counts[tag])
    return {
        "prompt": [
            {"role": "system", "content": "You tell a shop."},
            {"role": "user", "content": f"<user>\n{text}\n</user>\nName 4 kinds."},
        ],
        "user": 0,
        "origin": ORIGIN,
        "history": history,
        "history_weight": [float(counts[tag]) for tag in history],
        "lookback": [0, 1, 3],
        "target": [0, 3, 7],
        "calendar": "July, summer; ahead: no holiday",
        "unseen": True,
    }
