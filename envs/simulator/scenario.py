"""What a purchase log cannot say about recommendations, as named assumptions.

``Scenario``   one set of assumptions
``SCENARIOS``  the sets that every comparison is swept over; the first is the base
"""

from dataclasses import dataclass, fields

from ..faults import MendableError
from ..settings import nearest


class SimulatorError(MendableError, ValueError):
    """Nothing can be simulated with these data or settings; the message names the fix."""


@dataclass(frozen=True)
class Scenario:
    """Assumptions on how shoppers meet a list of recommendations; none of them is estimated.

    Attributes:
        name: What reports call it.
        opens: Probability that a shopper opens the week's list.
        position: Probability that a slot is looked at after the one before it was.
        click: Log-odds of a click on a tag that is looked at and that half of such shoppers would buy.
        taste: Log-odds of a click per log-odds of buying the tag anyway.
        curiosity: Added log-odds of a click on a tag not bought in the look-back.
        boredom: Log-odds of a click lost per earlier look at the tag that led to no click; looks fade by
            30 % a week.
        effect: Log-odds of buying a tag added by a click on it.
        pull: Log-odds of a visit in the week added by any click.
        loyalty: Log-odds of later visits added per click; clicks fade by 30 % a week.
    """

    name: str
    opens: float = 0.6
    position: float = 0.85
    click: float = -1.5
    taste: float = 0.5
    curiosity: float = 0.0
    boredom: float = 0.3
    effect: float = 0.7
    pull: float = 0.3
    loyalty: float = 0.1

    @property
    def assumptions(self) -> dict[str, float]:
        """Name of each assumption -> its value."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "name"}


SCENARIOS = (
    Scenario("base"),
    Scenario("clicks change nothing", effect=0.0, pull=0.0, loyalty=0.0),
    Scenario("clicks change much", effect=1.4, pull=0.8, loyalty=0.3),
    Scenario("only the top is seen", position=0.6),
    Scenario("all slots are seen", position=1.0),
    Scenario("soon bored", boredom=0.8),
    Scenario("never bored", boredom=0.0),
    Scenario("curious", curiosity=0.7),
    Scenario("cautious", curiosity=-0.7),
    Scenario("taste matters little", taste=0.25),
)
"""Base scenario, and those that change one belief each."""


def named(name: str) -> Scenario:
    """A shipped scenario.

    Raises:
        SimulatorError: none has this name.
    """
    found = {one.name: one for one in SCENARIOS}
    if name not in found:
        raise SimulatorError(f"scenario {name!r} is unknown{nearest(name, set(found), len(found))}")
    return found[name]
