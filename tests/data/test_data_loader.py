"""Every target exactly once per epoch, in an order that knows neither ranks nor batches nor restarts."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_gpt.data.loader import Batch, TokenLoader, document_ids, evaluation_batches, permute
from nano_gpt.data.shards import TokenReader, write_shard
from nano_gpt.errors import DataError
from nano_gpt.model.loss import IGNORED_TARGET


class Counting(TokenReader):
    """Token i is i + 1, so that a target tells its place and 0 only comes from filling up."""

    def __init__(self, length: int) -> None:
        self._tokens = np.arange(1, length + 1, dtype=np.uint32)

    def __len__(self) -> int:
        return len(self._tokens)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._tokens[start:stop]


def targets_of(batches: list[Batch]) -> list[int]:
    for ids, targets in batches:
        assert ids.shape == targets.shape and ids.dtype == targets.dtype == torch.int64
        used = targets != IGNORED_TARGET
        assert torch.equal(ids[used], targets[used] - 1)  # each target follows its input
        assert (ids[~used] == 0).all()
    return [target for _, targets in batches for target in targets.flatten().tolist() if target != IGNORED_TARGET]


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    """tokens, sequence_length, world_size, micro_batch_size, accumulation"""
    return (
        draw(st.integers(2, 300)),
        draw(st.integers(1, 40)),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 3)),
    )


@settings(deadline=None)
@given(shapes(), st.integers(0, 2**31), st.booleans())
def test_every_target_exactly_once_per_epoch(shape: tuple[int, ...], seed: int, shuffle: bool) -> None:
    tokens, length, world, micro, accumulation = shape
    windows_per_step = world * micro * accumulation

    def loader(rank: int, world: int, micro: int) -> TokenLoader:
        return TokenLoader(
            Counting(tokens),
            sequence_length=length,
            windows_per_step=windows_per_step,
            micro_batch_size=micro,
            rank=rank,
            world_size=world,
            seed=seed,
            shuffle=shuffle,
        )

    ranks = [loader(rank, world, micro) for rank in range(world)]
    alone = loader(0, 1, windows_per_step)
    epochs = 2
    steps = -(-epochs * alone.num_windows // windows_per_step)
    in_order: list[int] = []
    for step in range(steps):
        shares = [list(rank.batches(step)) for rank in ranks]
        assert all(len(share) == accumulation for share in shares)
        union = targets_of([batch for share in shares for batch in share])
        assert union == targets_of(list(alone.batches(step)))  # whatever the topology
        assert len(union) == alone.num_targets(step) == ranks[-1].num_targets(step)
        in_order += alone.windows(step).tolist()
    W = alone.num_windows
    for epoch in range(epochs):
        assert sorted(in_order[epoch * W : (epoch + 1) * W]) == list(range(W))
    if steps * windows_per_step == epochs * W:
        everything = Counter(target for step in range(steps) for target in targets_of(list(alone.batches(step))))
        assert everything == dict.fromkeys(range(2, tokens + 1), epochs)


class Case(NamedTuple):
    tokens: int
    tokens_per_shard: int
    length: int
    world: int
    micro: int
    accumulation: int
    seed: int


cases = st.builds(
    Case,
    st.integers(2, 200),
    st.integers(8, 70),
    st.integers(1, 50),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 2**31),
)


@settings(deadline=None, max_examples=60)
@given(cases)
def test_every_token_but_the_first_is_a_target_exactly_once_per_epoch(case: Case) -> None:
    """From shards on disk, where token i is i + 1, so that a target tells its place. Documents do not matter to the
    loader: they begin anywhere in a window and span windows and shards.

    Over three epochs, step by step: each epoch has every target once and in an order of its own, what all ranks see
    together is what one rank alone sees, and asking for a step directly gives what going there gives.
    """
    tokens = case.tokens
    ids = np.arange(1, tokens + 1, dtype=np.uint32)
    windows_per_step = case.world * case.micro * case.accumulation
    with tempfile.TemporaryDirectory() as name:
        shards = [
            write_shard(
                Path(name) / f"train_{start:06d}.npy",
                "train",
                "uint16",
                len(part),
                0,
                [part[: case.length], part[case.length :]],
            )
            for start in range(0, tokens, case.tokens_per_shard)
            if len(part := ids[start : start + case.tokens_per_shard])
        ]
        reader = TokenReader(Path(name), shards, "uint16", tokens + 1, "")

        def loader(rank: int, world: int, micro: int, seed: int = case.seed) -> TokenLoader:
            return TokenLoader(
                reader,
                sequence_length=case.length,
                windows_per_step=windows_per_step,
                micro_batch_size=micro,
                rank=rank,
                world_size=world,
                seed=seed,
            )

        ranks = [loader(rank, case.world, case.micro) for rank in range(case.world)]
        alone = loader(0, 1, 1)
        epochs = 3
        steps = -(-epochs * alone.num_windows // windows_per_step)
        seen: list[list[int]] = []
        for step in range(steps):
            shares = [list(rank.batches(step)) for rank in ranks]
            assert all(batch.ids.shape == (case.micro, case.length) for share in shares for batch in share)
            rows = [row for share in shares for batch in share for row in zip(batch.ids, batch.targets, strict=True)]
            single = [row for batch in alone.batches(step) for row in zip(batch.ids, batch.targets, strict=True)]
            for (ids_, targets), (ids_alone, targets_alone) in zip(rows, single, strict=True):
                assert torch.equal(ids_, ids_alone) and torch.equal(targets, targets_alone)
                seen.append([target for target in targets.tolist() if target != IGNORED_TARGET])
        W = alone.num_windows
        orders = []
        for epoch in range(epochs):
            windows = seen[epoch * W : (epoch + 1) * W]
            assert Counter(token for window in windows for token in window) == dict.fromkeys(range(2, tokens + 1), 1)
            orders.append([window[0] for window in windows])
        if W >= 12:  # of so many, two epochs in the same order are a fault and no chance
            assert orders[0] != orders[1] != orders[2] != orders[0]
        again = loader(case.world - 1, case.world, case.micro)
        for step in (steps - 1, 0, steps // 2):
            assert targets_of(list(again.batches(step))) == targets_of(list(ranks[-1].batches(step)))


def by_hand(row: list[int], eot: int, eot_opens: bool) -> list[list[int]]:
    """The positions of each document of a row."""
    documents: list[list[int]] = [[]]
    for place, token in enumerate(row):
        if token == eot and eot_opens:
            documents.append([])
        documents[-1].append(place)
        if token == eot and not eot_opens:
            documents.append([])
    return [places for places in documents if places]


@given(st.lists(st.lists(st.integers(0, 3), min_size=12, max_size=12), min_size=1, max_size=4), st.booleans())
def test_document_ids_are_equal_within_a_document_only(rows: list[list[int]], eot_opens: bool) -> None:
    found = document_ids(torch.tensor(rows), 3, eot_opens=eot_opens)
    assert found.shape == (len(rows), 12) and found.dtype == torch.int64
    for row, numbers in zip(rows, found.tolist(), strict=True):
        grouped = [[place for place in range(12) if numbers[place] == number] for number in sorted(set(numbers))]
        assert grouped == by_hand(row, 3, eot_opens)


def test_the_mask_that_document_ids_are_for() -> None:
    ids = torch.tensor([[7, 9, 5, 9, 6]])  # 9 opens: 7 | 9 5 | 9 6; 9 closes: 7 9 | 5 9 | 6
    documents = document_ids(ids, 9)
    mask = (documents[:, :, None] == documents[:, None, :]).tril()
    assert mask.int().tolist() == [
        [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1]]
    ]
    documents = document_ids(ids, 9, eot_opens=False)
    mask = (documents[:, :, None] == documents[:, None, :]).tril()
    assert mask.int().tolist() == [
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
    ]


@given(st.integers(1, 3000), st.integers(0, 2**62))
def test_the_order_is_a_permutation_that_can_be_asked_anywhere(size: int, seed: int) -> None:
    whole = permute(np.arange(size), size, seed)
    assert sorted(whole.tolist()) == list(range(size))
    assert permute(np.arange(size)[size // 2 :], size, seed).tolist() == whole[size // 2 :].tolist()


def test_the_order_looks_random_and_differs_by_epoch_and_seed() -> None:
    size = 5000
    orders = [permute(np.arange(size), size, seed) for seed in range(20)]
    for order in orders:
        assert abs(np.corrcoef(np.arange(size), order)[0, 1]) < 0.05
        assert (np.diff(order) == 1).mean() < 0.01  # neighbours do not stay together
    assert np.mean(orders[0] == orders[1]) < 0.01
    small = Counter(tuple(permute(np.arange(3), 3, seed).tolist()) for seed in range(600))
    assert len(small) == 6 and min(small.values()) > 50  # all orders of three, about equally often
    loader = TokenLoader(Counting(1001), sequence_length=10, windows_per_step=100, micro_batch_size=10, seed=1)
    assert loader.windows(0).tolist() != loader.windows(1).tolist()  # two epochs


def test_the_order_never_changes_between_versions() -> None:
    loader = TokenLoader(Counting(1001), sequence_length=10, windows_per_step=8, micro_batch_size=8, seed=1337)
    assert loader.windows(0).tolist() == GOLDEN


def test_far_away_steps_cost_no_more() -> None:
    loader = TokenLoader(Counting(1001), sequence_length=10, windows_per_step=8, micro_batch_size=8)
    assert loader.windows(10**12).shape == (8,)


def test_without_shuffle_the_order_is_that_of_the_file() -> None:
    loader = TokenLoader(Counting(9), sequence_length=3, windows_per_step=4, micro_batch_size=4, shuffle=False)
    assert targets_of(list(loader.batches(0))) == [2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4]
    assert loader.num_targets(0) == 11


@settings(deadline=None)
@given(shapes(), st.none() | st.integers(1, 30))
def test_evaluation_reads_each_window_once_over_the_ranks(shape: tuple[int, ...], limit: int | None) -> None:
    tokens, length, world, batch_size, _ = shape
    shares = [
        list(evaluation_batches(Counting(tokens), length, batch_size, rank, world, limit)) for rank in range(world)
    ]
    found = targets_of([batch for share in shares for batch in share])
    assert found == list(range(2, tokens + 1))[: None if limit is None else limit * length]
    assert all(1 <= len(batch.ids) <= batch_size for share in shares for batch in share)


def test_a_split_without_a_target_is_an_error() -> None:
    with pytest.raises(DataError, match="holds 1 tokens"):
        TokenLoader(Counting(1), sequence_length=8, windows_per_step=1, micro_batch_size=1)


GOLDEN = [10, 64, 79, 55, 70, 91, 8, 0]  # windows 0 to 7 of 100, seed 1337, written down on 2026-11-21
