"""Rows that begin alike, read as one: the beginning once, then the rest of each, which sees it and itself.

    row 1   the cat | sat down           read as   the cat  sat down  ran off
    row 2   the cat | ran off            places    0   1    2   3     2   3

So the four endings of a HellaSwag item cost half of the tokens that four rows have. Whatever the rows have in common is
shared, token by token: an ending whose first token has swallowed the end of the context just shares less.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Row:
    """`ids` are a context and its continuation, each of one id at least; the last `scored` are the continuation."""

    ids: list[int]
    scored: int


@dataclass(frozen=True)
class Tree:
    """Rows whose first `shared` ids are the same. The last id of a row is predicted only, so it is not read."""

    rows: tuple[Row, ...]
    shared: int

    @property
    def length(self) -> int:
        """Tokens to read."""
        return self.shared + sum(len(row.ids) - 1 - self.shared for row in self.rows)


def grow(rows: Sequence[Row]) -> Iterator[Tree]:
    """Rows in their order -> trees in theirs. Neighbours join where a third of what they read is shared at least.

    With less than that, seeing so much that is not one's own can cost more than the tokens that are saved.
    """
    joined: list[Row] = []
    shared = longest = 0
    for row in rows:
        length = len(row.ids) - 1
        common = _common(joined[0].ids[:shared], row.ids[:-1]) if joined else 0
        if joined and 3 * common >= max(longest, length):
            shared, longest = common, max(longest, length)
        else:
            if joined:
                yield Tree(tuple(joined), shared)
            joined, shared, longest = [], length, length
        joined.append(row)
    if joined:
        yield Tree(tuple(joined), shared)


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids they have in common at their beginning."""
    pairs = zip(first, second, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


@dataclass(frozen=True)
class TreeBatch:
    """Trees side by side, filled up on the right, where nobody looks."""

    ids: Tensor
    """(B, T)"""
    positions: Tensor
    """(B, T): places in the text."""
    branches: Tensor | None
    """(B, T): 0 for what all rows of a tree share, then 1, 2, ...; None where no tree has two rows."""
    lengths: Tensor
    """(B,): tokens of a tree; the rest of its row is what fills it up."""
    predicting: Tensor
    """(N,) places in the flattened batch whose next token is scored, row after row."""
    targets: Tensor
    """(N,) those tokens."""


def lay_out(trees: Sequence[Tree]) -> TreeBatch:
    width = max(tree.length for tree in trees)
    ids, positions, branches, predicting, targets = [], [], [], [], []
    for number, tree in enumerate(trees):
        read, places = tree.rows[0].ids[: tree.shared], list(range(tree.shared))
        branch_of = [0] * tree.shared
        for branch, row in enumerate(tree.rows, start=1):
            start, length = len(read), len(row.ids) - 1
            read += row.ids[tree.shared : -1]
            places += range(tree.shared, length)
            branch_of += [branch] * (length - tree.shared)
            for place in range(length - row.scored, length):
                predicting.append(number * width + (place if place < tree.shared else start + place - tree.shared))
            targets += row.ids[-row.scored :]
        empty = [0] * (width - len(read))
        ids.append(read + empty)
        positions.append(places + empty)
        branches.append(branch_of + empty)
    branching = any(len(tree.rows) > 1 for tree in trees)
    return TreeBatch(
        torch.tensor(ids),
        torch.tensor(positions),
        torch.tensor(branches) if branching else None,
        torch.tensor([tree.length for tree in trees]),
        torch.tensor(predicting),
        torch.tensor(targets),
    )


def batches(trees: Iterable[Tree], tokens: int) -> Iterator[list[Tree]]:
    """Trees, the longest first, in batches of at most so many tokens with what fills them up, or of one tree."""
    batch: list[Tree] = []
    for tree in trees:
        if batch and (len(batch) + 1) * batch[0].length > tokens:
            yield batch
            batch = []
        batch.append(tree)
    if batch:
        yield batch
