"""Rows of the explanations task that no data are needed for: households, what they buy, and an item."""

import numpy as np

from recrl.envs.catalog import Catalog
from recrl.envs.explanations.prompts import messages
from recrl.envs.explanations.settings import PromptConfig

CATALOG = Catalog(
    (
        *(
            "milk",
            "bread",
            "cheese",
            "soft drinks",
            "candy",
            "beer",
            "eggs",
            "apples",
            "pasta",
            "rice",
            "tea",
        ),
        *("coffee", "juice", "yogurt", "butter", "soup", "cereal", "bacon", "carrots", "onions", "potatoes"),
        *("cookies", "chicken", "salad", "olives", "honey", "flour", "sugar", "tuna", "ham"),
    )
)


def rows(first: int, households: int, seed: int = 0) -> list[dict]:
    """One row of each household; numbers of households begin with ``first``."""
    rng = np.random.default_rng([seed, first])
    return [_row(first + i, rng) for i in range(households)]


def _row(user: int, rng: np.random.Generator) -> dict:
    goods = rng.permutation(len(CATALOG.tags)).tolist()
    item, bought = goods[0], goods[1:16]
    facts = {
        "weekly": bought[:4],
        "often": bought[:8],
        "last week": bought[2:10:2],
        "bought": bought,
        "companion": goods[16:18],
        "season": ["winter"],
        "holiday": [],
        "campaign": [],
    }
    row = {
        "user": user,
        "item": [item],
        "history": bought,
        "shown": bought,
        "facts": facts,
        "profile": "age 45-54",
        "protected": ["45-54"],
        "calendar": "January, winter; ahead: no holiday",
        "campaign": "",
        "guideline": "",
    }
    return {**row, "prompt": messages(row, CATALOG, PromptConfig())}
