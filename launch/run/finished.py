"""A finished run, and what its users ask of it: refusals before anything heavy is imported."""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from ...rl.policy.folders import holds_policy
from ..config.schema import ConfigError

WHICH = {"trained": "policy", "warm": "warm"}
"""Policies of a run and their folders."""


def finished_policy(run: Path, which: str) -> Path:
    """Folder of a policy of a run.

    Raises:
        ConfigError: there is no such run or policy, or training has not come to its end.
    """
    if which not in WHICH:
        raise ConfigError(f"--which {which}: unknown; use {' or '.join(WHICH)}")
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"{run} is no run folder: it holds no config.yaml; name the output of recrl train")
    if not holds_policy(run / WHICH[which]):
        raise ConfigError(
            f"{run} holds no {'trained policy' if which == 'trained' else 'warm start'} yet; go on with: "
            f"recrl train {run / 'config.yaml'} --resume auto"
        )
    return run / WHICH[which]


@dataclass(frozen=True, kw_only=True)
class Whom:
    """Who is answered.

    Attributes:
        users: File that names the users, or holds their rows; None for all.
        at: Day that answers are for; None for the end of the data.
        limit: Largest number of users, evenly spread.
    """

    users: Path | None = None
    at: dt.date | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Request(Whom):
    """What is asked for.

    Attributes:
        output: File of the recommendations.
        which: Policy, see ``WHICH``.
        fresh: Replace what is there.
    """

    output: Path
    which: str = "trained"
    fresh: bool = False

    @property
    def prices(self) -> Path:
        """File of the prices."""
        return self.output.with_suffix(".prices.json")

    @property
    def asked(self) -> Path:
        """Folder of the answers until all are there."""
        return self.output.with_name(f".{self.output.name}.asked")

    def check(self) -> None:
        """Refuse an output that cannot be.

        Raises:
            ConfigError: it is of another kind, or there already.
        """
        if self.output.suffix != ".parquet":
            raise ConfigError(f"--output {self.output}: recommendations are a .parquet file; name one")
        for path in (self.output, self.prices):
            # Prices are written just before the table.
            if path.exists() and not self.fresh and not (path == self.prices and self.asked.is_dir()):
                raise ConfigError(
                    f"{path} is there already; replace it with --fresh, or choose another --output"
                )
