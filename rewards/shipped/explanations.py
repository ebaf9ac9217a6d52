"""Rewards of an explanation: a text that tells a household why an item is recommended. What it claims is
judged in ``claims.py``.

how varied     ``idf_diversity``, ``sibling_diversity``, ``item_diversity``, ``distinct_n``
how it reads   ``text_length``
what it must   ``banned_words``, ``attribute_leak``
not say

Their words are those of ``envs/words.py``: any script, and no phrase hidden by its spelling.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from ...envs.words import band, rouge_l, words
from ..base import Completion, completion_text
from ..registry import reward
from .claims import sought

MEMORY = 160  # explanations, as in RecGPT-V2
_LEXICON = "protected_attributes.yaml"


@reward("idf_diversity", range=(math.log(MEMORY / (MEMORY + 1)), math.log(MEMORY)))
class IdfDiversity:
    """How rare an explanation's words are among the last ones: ``(1/L) sum_i log(|M| / (df(w_i) + 1))``.

    L = its words, M = the last ``memory`` explanations, df(w) = how many of them hold w. Missing until M
    holds ``warmup`` explanations: against a handful every word is rare. An empty explanation scores lowest.

    Source: RecGPT-V2 (arXiv 2512.14503), whose memory holds 160. Another size M, or a warm-up of W < M, needs
    a range of its own in the config entry, ``range: [log(W / (W + 1)), log(M)]`` (W = M without a warm-up).

    Worst cases: a text of rare or invented words scores highest; pair it with a reward of what it says.

    Checkpoint behaviour: the words of M are saved; a resume goes on with them.

    Args:
        memory: |M| when it is full.
        warmup: explanations that M must hold before anything has a score; by default all.
    """

    def __init__(self, memory: int = MEMORY, warmup: int | None = None) -> None:
        if memory < 2:
            raise ValueError(f"memory={memory} must be at least 2 explanations")
        if warmup is not None and not 1 <= warmup <= memory:
            raise ValueError(f"warmup={warmup} must lie within 1 and memory={memory}")
        self.memory, self.warmup = memory, memory if warmup is None else warmup
        self._kept: deque[list[str]] = deque()
        self._counts: Counter[str] = Counter()

    def __call__(self, completions: Sequence[Completion]) -> list[float | None]:
        """Reads the memory and leaves it as it is."""
        size = len(self._kept)
        if size < self.warmup:
            return [None] * len(completions)
        return [self._score(words(completion_text(text)), size) for text in completions]

    def _score(self, text: Sequence[str], size: int) -> float:
        if not text:
            return math.log(size / (size + 1))
        return math.log(size) - sum(math.log(self._counts[word] + 1) for word in text) / len(text)

    def update(self, completions: Sequence[Completion]) -> None:
        """Remember the explanations of a training batch, of all ranks in order."""
        for text in completions:
            self._keep(sorted(set(words(completion_text(text)))))

    def _keep(self, distinct: list[str]) -> None:
        if len(self._kept) == self.memory:
            self._counts.subtract(oldest := self._kept.popleft())
            for word in oldest:
                if not self._counts[word]:
                    del self._counts[word]
        self._kept.append(distinct)
        self._counts.update(distinct)

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory, "kept": list(self._kept)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the memory of a checkpoint.

        Raises:
            ValueError: the memory is of another size.
        """
        if state["memory"] != self.memory:
            raise ValueError(
                f"idf_diversity: the checkpoint has memory={state['memory']}, this run {self.memory}; set "
                f"params: {{memory: {state['memory']}}} to resume"
            )
        self._kept, self._counts = deque(), Counter()
        for distinct in state["kept"]:
            self._keep(list(distinct))


@reward("sibling_diversity", range=(0, 1), per="group")
def sibling_diversity(completions: Sequence[Completion]) -> list[float | None]:
    """``1 - mean ROUGE-L F1`` of an explanation against the others of its prompt; missing if there is none.

    ROUGE-L (Lin 2004): the longest common subsequence of words. Two empty texts are the same text.

    Worst cases: a group of one text scores 0; so do empty texts, though one empty text among others scores 1.
    """
    texts = [words(completion_text(completion)) for completion in completions]
    n = len(texts)
    if n < 2:
        return [None] * n
    common = [0.0] * n
    for i in range(n):
        for j in range(i):
            alike = rouge_l(texts[i], texts[j])
            common[i] += alike
            common[j] += alike
    return [1 - total / (n - 1) for total in common]


