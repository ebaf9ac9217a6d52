"""A log of the shape of MovieLens-100k: users who rate many films within an hour, then leave for good."""

import csv
import gzip
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

GENRES = (
    "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
USERS, FILMS = 943, 1682
FIRST, LAST = 874_724_710, 893_286_638  # 1997-09-20 to 1998-04-23, in seconds since 1970
HEADER = ("user", "item", "rating", "timestamp", "genres", "age", "gender")


def rows(ratings: int = 100_000, users: int = USERS, seed: int = 0) -> Iterator[tuple[Any, ...]]:
    """``user``, ``item``, ``rating``, ``timestamp``, ``genres`` (a list), ``age`` and ``gender``.

    A user has one to four sessions of some minutes; half of them have one, like most users of MovieLens.
    """
    draw = np.random.default_rng(seed)
    genres = [tuple(draw.choice(GENRES, draw.integers(1, 4), replace=False)) for _ in range(FILMS)]
    popular = draw.permutation(1 / np.arange(1, FILMS + 1) ** 0.8)
    shares = draw.dirichlet(np.full(users, 0.8))
    for user in range(1, users + 1):
        number = 20 + int(shares[user - 1] * (ratings - 20 * users))
        sessions = min(int(draw.geometric(0.5)), 4)
        starts = draw.integers(FIRST, LAST - 86_400, sessions)
        films = draw.choice(FILMS, min(number, FILMS), replace=False, p=popular / popular.sum())
        age, gender = int(draw.integers(7, 74)), "MF"[draw.random() < 0.3]
        for i, film in enumerate(films):
            when = int(starts[i * sessions // len(films)]) + i * 20
            yield user, int(film) + 1, int(draw.integers(1, 6)), when, genres[film], age, gender


def write(path: Path, log: Sequence[tuple[Any, ...]]) -> Path:
    """The log as text: genres joined by ``|`` in CSV, and as RecBole writes them in ``.inter``."""
    recbole = path.name.lower().endswith((".inter", ".inter.gz"))
    header = (
        ("user_id:token", "item_id:token", "rating:float", "timestamp:float", "genres:token_seq", "age:token",
         "gender:token")
        if recbole
        else HEADER
    )  # fmt: skip
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", newline="") as stream:
        writer = csv.writer(
            stream, delimiter="," if ".csv" in path.name.lower() else "\t", lineterminator="\n"
        )
        writer.writerow(header)
        for user, item, rating, when, genres, *about in log:
            writer.writerow((user, item, rating, when, (" " if recbole else "|").join(genres), *about))
    return path


def weekly(users: int = 40, weeks: int = 45) -> list[tuple[str, int, tuple[str, ...]]]:
    """User, seconds since 1970 and tags of a small log that the weekly protocol splits."""
    return [
        (f"u{user}", 1_704_283_200 + week * 604_800, (f"tag {(user + week) % 5}", f"tag {week % 3}"))
        for user, week in product(range(users), range(weeks))
    ]
