"""Items to explain: of what was bought, of a baseline's list, or of a policy's."""

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ..data.panel import top
from ..data.prepared import Data
from ..tags import baselines
from ..task import TaskError
from .settings import ExplanationsConfig

_LIST = 50  # tags of a baseline's list


def chosen_items(
    data: Data, episodes: pl.DataFrame, settings: ExplanationsConfig, allowed: npt.NDArray[np.bool_]
) -> pl.DataFrame:
    """Episodes with the column ``item``, at most ``settings.items_per_episode`` rows of each, in their order.

    Args:
        allowed: ``[tags]``, those that may be explained.

    Raises:
        TaskError: ``settings.items`` names nothing, or a file that cannot be used.
    """
    found, kept = [], []
    for number, (row, tags) in enumerate(_lists(data, episodes, settings)):
        able = [tag for tag in tags if allowed[tag]]
        if settings.items == "target":
            seed = [zlib.crc32(data.panel.users[row["user"]].encode()), row["origin"]]
            able = np.random.default_rng(seed).permutation(able).astype(int).tolist()
        found += able[: settings.items_per_episode]
        kept += [number] * min(len(able), settings.items_per_episode)
    return episodes[kept].with_columns(item=pl.Series(found, dtype=pl.Int32))


def _lists(
    data: Data, episodes: pl.DataFrame, settings: ExplanationsConfig
) -> Iterator[tuple[dict[str, Any], Sequence[int]]]:
    """Each episode's user and origin, and tags that may be explained, the first ones first."""
    about = episodes.select("user", "origin").to_dicts()
    if settings.items == "target":
        yield from zip(about, episodes["target"].to_list(), strict=True)
    elif settings.items in baselines.SCORERS:
        scores = baselines.SCORERS[settings.items](data, about)
        yield from zip(about, top(scores, _LIST).tolist(), strict=True)
    elif settings.items.endswith(".parquet"):
        listed = _file(Path(settings.items))
        for row in about:
            names = listed.get(data.panel.users[row["user"]], [])
            yield row, [data.catalog.id(name) for name in names if name in data.catalog.tags]
    else:
        raise TaskError(
            f"task.items={settings.items!r} is unknown; known: target, {', '.join(baselines.SCORERS)}, or a "
            ".parquet file of recrl recommend"
        )


def _file(path: Path) -> dict[str, list[str]]:
    """User -> items, of a file that ``recrl recommend`` wrote."""
    if not path.is_file():
        raise TaskError(f"task.items={path}: no such file (from {Path.cwd()})")
    try:
        table = pl.read_parquet(path, columns=["user", "items"])
    except (OSError, pl.exceptions.PolarsError) as error:
        raise TaskError(f"task.items={path} has no columns user and items: {error}") from error
    return dict(zip(table["user"].to_list(), table["items"].to_list(), strict=True))
