"""What a date means to a shopper: the season and the holidays of the coming weeks (United States)."""

import datetime as dt

from dateutil.easter import easter

_SEASONS = ("winter", "spring", "summer", "autumn")


def season(day: dt.date) -> str:
    """Meteorological season of the northern hemisphere."""
    return _SEASONS[day.month % 12 // 3]


def holidays(first: dt.date, last: dt.date) -> list[str]:
    """Names of the holidays from ``first`` to ``last``, both included, in order."""
    found = [(day, name) for year in range(first.year, last.year + 1) for day, name in _of_year(year)]
    return [name for day, name in sorted(found) if first <= day <= last]


def describe(monday: dt.date, weeks: int) -> str:
    """One line about the ``weeks`` weeks that start on ``monday``: ``October, autumn; ahead: Halloween``."""
    ahead = holidays(monday, monday + dt.timedelta(weeks=weeks) - dt.timedelta(days=1))
    return f"{monday:%B}, {season(monday)}; ahead: {', '.join(ahead) if ahead else 'no holiday'}"


def _of_year(year: int) -> list[tuple[dt.date, str]]:
    return [
        (dt.date(year, 1, 1), "New Year"),
        (dt.date(year, 2, 14), "Valentine's Day"),
        (easter(year), "Easter"),
        (_nth_weekday(year, 5, 0, -1), "Memorial Day"),
        (dt.date(year, 7, 4), "Independence Day"),
        (_nth_weekday(year, 9, 0, 1), "Labor Day"),
        (dt.date(year, 10, 31), "Halloween"),
        (_nth_weekday(year, 11, 3, 4), "Thanksgiving"),
        (dt.date(year, 12, 25), "Christmas"),
    ]


def _nth_weekday(year: int, month: int, weekday: int, n: int) -> dt.date:
    """The n-th given weekday (Monday = 0) of a month; n = -1 is the last one."""
    if n > 0:
        first = dt.date(year, month, 1)
        return first + dt.timedelta(days=(weekday - first.weekday()) % 7 + 7 * (n - 1))
    last = dt.date(year + month // 12, month % 12 + 1, 1) - dt.timedelta(days=1)
    return last - dt.timedelta(days=(last.weekday() - weekday) % 7)
