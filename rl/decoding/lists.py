"""Lists of exactly K different options, as a constraint on tokens, for any tokenizer."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from copy import copy
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...envs.task import Lines
from ...envs.text import normalise
from ..sampling import Constraint

_ROOT, _FULL = 0, -1


class Trie:
    """Token sequences of all options. Nodes are numbers; the root is 0.

    Attributes:
        children: Children of each node: token -> node.
        option: Option of each leaf.
        path: Edges of each option from the root to its leaf: ``(parent, token, node)``.
        below: Number of options at or below each node.
    """

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        self.children: list[dict[int, int]] = [{}]
        self.option: dict[int, int] = {}
        self.path: list[list[tuple[int, int, int]]] = []
        self.below: list[int] = [0]
        for option, tokens in enumerate(sequences):
            parent, path = _ROOT, []
            for token in tokens:
                if token not in self.children[parent]:
                    self.children[parent][token] = len(self.children)
                    self.children.append({})
                    self.below.append(0)
                node = self.children[parent][token]
                self.below[node] += 1
                path.append((parent, token, node))
                parent = node
            if parent in self.option:
                raise ValueError(
                    f"options {self.option[parent]} and {option} have the same tokens under this tokenizer; "
                    "rename one of them"
                )
            self.option[parent] = option
            self.path.append(path)


def line_tokens(tokenizer: PreTrainedTokenizerBase, form: Lines) -> list[list[int]]:
    """Tokens of each option as a line of an answer: its break ends it, so no line is a prefix of another.

    Raises:
        ValueError: an option that is not read back from the text that its tokens stand for.
    """
    coder: Any = tokenizer
    lines = coder([form.render([i]) for i in range(len(form.options))], add_special_tokens=False)
    found: list[list[int]] = lines["input_ids"]
    # Each is read twice in a row, so that a tokenizer that loses the line break is noticed.
    texts = coder.batch_decode([line + line for line in found], skip_special_tokens=True)
    for option, text in zip(form.options, texts, strict=True):
        if [normalise(line) for line in text.splitlines()] != [normalise(option)] * 2:
            raise ValueError(
                f"option {option!r} on two lines comes back from this tokenizer as {text!r}, which does not "
                "name it twice; leave line breaks and the tokenizer's special tokens out of it, or take "
                "another policy.model"
            )
    return found


def longest(lines: Sequence[Sequence[int]], count: int) -> int:
    """Number of tokens of an answer with the longest option on every line, its end included."""
    return count * max(map(len, lines)) + 1


class DistinctLines(Constraint):
    """Allows only tokens that go on with an option not named yet, and after the last line only the end.

    Args:
        vocabulary: Number of tokens that the model scores.

    Attributes:
        max_tokens: Number of tokens of the longest answer, its end included.

    Raises:
        ValueError: more lines than options, or two options with the same tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, form: Lines, vocabulary: int) -> None:
        if form.count > len(form.options):
            raise ValueError(
                f"{form.count} lines are more than the {len(form.options)} options; ask for fewer"
            )
        lines = line_tokens(tokenizer, form)
        self.max_tokens = longest(lines, form.count)
        self._count, self._vocabulary = form.count, vocabulary
        self._trie = Trie(lines)
        # Per node the tokens that go on from it; last, for a full list, the end.
        self._after = [torch.tensor([*children], dtype=torch.long) for children in self._trie.children]
        self._after.append(torch.tensor([tokenizer.eos_token_id]))
        self._place = {token: place for place, token in enumerate(self._trie.children[_ROOT])}
        self._rows: list[_Row] = []
        self._closed = np.zeros((0, 0), dtype=bool)
        self._bonuses: Tensor | None = None
        self._barred: Sequence[Collection[int]] = ()

    def another(self) -> "DistinctLines":
        """A constraint over the same options, with answers of its own."""
        _ = self._below  # computed once for all of them
        other = copy(self)
        other._rows, other._bonuses, other._barred = [], None, ()
        return other

    def bar(self, barred: Sequence[Collection[int]]) -> None:
        """Options that each of the answers that begin next may not name; where fewer are left than lines are
        asked for, the answer ends sooner."""
        self._barred = barred

    def price(self, bonuses: Tensor | None) -> None:
        """Favour options in the answers that begin next.

        Args:
            bonuses: ``[answers, options]``, what is added to an option's log-probability, in nats; None for
                nothing. An option of several tokens has all of it at the first token that tells it from
                others, as far as they have less.
        """
        self._bonuses = bonuses

    def begin(self, answers: int) -> None:
        self._rows = [_Row(answer, self._count) for answer in range(answers)]
        if self._bonuses is not None:
            # What is left to be named; a named option favours no token any more.
            self._left = self._bonuses.clone()
        # First tokens of lines behind which no option is left, ``[answers, first tokens]``: they are many
        # where few options are allowed.
        self._closed = np.zeros((answers, len(self._place)), dtype=bool)
        before, last = None, None
        for row, barred in zip(self._rows, self._barred or [()] * answers, strict=True):
            if last is not None and barred is before:  # copies of an answer stand next to each other
                self._begin_as(last, row, barred)
                continue
            for option in set(barred):
                self._use_up(row, option)
            row.lines = min(self._count, len(self._trie.path) - len(set(barred)))
            row.node = _ROOT if row.lines else _FULL
            before, last = barred, row

    def _begin_as(self, other: "_Row", row: "_Row", barred: Collection[int]) -> None:
        """Begin an answer that may name what another one may, which has just begun."""
        row.lines, row.node, row.taken = other.lines, other.node, other.taken.copy()
        for node, tokens in other.used_up.items():
            row.used_up[node] = tokens.copy()
        self._closed[row.answer] = self._closed[other.answer]
        if self._bonuses is not None:
            self._left[row.answer, [*barred]] = -torch.inf

    def bonus(self, answers: Sequence[int]) -> Tensor | None:
        if self._bonuses is None:
            return None
        found = torch.zeros(len(answers), self._vocabulary)
        at: dict[int, list[int]] = defaultdict(list)
        for place, answer in enumerate(answers):
            at[self._rows[answer].node].append(place)
        for node, places in at.items():
            if len(self._after[node]) == 1:  # nothing to choose
                continue
            options, child = self._below[node]
            left = self._left[torch.tensor([answers[place] for place in places])][:, options]
            best = left.new_full((len(places), len(self._after[node])), -torch.inf)
            best.scatter_reduce_(1, child.expand(len(places), -1), left, "amax")
            found[torch.tensor(places)[:, None], self._after[node]] = best
        return found

    @cached_property
    def _below(self) -> list[tuple[Tensor, Tensor]]:
        """Options below each node, and for each the place of the child that leads to it."""
        children = [{child: i for i, child in enumerate(row.values())} for row in self._trie.children]
        below: list[list[tuple[int, int]]] = [[] for _ in children]
        for option, path in enumerate(self._trie.path):
            for parent, _, child in path:
                below[parent].append((option, children[parent][child]))
        return [tuple(torch.tensor(found, dtype=torch.long).view(-1, 2).T) for found in below]

    def allowed(self, answers: Sequence[int], last: Sequence[int] | None) -> Tensor:
        rows = [self._rows[answer] for answer in answers]
        if last is not None:
            for row, token in zip(rows, last, strict=True):
                self._advance(row, token)
        mask = torch.zeros(len(rows), self._vocabulary, dtype=torch.bool)
        beginning = [i for i, row in enumerate(rows) if row.node == _ROOT]
        if beginning:
            open_ = torch.from_numpy(~self._closed[[rows[i].answer for i in beginning]])
            mask[torch.tensor(beginning)[:, None], self._after[_ROOT]] = open_
        for i, row in enumerate(rows):
            if row.node != _ROOT:
                mask[i, self._after[row.node]] = True
                if used_up := row.used_up.get(row.node):
                    mask[i, used_up] = False
        return mask

    def _advance(self, row: "_Row", token: int) -> None:
        if row.node == _FULL:  # a token behind the end; the answer stays ended
            return
        row.node = self._trie.children[row.node][token]
        option = self._trie.option.get(row.node)
        if option is None:
            return
        row.named += 1
        row.node = _ROOT if row.named < row.lines else _FULL
        self._use_up(row, option)

    def _use_up(self, row: "_Row", option: int) -> None:
        """The answer may not name an option any more."""
        if self._bonuses is not None:
            self._left[row.answer, option] = -torch.inf
        for parent, edge, node in self._trie.path[option]:
            row.taken[node] += 1
            if row.taken[node] < self._trie.below[node]:
                continue
            if parent == _ROOT:
                self._closed[row.answer, self._place[edge]] = True
            else:
                row.used_up[parent].append(edge)


class _Row:
    """State of one answer."""

    def __init__(self, answer: int, lines: int) -> None:
        self.answer, self.lines = answer, lines
        self.named = 0
        self.node = _ROOT
        self.taken: dict[int, int] = defaultdict(int)  # node -> options at or below it that are used up
        # Node but the root -> tokens behind which no option is left.
        self.used_up: dict[int, list[int]] = defaultdict(list)
