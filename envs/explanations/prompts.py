"""An episode and an item as chat messages.

What a source brings (profile, names of tags) is data, not instruction: it stands between ``<user>`` and
``</item>``, one item a line, as :func:`recrl.envs.text.display` leaves it.
"""

from collections.abc import Iterator

from ..agents.style import with_guideline
from ..catalog import Catalog
from ..task import Message, Row
from ..text import display
from .settings import PromptConfig

# Sections of the history: what matters most stands nearest to the answer.
_SECTIONS = ("less often", "often", "weekly", "last week")


def messages(row: Row, catalog: Catalog, wording: PromptConfig) -> list[Message]:
    """Ask why the row's item is recommended.

    Args:
        row: Row with ``item``, ``shown``, ``facts``, ``calendar``, ``profile`` and ``guideline``.
    """
    tags, facts = catalog.tags, row["facts"]
    told = ((wording.holidays, row["calendar"]), (wording.profile, row["profile"]))
    lines = ["<user>", *(text for wanted, found in told if wanted and (text := display(found)))]
    for name, found in _sections(row):
        lines += [f"{name}:", *(tags[tag] for tag in reversed(found))] if found else []
    lines += ["</user>", "<item>", *(tags[tag] for tag in row["item"])]
    if facts["companion"]:
        lines += ["goes with:", *(tags[tag] for tag in facts["companion"])]
    lines += ["on coupon"] if facts["campaign"] else []
    user = {"role": "user", "content": "\n".join([*lines, "</item>", wording.request])}
    system = [{"role": "system", "content": wording.system}] if wording.system else []
    return with_guideline([*system, user], row["guideline"])


def _sections(row: Row) -> Iterator[tuple[str, list[int]]]:
    facts, known = row["facts"], row["shown"]
    weekly, often, lately = (set(facts[kind]) for kind in ("weekly", "often", "last week"))
    of = {
        "weekly": [tag for tag in known if tag in weekly],
        "often": [tag for tag in known if tag in often - weekly],
        "less often": [tag for tag in known if tag not in often],
        "last week": [tag for tag in known if tag in lately],
    }
    return ((name, of[name]) for name in _SECTIONS)
