"""Derived seeds are part of a run's identity: they must not change with a version, a machine or an order."""

from __future__ import annotations

import pytest
import torch

from nano_gpt.runtime.seeding import derive_seed, generator


@pytest.mark.parametrize(
    ("keys", "seed"),
    [  # blake2b of "1337/dropout/3/0" and so on, first 8 bytes as little-endian, without the lowest bit
        ((1337,), 8992403640872731004),
        ((1337, "dropout", 3, 0), 3309600795693903656),
        ((42, "shuffle", 0), 2397973554261149497),
    ],
)
def test_golden_values(keys: tuple[int | str, ...], seed: int) -> None:
    assert derive_seed(*keys) == seed  # type: ignore[arg-type]


def test_different_purposes_get_different_seeds() -> None:
    seeds = {derive_seed(seed, purpose, step) for seed in range(5) for purpose in "ab" for step in range(200)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_what_is_drawn_elsewhere_changes_nothing() -> None:
    first = torch.randn(4, generator=generator(1, "a"))
    torch.randn(100)
    torch.randn(100, generator=generator(1, "b"))
    assert torch.equal(first, torch.randn(4, generator=generator(1, "a")))
    assert not torch.equal(first, torch.randn(4, generator=generator(2, "a")))
