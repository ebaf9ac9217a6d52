"""Made-up prompts to try the prompts task on: small sums in words.

    python -m recrl.envs.prompts.arithmetic sums.jsonl

Each row has ``prompt``, ``answer`` (the right number) and ``references``: a short and a long right answer.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gina", "Hugo", "Ida", "Jan")
GOODS = ("apples", "books", "cups", "eggs", "keys", "nuts", "pens", "plums", "shells", "stones")
STORIES = (
    "{name} has {a} {goods} and gets {b} more. How many {goods} are that?",
    "There are {a} {goods}. {name} brings {b}. How many {goods} are there now?",
    "{name} counts {a} {goods}, then {b} other {goods}. How many in all?",
)


def rows(seed: int = 0, count: int = 3000) -> Iterator[dict[str, object]]:
    """Sums of two numbers below ten, each row in other words; the same for the same seed."""
    draw = random.Random(seed)
    for _ in range(count):
        a, b = draw.randrange(10), draw.randrange(10)
        story = draw.choice(STORIES)
        name, goods = draw.choice(NAMES), draw.choice(GOODS)
        long = f"{name} had {a} {goods} and then {b} more {goods} so the answer must be {a + b}"
        yield {
            "prompt": story.format(name=name, goods=goods, a=a, b=b),
            "answer": a + b,
            "references": [str(a + b), long],
        }


def main(path: str) -> None:
    """Write the rows as JSON lines."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows()))


if __name__ == "__main__":
    main(*sys.argv[1:])
