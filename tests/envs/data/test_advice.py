"""Logs that do not fit the protocol: what is said of few episodes, and advice that can be followed."""

import re
from collections.abc import Callable, Iterator
from functools import partial

import movielens
import polars as pl
import pytest
import yaml

from recrl.envs.data.prepared import prepare
from recrl.envs.data.settings import DataConfig, DataError, LogColumns, Protocol

DAY, WEEK = 86_400, 604_800
START = 1_704_067_200  # Monday, 2024-01-01


def visitors(weeks: int = 5) -> Iterator[tuple[str, int, str]]:
    """Users who come for some weeks and leave."""
    for user in range(300):
        for week in range(weeks):
            yield f"u{user}", START + (user % 25 + week) * WEEK, f"tag {(user + week) % 7}"


def short() -> Iterator[tuple[str, int, str]]:
    """Ten weeks."""
    for user in range(100):
        for week in range(10):
            yield f"u{user}", START + week * WEEK, f"tag {(user + week) % 7}"
            yield f"u{user}", START + week * WEEK + 6 * DAY, f"tag {user % 3}"


def days() -> Iterator[tuple[str, int, str]]:
    """Twelve days."""
    for user in range(100):
        for day in range(12):
            yield f"u{user}", START + day * DAY, f"tag {(user + day) % 7}"


def rare() -> Iterator[tuple[str, int, str]]:
    """Half a year of tags that few buy."""
    for user in range(60):
        for week in range(26):
            yield f"u{user}", START + week * WEEK, f"tag {user % 20}-{week % 2}"
    yield "u0", START + 26 * WEEK, "tag 0-0"


def films() -> Iterator[tuple[str, int, str]]:
    for user, _, _, when, genres, *_ in movielens.rows(ratings=20_000, users=300):
        for genre in genres:
            yield f"u{user}", when, genre


def config(folder, log: Callable[[], Iterator[tuple[str, int, str]]], **protocol) -> DataConfig:
    path = folder / "log.parquet"
    pl.DataFrame(list(log()), schema=["user", "time", "tag"], orient="row").write_parquet(path)
    return DataConfig(source=str(path), cache=folder / "cache", protocol=Protocol(**protocol))


@pytest.mark.parametrize("log", [partial(visitors, 3), short, days, rare, films])
def test_advice_that_is_followed_once_ends_in_a_usable_split(tmp_path, log):
    refused = config(tmp_path, log)
    with pytest.raises(DataError) as caught:
        prepare(refused)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    settings = re.findall(r"data\.protocol\.(\w+)=(\[[^\]]*\]|[^ ']+)", message.split(". Set ")[1])
    assert settings, message
    protocol = Protocol(**{name: yaml.safe_load(value) for name, value in settings})
    task = prepare(refused.model_copy(update={"protocol": protocol}))
    numbers = re.search(
        r"for ([\d,]+) training, ([\d,]+) validation and ([\d,]+) test episodes, ([\d,]+) of", message
    )
    assert [int(number.replace(",", "")) for number in numbers.groups()] == [
        *(task.split(split).height for split in ("train", "validation", "test")),
        task.split("test")["unseen"].sum(),
    ]
    assert task.split("train").height >= 100


def test_a_log_without_a_usable_split_is_told_so(tmp_path):
    """Nobody comes back."""
    with pytest.raises(DataError, match=r"No other data\.protocol gives every split an episode: "):
        prepare(config(tmp_path, lambda: ((f"u{n}", START + n * DAY, f"tag {n % 2}") for n in range(300))))
    assert not list((tmp_path / "cache" / "tasks").glob("*/"))


def test_every_setting_says_how_many_episodes_it_lost(tmp_path):
    task = prepare(config(tmp_path, visitors, min_tag_users=2, min_active_weeks=2, active_within=3))
    for split, lost in task.losses.items():
        kept = lost["episodes"]
        assert kept == task.split(split).height
        reasons = {
            r: n for r, n in lost.items() if r not in ("candidates", "episodes", "episodes of unseen users")
        }
        assert sum(reasons.values()) + kept == lost["candidates"]
        assert lost["candidates"] == 300 * len(task.protocol.origins(split))
        assert all(number > 0 for number in reasons.values())
        assert "by data.protocol.min_active_weeks=2" in reasons
        assert "by data.protocol.active_within=3" in reasons
        assert ("as unseen users, who train nothing" in reasons) == (split != "test")
    # Recounted at one origin: those who were there within three weeks, but only in one week.
    (origin,) = task.protocol.validation_origins
    panel = task.panel
    weeks = [set(panel.week[(panel.user == user) & (panel.week < origin)].tolist()) for user in range(300)]
    lost = task.losses["validation"]
    assert lost["without a purchase of a known tag before it"] == sum(not found for found in weeks)
    assert lost["by data.protocol.min_active_weeks=2"] == sum(len(found) == 1 for found in weeks)
    assert lost["by data.protocol.active_within=3"] == sum(
        len(found) > 1 and max(found) < origin - 3 for found in weeks
    )


def test_few_episodes_a_cut_lookback_and_other_seasons_are_remarked_on(tmp_path):
    few, cut, seasons = prepare(
        config(tmp_path, visitors, min_tag_users=2, min_active_weeks=2, active_within=3, train_origins=[4],
               validation_origins=[12], test_origins=[24])
    ).remarks[-3:]  # fmt: skip
    assert few.startswith("only ")
    assert " test episodes: wide intervals; of 300 users at an origin, " in few
    assert " are lost by data.protocol.active_within=3; data.protocol.split=last takes one" in few
    assert cut.startswith(
        "before the first training origin the data hold 3 of the 20 weeks of data.protocol.lookback"
    )
    assert cut.endswith("data.protocol.lookback=3 would be whole everywhere")
    assert seasons.startswith("test episodes lie in summer, training episodes in winter: what the calendar ")


def test_a_rich_log_gets_no_remark(tmp_path):
    def two_years() -> Iterator[tuple[str, int, str]]:
        for user in range(1300):
            for week in range(user % 3, 110, 3):
                yield f"u{user}", START + week * WEEK, f"tag {(user + week) % 7}"

    origins = {"train_origins": [*range(24, 80, 13)], "validation_origins": [92], "test_origins": [98]}
    assert prepare(config(tmp_path, two_years, **origins)).remarks == []


def test_films_of_movielens_are_described_with_what_was_lost(tmp_path):
    """As a new user would try them: every user is there for an hour or so."""
    path = movielens.write(tmp_path / "ml.inter", [*movielens.rows(ratings=6000, users=120)])
    given = DataConfig(source=str(path), columns=LogColumns(tag="genres"), cache=tmp_path / "cache")
    with pytest.raises(DataError, match=r"users at an origin, .* by data\.protocol\.min_active_weeks=4"):
        prepare(given)
    task = prepare(
        given.model_copy(update={"protocol": Protocol(split="last", min_active_weeks=1, active_within=40)})
    )
    assert task.remarks[0].startswith("only ")
    assert "data.protocol.split=last" not in task.remarks[0]
