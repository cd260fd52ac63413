"""From tokens to batches: which tokens step s sees is a pure function of (data, seed, s).

A split of N tokens is cut into W = ceil((N - 1) / T) windows; window i has the inputs `tokens[iT : iT + T]` and the
same shifted by one as targets, so every token but the first is a target exactly once per epoch. Sample number n of
the run is window `order(n // W)[n % W]`: a permutation per epoch that is computed where it is needed and not stored.
So a loader has no state of its own: the step is its `state_dict`, going on at any step costs the same as at the
next, and neither ranks nor micro-batches change what a step sees.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nano_gpt.data.shards import TokenReader
from nano_gpt.errors import DataError
from nano_gpt.model.loss import IGNORED_TARGET
from nano_gpt.runtime.seeding import derive_seed

Indices = npt.NDArray[np.int64]

# Samples whose windows are computed at once, at most: a numpy call for 8 of them takes about as long as for 1,000.
_BLOCK_SAMPLES = 4096


class Batch(NamedTuple):
    ids: Tensor
    """(B, T) int64"""
    targets: Tensor
    """(B, T) int64; IGNORED_TARGET where a short window was filled up."""


class TokenLoader:
    """Batches of one rank. Stateless: any step can be asked for at any time, at the same cost.

    `windows_per_step` counts the windows of all ranks, which they share out evenly: `training.plan` sees to that. Where
    it changes on the way, `windows_before` tells for every step how many windows came before it.
    Raises DataError for a split without a single target.
    """

    def __init__(
        self,
        reader: TokenReader,
        *,
        sequence_length: int,
        windows_per_step: int,
        micro_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        windows_before: Callable[[int], int] | None = None,
    ) -> None:
        assert windows_per_step % (micro_batch_size * world_size) == 0, (windows_per_step, micro_batch_size, world_size)
        self.num_windows = count_windows(reader, sequence_length)
        self.windows_before = windows_before or (lambda step: step * windows_per_step)
        self._reader = reader
        self._sequence_length = sequence_length
        self._micro_batch_size = micro_batch_size
        self._rank = rank
        self._world_size = world_size
        self._seed = seed
        self._shuffle = shuffle
        self._block = functools.lru_cache(maxsize=2)(self._samples_of_block)

    def with_micro_batch_size(self, rows: int) -> TokenLoader:
        """The same batches in other pieces."""
        other = copy.copy(self)
        other._micro_batch_size = rows
        return other

    def batches(self, step: int) -> Iterator[Batch]:
        """This rank's micro-batches of `step`: the rank-th part of the step's windows, in order."""
        windows = self.windows(step)
        share = len(windows) // self._world_size
        mine = windows[self._rank * share : (self._rank + 1) * share]
        rows = math.gcd(share, self._micro_batch_size)  # a step that is smaller than others may not divide as they do
        for start in range(0, share, rows):
            yield read_batch(self._reader, mine[start : start + rows], self._sequence_length)

    def num_tokens(self, step: int) -> int:
        """What the step is said to train on: whole windows, over all ranks."""
        return (self.windows_before(step + 1) - self.windows_before(step)) * self._sequence_length

    def num_targets(self, step: int) -> int:
        """Targets of the whole step, over all ranks."""
        missing = self.num_windows * self._sequence_length - (len(self._reader) - 1)  # all in the last window
        short = int(np.count_nonzero(self.windows(step) == self.num_windows - 1))
        return self.num_tokens(step) - short * missing

    def windows(self, step: int) -> Indices:
        """Window numbers, over all ranks. A step may reach into further epochs."""
        start, stop = self.windows_before(step), self.windows_before(step + 1)
        size = min(_BLOCK_SAMPLES, self.num_windows)  # so that a block is of two epochs at most
        first = start // size
        blocks = [self._block(block, size) for block in range(first, (stop - 1) // size + 1)]
        return np.concatenate(blocks)[start - first * size : stop - first * size]

    def _samples_of_block(self, block: int, size: int) -> Indices:
        """The windows of samples block * size and following."""
        samples = np.arange(block * size, (block + 1) * size, dtype=np.int64)
        epochs, places = np.divmod(samples, self.num_windows)
        if not self._shuffle:
            return places
        order = [
            permute(places[epochs == epoch], self.num_windows, derive_seed(self._seed, "order", int(epoch)))
            for epoch in np.unique(epochs)
        ]
        return np.concatenate(order)


def document_ids(ids: Tensor, eot_id: int, *, eot_opens: bool = True) -> Tensor:
    """Which document of its row each position belongs to: (B, T) ids -> (B, T) int64, on the device of `ids`.

    Positions of a row are of one document where their numbers are equal; the numbers grow along the row and mean
    nothing else. `<|endoftext|>` (`eot_id`) belongs to the document behind it, which it opens; with `eot_opens=False`
    to the one before it (see `Manifest.eot_opens`). What fills up a short window counts as its last document.

    To keep attention within documents, add to the causal mask that the documents are equal:

        documents = document_ids(batch.ids, manifest.eot_id, eot_opens=manifest.eot_opens)
        mask = (documents[:, :, None] == documents[:, None, :]).tril()     # (B, T, T), True: may look
    """
    marks = ids == eot_id
    opened = marks.cumsum(1)
    return opened if eot_opens else opened - marks.long()


def evaluation_batches(
    reader: TokenReader,
    sequence_length: int,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    max_windows: int | None = None,
) -> Iterator[Batch]:
    """The first `max_windows` windows (None: all) in file order, each on one rank. Ranks may get unequal numbers."""
    total = count_windows(reader, sequence_length)
    total = total if max_windows is None else min(total, max_windows)
    mine = np.arange(rank * total // world_size, (rank + 1) * total // world_size, dtype=np.int64)
    for start in range(0, len(mine), batch_size):
        yield read_batch(reader, mine[start : start + batch_size], sequence_length)


def count_windows(reader: TokenReader, sequence_length: int) -> int:
    if len(reader) < 2:
        raise DataError(f"the split holds {len(reader)} tokens: a window needs one to read and one to predict")
    return -(-(len(reader) - 1) // sequence_length)


def read_batch(reader: TokenReader, windows: Indices, sequence_length: int) -> Batch:
    """Windows -> (B, T) inputs and targets."""
    T = sequence_length
    ids = np.zeros((len(windows), T), np.int64)
    targets = np.full((len(windows), T), IGNORED_TARGET, np.int64)
    for row, window in enumerate(windows.tolist()):
        tokens = reader.read(window * T, window * T + T + 1)
        length = len(tokens) - 1
        ids[row, :length] = tokens[:-1]
        targets[row, :length] = tokens[1:]
    return Batch(torch.from_numpy(ids), torch.from_numpy(targets))


_ROUNDS = 6
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # splitmix64, Steele et al. 2014


def permute(places: Indices, size: int, seed: int) -> Indices:
    """Where a seeded permutation of 0 .. size - 1 sends `places`; no memory, the same cost for every place.

    A Feistel network permutes the next power of 4; what lands outside is sent through again until it lands inside
    ("cycle walking": Black & Rogaway, Ciphers with Arbitrary Finite Domains, 2002). At most 4 passes on average.
    """
    half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    keys = [np.uint64(derive_seed(seed, round_)) for round_ in range(_ROUNDS)]
    values = _feistel(places.astype(np.uint64), half, keys)
    while (outside := values >= np.uint64(size)).any():
        values[outside] = _feistel(values[outside], half, keys)
    return values.astype(np.int64)


def _feistel(values: npt.NDArray[np.uint64], half: np.uint64, keys: list[np.uint64]) -> npt.NDArray[np.uint64]:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half) | right


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """splitmix64's finaliser: every input bit reaches every output bit. Wraps at 64 bits, as it should."""
    x = (x ^ (x >> np.uint64(30))) * _MULTIPLIERS[0]
    x = (x ^ (x >> np.uint64(27))) * _MULTIPLIERS[1]
    return x ^ (x >> np.uint64(31))
