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


def messages(row: Row, catalog: Catalog, max_history: int, wording: PromptConfig) -> list[Message]:
    """Ask why the row's item is recommended.

    Args:
        row: Row with ``item``, ``history``, ``facts``, ``calendar``, ``profile`` and ``guideline``.
        max_history: Largest number of tags of the history to show, see :func:`shown`.
    """
    tags, facts = catalog.tags, row["facts"]
    told = ((wording.holidays, row["calendar"]), (wording.profile, row["profile"]))
    lines = ["<user>", *(text for wanted, found in told if wanted and (text := display(found)))]
    for name, found in _sections(row, max_history):
        lines += [f"{name}:", *(tags[tag] for tag in reversed(found))] if found else []
    lines += ["</user>", "<item>", *(tags[tag] for tag in row["item"])]
    if facts["companion"]:
        lines += ["goes with:", *(tags[tag] for tag in facts["companion"])]
    lines += ["on coupon"] if facts["campaign"] else []
    user = {"role": "user", "content": "\n".join([*lines, "</item>", wording.request])}
    system = [{"role": "system", "content": wording.system}] if wording.system else []
    return with_guideline([*system, user], row["guideline"])


def shown(row: Row, max_history: int) -> set[int]:
    """Tags of the history that the prompt shows: the most frequent, and those of the last week."""
    return {tag for _, tags in _sections(row, max_history) for tag in tags}


def _sections(row: Row, max_history: int) -> Iterator[tuple[str, list[int]]]:
    facts, frequent = row["facts"], row["history"][:max_history]
    weekly, often = set(facts["weekly"]), set(facts["often"])
    of = {
        "weekly": [tag for tag in frequent if tag in weekly],
        "often": [tag for tag in frequent if tag in often - weekly],
        "less often": [tag for tag in frequent if tag not in often],
        "last week": list(facts["last week"])[: max_history // 3],
    }
    return ((name, of[name]) for name in _SECTIONS)
