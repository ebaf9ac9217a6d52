"""The section ``data`` of a configuration.

``DataConfig``  a source, how it is read, and where its tables are kept
``LogColumns``  names of the columns of a log
``Protocol``    weeks and users that an episode may use
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, model_validator

from ..faults import MendableError
from ..settings import MANY, Between, Each, Place, Text

# Latest step: two hundred years of hours. Longest stretch of history: eleven years of them.
_LATEST = 2_000_000
_LONGEST = 100_000
Step = Literal["hour", "day", "week", "month"]
_Column = Annotated[str, Text()]
_Weeks = Annotated[int, Between(1, 1000)]
_Origins = Annotated[tuple[Annotated[int, Between(0, _LATEST)], ...], Each()]


class DataError(MendableError, ValueError):
    """The data cannot be used as it is; the message, one line, names the column, the row and the fix."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


class SplitError(DataError):
    """The data do not fit the protocol: a split has no episodes."""


class LogColumns(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Names of the columns in the file."""

    user: _Column = "user"
    """Column of the user: text or whole numbers."""
    time: _Column = "time"
    """Column of the time: datetimes, dates, ISO 8601 text, or numbers of seconds or less since 1970."""
    tag: _Column = "tag"
    """Column of the item's category, genre or tag, or of a list of them."""
    tag_separator: Annotated[str, Text(10)] | None = None
    """Text between the tags of one value (``Action|Comedy``); by default a value that is text is one tag."""
    profile: _Column | Annotated[tuple[_Column, ...], Each(least=1)] | None = None
    """Column of text about the user, or a list of columns; none by default."""

    split: _Column | None = None
    """Column of ``train``, ``validation`` or ``test``, for ``data.protocol.split: given``."""

    @property
    def profiles(self) -> tuple[str, ...]:
        """Columns about the user."""
        return (self.profile,) if isinstance(self.profile, str) else self.profile or ()

    @model_validator(mode="after")
    def _apart(self) -> "LogColumns":
        named: dict[str, str] = {}
        roles = [("user", self.user), ("time", self.time), ("tag", self.tag)]
        roles += [("split", self.split)] if self.split is not None else []
        for field, column in (*roles, *(("profile", column) for column in self.profiles)):
            if column in named:
                raise ValueError(
                    f"data.columns.{named[column]} and data.columns.{field} are both {column!r}; give each a "
                    "column of its own"
                )
            named[column] = field
        return self


class Protocol(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Weeks and users that an episode may use. Weeks are days or months where ``step`` says so."""

    step: Step = "week"
    """Unit of time: purchases of a tag in one are merged, and the other settings count it."""
    session_gap: _Weeks | None = None
    """Purchases of a user with no more than so many steps between them are one session, at its first step; by
    default each step is one of its own."""
    split: Literal["time", "last", "ratio", "given"] = "time"
    """``time``: origins of the calendar, the same for all users; ``last``: the last step in which a user
    bought something is the test, the one before it the validation, earlier ones train; ``ratio``: the last
    shares of these steps are; ``given``: ``data.columns.split`` says, or the names of the files."""
    test_share: Annotated[float, Between(0.001, 0.8)] = 0.1
    """Share of a user's active steps that is the test, for ``split: ratio``."""
    validation_share: Annotated[float, Between(0.001, 0.8)] = 0.1
    """Share of a user's active steps before them that is the validation, for ``split: ratio``."""
    user_origins: Annotated[int, Between(1, 1000)] = 10
    """Largest number of training episodes of a user, the latest ones, unless ``split: time``."""
    repeats: bool = True
    """Whether a target may hold tags of the history; false for what nobody buys twice, such as films."""
    k_core: Annotated[int, Between(1, MANY)] = 1
    """Users with fewer different tags, and tags with fewer users, are left out until none is."""
    window: _Weeks = 4
    """Length of the target window in weeks."""
    lookback: Annotated[int, Between(1, _LONGEST)] = 20
    """A tag is novel when it was not bought in this many weeks before the origin."""
    min_active_weeks: _Weeks = 4
    """A user needs this many weeks with a purchase before the origin."""
    active_within: Annotated[int, Between(1, _LONGEST)] = 8
    """A user needs a purchase within this many weeks before the origin."""
    cold_weeks: _Weeks = 10
    """A user with fewer active weeks than this before the origin is in segment ``cold``, else in ``warm``."""
    min_tag_users: Annotated[int, Between(1, MANY)] = 20
    """A tag enters the vocabulary when this many training users bought it before ``statistics_end``."""
    unseen_share: Annotated[float, Between(0.001, 0.999)] = 0.2
    """Share of the users kept out of training and of every learned statistic."""
    train_origins: _Origins = ()
    """Origin weeks of training episodes; empty = 31 to 19 weeks before the last week."""
    validation_origins: _Origins = ()
    """Origin weeks of validation episodes; empty = 15 weeks before the last week."""
    test_origins: _Origins = ()
    """Origin weeks of test episodes; empty = 11, 7 and 3 weeks before the last week."""
    statistics_end: Annotated[int, Between(0, _LATEST)] | None = None
    """Vocabulary and learned models see only weeks before it; by default the first validation origin."""

    @model_validator(mode="after")
    def _shares(self) -> "Protocol":
        if self.test_share + self.validation_share >= 1:
            raise ValueError(
                f"data.protocol.test_share={self.test_share:g} and data.protocol.validation_share="
                f"{self.validation_share:g} leave nothing to train on; set them to less than 1 together"
            )
        return self

    @property
    def recent(self) -> int:
        """Number of steps whose buyers are a tag's popularity: eight weeks."""
        return {"hour": 8 * 168, "day": 56, "week": 8, "month": 2}[self.step]

    def resolved(self, first_week: int, last_week: int) -> "Protocol":
        """The same protocol with every origin filled in for data that covers these weeks.

        Raises:
            DataError: the data are too short for the splits, or a training target passes ``statistics_end``.
        """
        if self.split != "time":
            end = self.statistics_end if self.statistics_end is not None else last_week + 1
            return self.model_copy(update={"statistics_end": end})
        earliest = first_week + self.min_active_weeks
        train = self.train_origins or tuple(range(max(earliest, last_week - 31), last_week - 18))
        validation = self.validation_origins or (last_week - 15,)
        test = self.test_origins or (last_week - 11, last_week - 7, last_week - 3)
        end = self.statistics_end if self.statistics_end is not None else min(validation)
        for name, origins in (("train", train), ("validation", validation), ("test", test)):
            if not origins or min(origins) < earliest or max(origins) + self.window - 1 > last_week:
                raise SplitError(
                    f"the data cover {self.step}s {first_week}..{last_week}, too short for data.protocol."
                    f"{name}_origins={list(origins)}: an origin needs data.protocol.min_active_weeks="
                    f"{self.min_active_weeks} {self.step}s before it and a window of data.protocol.window="
                    f"{self.window}; origins must lie in {earliest}..{last_week - self.window + 1}"
                )
        if max(train) + self.window > end:
            raise SplitError(
                f"data.protocol.train_origins={list(train)} with data.protocol.window={self.window} reach "
                f"{self.step} {max(train) + self.window - 1}, at or past data.protocol.statistics_end={end}: "
                "training would see the test period. Use earlier origins"
            )
        return self.model_copy(
            update={
                "train_origins": train,
                "validation_origins": validation,
                "test_origins": test,
                "statistics_end": end,
            }
        )

    def origins(self, split: str) -> tuple[int, ...]:
        return {
            "train": self.train_origins,
            "validation": self.validation_origins,
            "test": self.test_origins,
        }[split]


class DataConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Source of the episodes."""

    source: Annotated[str, Text(4000, path=True)] = "completejourney"
    """``completejourney``, or a log: a file, a folder of files, or a pattern such as ``logs/*.parquet``, of
    Parquet, JSON lines, CSV, TSV or RecBole's ``.inter``."""
    track: Literal["category", "type"] = "category"
    """Granularity of the Complete Journey tags; logs bring their own."""
    columns: LogColumns = LogColumns()
    """Column names of a log."""
    bad_rows: Literal["error", "drop"] = "error"
    """Treatment of unreadable rows of a log."""
    max_users: Annotated[int, Between(2, 2_000_000_000)] = 20_000_000
    """Largest number of users of a log; their names are held in memory."""
    max_tags: Annotated[int, Between(2, MANY)] = 200_000
    """Largest number of different tags of a log, rare ones included; more are a mistake, such as row ids."""
    protocol: Protocol = Protocol()
    """Origins, windows, eligibility and splits."""
    at_once: Annotated[int, Between(1000, 10**12)] = 2_000_000
    """Approximate number of purchases in memory while the tables are built; users are taken in ranges."""
    cache: Annotated[Path, Place()] = Path(".cache/recrl")
    """Folder of the cached tables, one subfolder a content hash."""

    @model_validator(mode="after")
    def _split_is_asked_for(self) -> "DataConfig":
        if self.columns.split is not None and self.protocol.split != "given":
            raise ValueError(
                f"data.columns.split={self.columns.split} with data.protocol.split={self.protocol.split}: "
                "set data.protocol.split=given, or leave the column out"
            )
        return self
