"""Weekly purchases as sparse counts: what every statistic, baseline and episode is computed from."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from .calendar import start_of
from .settings import Step

IntArray = npt.NDArray[np.int32]

# Popularity counts the buyers of so many weeks.
POPULARITY_WEEKS = 8


@dataclass(frozen=True)
class Panel:
    """Purchases of tags by users and weeks; one entry per (user, week, tag).

    Attributes:
        users: User ids; the position is the user index.
        unseen: ``[users]`` bool, the users kept out of every learned statistic.
        n_tags: Size of the catalogue.
        week_zero: The Monday on which week 0 begins.
        user, week, tag: ``[entries]`` int32, sorted by (user, week, tag).
        step: Unit of ``week``.
        recent: Number of weeks whose buyers are a tag's popularity.
        until: ``[users]`` week from which on nothing may be learned of a user; None where all have the same,
            which whoever learns gives.
    """

    users: tuple[str, ...]
    unseen: npt.NDArray[np.bool_]
    n_tags: int
    week_zero: dt.date
    user: IntArray
    week: IntArray
    tag: IntArray
    step: Step = "week"
    recent: int = POPULARITY_WEEKS
    until: IntArray | None = None

    def counts(self, first: int, end: int, *, training_users: bool = False) -> sparse.csr_matrix:
        """Number of weeks in ``[first, end)`` in which each user bought each tag.

        Args:
            first, end: Weeks, half open.
            training_users: Leave the rows of unseen users empty, and what may not be learned of others.

        Returns:
            ``[users, tags]`` float32.
        """
        keep = (self.week >= first) & (self.week < end)
        if training_users:
            keep &= ~self.unseen[self.user]
            if self.until is not None:
                keep &= self.week < self.until[self.user]
        user, tag = self.user[keep], self.tag[keep]
        shape = (len(self.users), self.n_tags)
        return sparse.csr_matrix((np.ones(len(user), np.float32), (user, tag)), shape=shape)

    def buyers(self, first: int, end: int) -> npt.NDArray[np.float32]:
        """``[tags]``: number of distinct training users who bought each tag in weeks ``[first, end)``."""
        counts = self.counts(first, end, training_users=True)
        return np.asarray((counts > 0).sum(axis=0), dtype=np.float32).ravel()

    def popularity(self, origin: int, weeks: int | None = None) -> npt.NDArray[np.float32]:
        """``[tags]``: :meth:`buyers` over the weeks before ``origin``, by default :attr:`recent` of them."""
        return self.buyers(origin - (weeks or self.recent), origin)

    def monday(self, week: int) -> dt.date:
        """The first day of a week."""
        return start_of(self.week_zero, week, self.step)


def top(scores: npt.NDArray[np.floating], k: int, mask: npt.NDArray[np.bool_] | None = None) -> IntArray:
    """The ``k`` best tag ids of each row, best first; ties go to the lower id; masked entries are left out.

    Args:
        scores: ``[rows, tags]``.
        mask: ``[rows, tags]``, true where a tag may not be chosen.
    """
    ranked = np.where(mask, -np.inf, scores) if mask is not None else scores
    return np.argsort(-ranked, axis=1, kind="stable")[:, :k].astype(np.int32)


def rows(matrix: sparse.csr_matrix, users: Sequence[int] | IntArray) -> npt.NDArray[np.float32]:
    """Dense rows of a sparse count matrix, ``[len(users), tags]``."""
    return np.asarray(matrix[np.asarray(users)].todense(), dtype=np.float32)
