import datetime as dt

import pytest

from recrl.envs.data import calendar


@pytest.mark.parametrize(
    ("day", "name"),
    [
        (dt.date(2017, 4, 16), "Easter"),
        (dt.date(2017, 5, 29), "Memorial Day"),
        (dt.date(2017, 9, 4), "Labor Day"),
        (dt.date(2017, 11, 23), "Thanksgiving"),
        (dt.date(2018, 11, 22), "Thanksgiving"),
        (dt.date(2024, 3, 31), "Easter"),
    ],
)
def test_movable_holidays_fall_on_their_dates(day, name):
    assert calendar.holidays(day, day) == [name]


def test_a_line_names_the_season_and_what_lies_ahead_over_the_turn_of_the_year():
    assert calendar.describe(dt.date(2017, 12, 11), 4) == "December, winter; ahead: Christmas, New Year"
    assert calendar.describe(dt.date(2017, 8, 7), 2) == "August, summer; ahead: no holiday"
