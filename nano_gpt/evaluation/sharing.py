"""Rows that begin alike, read as one: what they begin with once, then the rest of each, which sees what it continues.

    row 1   the cat | sat down           read as   the cat  sat down  ran off
    row 2   the cat | ran off            places    0   1    2   3     2   3
                                         ends      6   6    4   4     6   6

So the four endings of a HellaSwag item cost half of the tokens that four rows have. Whatever rows have in common is
shared, token by token: the first words of two endings, the first sentence of two contexts. An ending whose first token
has swallowed the end of the context just shares less.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Row:
    """`ids` are a context and its continuation, each of one id at least; the last `scored` are the continuation.

    The last id is predicted only, so it is not read.
    """

    ids: list[int]
    scored: int


@dataclass
class Tree:
    """Rows as they are read: every token behind the one that it continues, and what continues it behind it at once."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    """Their places in the text."""
    ends: list[int] = field(default_factory=list)
    """Of each, where what continues it ends: the place behind it, here."""
    predicting: list[int] = field(default_factory=list)
    """Places here whose next token is scored, row after row."""
    targets: list[int] = field(default_factory=list)
    """Those tokens."""
    rows: list[int] = field(default_factory=list)
    """Their numbers."""
    _path: list[int] = field(default_factory=list)
    """Places here of what is read of the last row."""

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, number: int, row: Row, shared: int) -> None:
        """`shared`: with how many of the ids that are read of the row before it begins."""
        self._path[shared:] = range(len(self), len(self) + len(row.ids) - 1 - shared)
        self.ids += row.ids[shared:-1]
        self.positions += range(shared, len(row.ids) - 1)
        self.ends += [0] * (len(self.ids) - len(self.ends))
        for place in self._path:
            self.ends[place] = len(self)
        self.predicting += self._path[-row.scored :]
        self.targets += row.ids[-row.scored :]
        self.rows.append(number)


def grow(rows: Iterable[Row], longest: int) -> Iterator[Tree]:
    """Rows in their order -> trees in theirs, of `longest` tokens at most, unless one row is longer.

    Neighbours join where a third of what they read is shared at least: with less than that, seeing so much that is not
    one's own can cost more than the tokens that are saved. Sorted by their ids, they share the most.
    """
    tree, before = Tree(), list[int]()
    for number, row in enumerate(rows):
        read = row.ids[:-1]
        shared = _common(before, read)
        if tree.rows and (3 * shared < max(len(before), len(read)) or len(tree) + len(read) - shared > longest):
            yield tree
            tree, shared = Tree(), 0
        tree.add(number, row, shared)
        before = read
    if tree.rows:
        yield tree


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
    ends: Tensor | None
    """(B, T): of each token, where what continues it ends; None where no token has more than one to continue it."""
    lengths: Tensor
    """(B,): tokens of a tree; the rest of its row is what fills it up."""
    predicting: Tensor
    """(P,) places in the flattened batch that predict scored tokens, in ascending order."""
    targets: Tensor
    """(N,) those tokens, row after row."""
    predicted_by: Tensor
    """(N,) which of the P predicts each."""


def lay_out(trees: Sequence[Tree]) -> TreeBatch:
    width = max(map(len, trees))
    branching = any(end < len(tree) for tree in trees for end in tree.ends)
    places = [number * width + place for number, tree in enumerate(trees) for place in tree.predicting]
    predicting, predicted_by = torch.unique(torch.tensor(places), return_inverse=True)
    return TreeBatch(
        ids=_filled((tree.ids for tree in trees), width, 0),
        positions=_filled((tree.positions for tree in trees), width, 0),
        ends=_filled((tree.ends for tree in trees), width, width) if branching else None,  # what fills up sees itself
        lengths=torch.tensor([len(tree) for tree in trees]),
        predicting=predicting,
        targets=torch.tensor([target for tree in trees for target in tree.targets]),
        predicted_by=predicted_by,
    )


def _filled(rows: Iterable[list[int]], width: int, value: int) -> Tensor:
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def batches(trees: Iterable[Tree], tokens: int) -> Iterator[list[Tree]]:
    """Trees, the longest first, in batches of at most so many tokens with what fills them up, or of one tree."""
    batch: list[Tree] = []
    for tree in trees:
        if batch and (len(batch) + 1) * len(batch[0]) > tokens:
            yield batch
            batch = []
        batch.append(tree)
    if batch:
        yield batch
