"""A user's history, product by product, in the forms that ``task.prompt.history`` names.

| form | what stands in the prompt |
|---|---|
| `text` | a line for each product, the latest `products` of them, under a heading for each week |
| `hybrid` | the same products, marked (:mod:`recrl.envs.entities.marks`), with nothing between them |
| `truncated` | as `text`, the latest `kept` products |
| `frequent` | as `text`, the `kept` products that were bought in most weeks, where they were bought last |
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.products import Products
from ..entities import marks
from .settings import PromptConfig

# Terms of the tiny policy's tokenizer: a heading is one token and its line break.
HEADINGS = tuple(f"w{weeks}" for weeks in range(1, 60))

_ABOUT = "bought, by weeks ago:"


class Histories:
    """Tells histories in one form.

    Args:
        products: Purchases of products.
        wording: Form, and how much of a history is told.
    """

    def __init__(self, products: Products, wording: PromptConfig) -> None:
        self.products, self._wording = products, wording
        self._titles: list[str] = products.table["title"].to_list()

    def __call__(self, episode: Mapping[str, Any]) -> list[str]:
        """Lines of an episode's history, the earliest first."""
        weeks, products = self.chosen(episode)
        if not len(weeks):
            return []
        show = marks.mark if self._wording.history == "hybrid" else marks.line
        told = []
        for week in dict.fromkeys(weeks.tolist()):
            titles = [self._titles[i] for i in products[weeks == week].tolist()]
            told += [f"w{int(episode['origin']) - week}\n", *map(show, titles)]
        return [_ABOUT, "".join(told).removesuffix("\n")]

    def chosen(self, episode: Mapping[str, Any]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Weeks and products that are told."""
        weeks, products = self.products.before(int(episode["user"]), int(episode["origin"]))
        wording = self._wording
        if wording.history in ("text", "hybrid"):
            return weeks[-wording.products :], products[-wording.products :]
        if wording.history == "truncated":
            return weeks[-wording.kept :], products[-wording.kept :]
        return _most_frequent(weeks, products, wording.kept)


def _most_frequent(
    weeks: npt.NDArray[np.int32], products: npt.NDArray[np.int32], kept: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The latest entry of each of the products with most entries; ties go to the latest."""
    _, from_end, counts = np.unique(products[::-1], return_index=True, return_counts=True)
    last = len(products) - 1 - from_end
    best = np.sort(last[np.lexsort((-last, -counts))[:kept]])
    return weeks[best], products[best]
