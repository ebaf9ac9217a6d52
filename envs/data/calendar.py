"""What a date means to a shopper: the season and the holidays of the coming weeks (United States).

Time is counted in steps: hours, days, weeks that start on Monday, or months.
"""

import datetime as dt

import polars as pl
from dateutil.easter import easter

from .settings import Step

_SEASONS = ("winter", "spring", "summer", "autumn")


def season(day: dt.date) -> str:
    """Meteorological season of the northern hemisphere."""
    return _SEASONS[day.month % 12 // 3]


def holidays(first: dt.date, last: dt.date) -> list[str]:
    """Names of the holidays from ``first`` to ``last``, both included, in order."""
    found = [(day, name) for year in range(first.year, last.year + 1) for day, name in _of_year(year)]
    return [name for day, name in sorted(found) if first <= day <= last]


def start_of(zero: dt.date, number: int, step: Step = "week") -> dt.date:
    """The first day of a step, or the day of an hour.

    Args:
        zero: The day on which step 0 begins; for months the first of one.
    """
    if step == "hour":
        return zero + dt.timedelta(days=number // 24)
    if step == "month":
        months = zero.year * 12 + zero.month - 1 + number
        return dt.date(months // 12, months % 12 + 1, 1)
    return zero + dt.timedelta(days=number * (7 if step == "week" else 1))


def step_zero(first: dt.date, step: Step) -> dt.date:
    """The day on which step 0 begins: step 1 holds the first day of the data, hour 24 begins with it."""
    if step == "month":
        return start_of(first.replace(day=1), -1, step)
    if step == "hour":
        return first - dt.timedelta(days=1)
    begins = first - dt.timedelta(days=first.weekday() if step == "week" else 0)
    return start_of(begins, -1, step)


def number_of(when: dt.datetime, zero: dt.date, step: Step) -> int:
    """Number of the step that holds a time."""
    days = (when.date() - zero).days
    if step == "hour":
        return days * 24 + when.hour
    if step == "month":
        return (when.year - zero.year) * 12 + when.month - zero.month
    return days // (7 if step == "week" else 1)


def numbers_of(when: pl.Expr, zero: dt.date, step: Step) -> pl.Expr:
    """:func:`number_of` for a column of datetimes."""
    days = (when.dt.date() - pl.lit(zero)).dt.total_days()
    if step == "hour":
        return (days * 24 + when.dt.hour().cast(pl.Int64)).cast(pl.Int32)
    if step == "month":
        months = (when.dt.year() - zero.year) * 12 + when.dt.month().cast(pl.Int32) - zero.month
        return months.cast(pl.Int32)
    return (days // (7 if step == "week" else 1)).cast(pl.Int32)


def describe(first: dt.date, number: int, step: Step = "week") -> str:
    """One line about the steps that start on a day: ``October, autumn; ahead: Halloween``."""
    last = start_of(first, number, step) - dt.timedelta(days=1)
    ahead = holidays(first, max(first, last))
    return f"{first:%B}, {season(first)}; ahead: {', '.join(ahead) if ahead else 'no holiday'}"


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