@reward("item_diversity", range=(0, 1))
class ItemDiversity:
    """``1 - mean ROUGE-L F1`` of an explanation against the last ones that other households got for its item.

    Missing until there are ``warmup`` of them. RecGPT-V2 (arXiv 2512.14503) measures the diversity of
    explanations so, over the contexts of an item.

    Worst cases: a text of rare or invented words is unlike all others; hold what it says beside it.

    Checkpoint behaviour: the texts are saved; a resume goes on with them.

    Args:
        memory: texts that are kept of an item, of as many households.
        warmup: texts that must be there.
    """

    def __init__(self, memory: int = 8, warmup: int = 2) -> None:
        if not 1 <= warmup <= memory:
            raise ValueError(f"warmup={warmup} must lie within 1 and memory={memory}")
        self.memory, self.warmup = memory, warmup
        self._kept: dict[int, dict[int, list[str]]] = {}

    def __call__(
        self, completions: Sequence[Completion], item: Sequence[Sequence[int]], user: Sequence[int]
    ) -> list[float | None]:
        """Reads the memory and leaves it as it is."""
        scores: list[float | None] = []
        for completion, tags, who in zip(completions, item, user, strict=True):
            kept = self._kept.get(tags[0], {})
            others = [text for other, text in kept.items() if other != who]
            told = words(completion_text(completion))
            alike = [rouge_l(told, other) for other in others]
            scores.append(1 - sum(alike) / len(alike) if len(alike) >= self.warmup else None)
        return scores

    def update(
        self, completions: Sequence[Completion], item: Sequence[Sequence[int]], user: Sequence[int]
    ) -> None:
        """Learn the texts of a training batch, of all ranks in order: the last one of each household."""
        for completion, tags, who in zip(completions, item, user, strict=True):
            kept = self._kept.setdefault(int(tags[0]), {})
            kept.pop(int(who), None)
            kept[int(who)] = words(completion_text(completion))
            while len(kept) > self.memory:
                del kept[next(iter(kept))]

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory, "kept": self._kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the memory of a checkpoint.

        Raises:
            ValueError: the memory is of another size.
        """
        if state["memory"] != self.memory:
            raise ValueError(
                f"item_diversity: the checkpoint has memory={state['memory']}, this run {self.memory}; set "
                f"params: {{memory: {state['memory']}}} to resume"
            )
        self._kept = {
            item: {user: list(text) for user, text in kept.items()} for item, kept in state["kept"].items()
        }


@reward("distinct_n", range=(0, 1))
def distinct_n(completions: Sequence[Completion], n: int = 2, max_words: int = 64) -> list[float]:
    """Distinct n-grams over n-grams of the first ``max_words`` words; 0 for a text of fewer than n words.

    Source: Li et al. 2016 (arXiv 1510.03055). A fixed budget, since the share falls with the length.

    Worst cases: n words without a repeat score 1, however short; pair it with ``text_length``. Words past the
    budget are not judged.

    Raises:
        ValueError: no text could hold an n-gram.
    """
    if not 1 <= n <= max_words:
        raise ValueError(f"n={n} must be at least 1 and at most max_words={max_words}")
    scores = []
    for completion in completions:
        text = words(completion_text(completion))[:max_words]
        grams = list(zip(*(text[i:] for i in range(n)), strict=False))
        scores.append(len(set(grams)) / len(grams) if grams else 0.0)
    return scores


@reward("text_length", range=(0, 1))
def text_length(
    completions: Sequence[Completion], full: Sequence[int] = (6, 11), half: Sequence[int] = (4, 13)
) -> list[float]:
    """How well the number of words fits: 1 in ``full``, 0.5 in ``half``, else 0; see `text.band`.

    The default bands are those of RecGPT-V2 (arXiv 2512.14503).
    """
    return [band(len(words(completion_text(completion))), full, half) for completion in completions]


@reward("banned_words", range=(0, 1), direction="lower")
class BannedWords:
    """1 if an explanation holds one of the words or phrases, else 0; for ``banned_words <= 0 (gate)``.

    Args:
        words: words and phrases, matched as whole words in any case and spelling of their characters.
    """

    def __init__(self, words: Collection[str]) -> None:
        self._phrases = sought("words", words if isinstance(words, str) else tuple(words))

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        return [float(self._phrases.any(words(completion_text(completion)))) for completion in completions]


@reward("attribute_leak", range=(0, 1), direction="lower")
class AttributeLeak:
    """1 if an explanation names a protected attribute of the household, else 0.

    Phrases about a person by age, sex, income, ethnicity, religion, health and so on are in
    ``lexicons/protected_attributes.yaml``; besides, an explanation must not hold a value of the household's
    own profile, if the data have a column ``protected``.

    Worst cases: a lexicon finds what it lists, so another wording passes: a floor for safety, not a proof. A
    value of one common word (``"2"``, ``"single"``) is a leak wherever the word stands.

    Args:
        lexicon: a file of the same form, instead of the shipped one.
    """

    def __init__(self, lexicon: str | None = None) -> None:
        path = Path(lexicon) if lexicon else resources.files(__package__) / "lexicons" / _LEXICON
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        attributes = content.get("attributes") if isinstance(content, dict) else None
        if not isinstance(attributes, dict) or not all(isinstance(p, list) for p in attributes.values()):
            raise ValueError(f"lexicon={path} must hold 'attributes: {{age: [a phrase, another], ...}}'")
        self._phrases = sought(f"phrases of lexicon={path}", (*chain.from_iterable(attributes.values()),))

    def __call__(
        self, completions: Sequence[Completion], protected: Sequence[Sequence[str] | None] | None = None
    ) -> list[float]:
        """
        Args:
            protected: values of each sample's household that no text may hold, such as ``["45-54"]``; None
                for a household without a profile.
        """
        texts = [words(completion_text(completion)) for completion in completions]
        named = [self._phrases.any(text) for text in texts]
        if protected is not None:
            own = [self._own(text, values) for text, values in zip(texts, protected, strict=True)]
            named = list(map(max, named, own))
        return list(map(float, named))

    def _own(self, text: Sequence[str], values: Sequence[str] | None) -> bool:
        if values is None or len(values) == 0:
            return False
        return sought("protected", values if isinstance(values, str) else tuple(values)).any(text)
