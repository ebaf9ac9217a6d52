"""Credit per tag: which tag of an answer a token belongs to.

A token that is written after ``p`` tags are complete stands at position ``p``: it can no longer change them,
and decides about tag ``p + 1`` or, after the last one, about ending the answer. ``advantages`` gives each
position an advantage of its own; this module finds positions and spreads advantages over tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def tag_positions(pieces: Sequence[str]) -> list[int]:
    """Position of each token of an answer.

    Args:
        pieces: Text that each token decodes to; none for special tokens.

    Returns:
        Number of non-empty lines that were complete before the token, as the parser of lists counts them.
        A token that ends one line and begins the next belongs to the first of them, which is safe: its
        advantage then merely takes off less.
    """
    positions, complete, line = [], 0, ""
    for piece in pieces:
        positions.append(complete)
        line += piece
        ended = line.splitlines(keepends=True)
        line = ended.pop() if ended and ended[-1].splitlines()[0] == ended[-1] else ""
        # Fragments of a character decode to U+FFFD; joined, they may be a space.
        complete += sum(bool(text.replace("\ufffd", "").strip()) for text in ended)
    return positions


def count_tokens(positions: Sequence[Sequence[int]], lengths: int) -> Tensor:
    """Number of tokens at each position, ``[sample, lengths]`` float32; see
    :class:`recrl.rl.optimizer.advantages.AdvantageBatch`."""
    counts = torch.zeros(len(positions), lengths)
    for row, found in zip(counts, positions, strict=True):
        row += torch.bincount(torch.tensor(found, dtype=torch.long), minlength=lengths)
    return counts


def spread(advantages: Tensor, positions: Sequence[Sequence[int]], width: int) -> Tensor:
    """Advantage of each token: ``[sample, position]`` -> ``[sample, width]``, 0 past an answer's end."""
    tokens = advantages.new_zeros(len(positions), width)
    for row, values, found in zip(tokens, advantages, positions, strict=True):
        row[: len(found)] = values[torch.tensor(found, dtype=torch.long, device=values.device)]
    return tokens
