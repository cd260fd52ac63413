"""Windows that slide over a long text, so that every token is scored once, and few of them out of the blue.

    context 4, stride 2    reads 0 1 2 3   scores 1 2 3 4
                           reads 2 3 4 5   scores     5 6
                           reads 4 5 6 7   scores     7 8

From the second window on, a token has at least `context - stride` tokens before it. A stride of the context is the
cheapest and what training measures; half of it takes twice as long and gives a lower loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch

from nano_gpt.data.loader import Batch
from nano_gpt.model.loss import IGNORED_TARGET

Read = Callable[[int, int], npt.NDArray[np.integer]]  # tokens from here up to there, or to the end


def count_windows(tokens: int, context: int, stride: int) -> int:
    """That score all of `tokens` but the first, which has nothing before it."""
    return 1 + max(0, -(-(tokens - 1 - context) // stride)) if tokens > 1 else 0


def sliding_batches(
    read: Read,
    windows: int,
    context: int,
    stride: int,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """The first `windows` windows in their order, each on one rank: targets that are scored elsewhere are left out."""
    assert 1 <= stride <= context
    mine = range(rank * windows // world_size, (rank + 1) * windows // world_size)
    for start in range(0, len(mine), batch_size):
        numbers = mine[start : start + batch_size]
        ids = np.zeros((len(numbers), context), np.int64)
        targets = np.full((len(numbers), context), IGNORED_TARGET, np.int64)
        for row, number in enumerate(numbers):
            tokens = read(number * stride, number * stride + context + 1)
            length, scored_before = len(tokens) - 1, context - stride if number else 0
            ids[row, :length] = tokens[:-1]
            targets[row, scored_before:length] = tokens[scored_before + 1 :]
        yield Batch(torch.from_numpy(ids), torch.from_numpy(targets))
