"""Purchases of single products, from which histories are told product by product.

A product is known by its title: type, brand, package size and category. Products with the same title are one.

``Products``  who bought what in which week
``load``      those of a data source
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import polars as pl

from . import completejourney
from .settings import DataConfig, DataError

ATTRIBUTES = ("category", "type", "brand", "size")


@dataclass(frozen=True)
class Products:
    """Purchases of products, one entry for each (user, week, product).

    Attributes:
        table: ``title`` and :data:`ATTRIBUTES` of each product, empty where one is unknown; sorted by title.
        user, week, product: ``[entries]`` int32, sorted by (user, week, product); ``product`` is a row of
            ``table``.
    """

    table: pl.DataFrame
    user: npt.NDArray[np.int32]
    week: npt.NDArray[np.int32]
    product: npt.NDArray[np.int32]

    def before(self, user: int, origin: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Weeks and products of a user's purchases before a week, the earliest first."""
        first, end = np.searchsorted(self.user, [user, user + 1])
        end = first + np.searchsorted(self.week[first:end], origin)
        return self.week[first:end], self.product[first:end]


def load(config: DataConfig, users: Sequence[str]) -> Products:
    """Purchases of products.

    Args:
        users: Users of the panel; the position is the user index.

    Raises:
        DataError: the source knows no products.
    """
    if config.source != "completejourney":
        raise DataError(
            f"data.source={config.source} has tags, not products; set task.prompt.history=tags, or "
            "data.source=completejourney"
        )
    return _of_panel(tuple(users))


@lru_cache(maxsize=1)  # a command may tell the same histories in several forms
def _of_panel(users: tuple[str, ...]) -> Products:
    lines = completejourney.products()
    described = lines.select("title", *ATTRIBUTES).sort("title", *ATTRIBUTES)
    table = described.unique("title", keep="first", maintain_order=True)
    places = pl.DataFrame({"title": table["title"], "product": np.arange(table.height, dtype=np.int32)})
    numbers = pl.DataFrame({"name": users, "user": np.arange(len(users), dtype=np.int32)})
    found = (
        lines.join(numbers, left_on="user", right_on="name")
        .join(places, on="title")
        .select(pl.col("user_right").alias("user"), "week", "product")
        .unique()
        .sort("user", "week", "product")
    )
    return Products(table, *(found[name].to_numpy() for name in ("user", "week", "product")))
