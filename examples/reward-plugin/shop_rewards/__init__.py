"""Rewards of a shop: an example of a package that offers its rewards to every recrl project.

``fresh_food``  a reward in five lines
``WideShelf``   a reward with a memory, which is the same on every rank and survives a resume
"""

from collections import Counter, deque

from recrl.rewards import reward

FRESH = ("fruit", "vegetable", "salad", "apples", "berries", "tomatoes", "potatoes", "onions", "fish")


@reward("fresh_food", range=(0, 1))
def fresh_food(answers, catalog):
    """Share of the named tags that are fresh food; 0 for an answer that names none."""
    fresh = {i for i, tag in enumerate(catalog.tags) if any(word in tag.lower() for word in FRESH)}
    return [len(fresh.intersection(a.valid)) / len(a.valid) if a.valid else 0.0 for a in answers]


@reward("wide_shelf", range=(0, 1))
class WideShelf:
    """Share of an answer's tags that few of the last lists named, so that the whole shelf is shown.

    Args:
        memory: Lists that are remembered.
        often: A tag that more than this share of them names is no news.
    """

    def __init__(self, memory: int = 256, often: float = 0.2) -> None:
        self.often = often
        self.lists: deque[list[int]] = deque(maxlen=memory)
        self.seen: Counter[int] = Counter()

    def __call__(self, answers):
        """Only reads the memory, so that the order of the answers does not matter."""
        most = self.often * len(self.lists)
        return [
            sum(self.seen[tag] <= most for tag in a.valid) / len(a.valid) if a.valid else 0.0 for a in answers
        ]

    def update(self, answers):
        """Called after each training batch, with the answers of all processes."""
        for answer in answers:
            if len(self.lists) == self.lists.maxlen:
                self.seen.subtract(self.lists[0])
            self.lists.append(list(answer.valid))
            self.seen.update(answer.valid)

    def state_dict(self):
        return {"lists": list(self.lists)}

    def load_state_dict(self, state):
        self.lists.clear()
        self.lists.extend(state["lists"])
        self.seen = Counter(tag for tags in self.lists for tag in tags)
