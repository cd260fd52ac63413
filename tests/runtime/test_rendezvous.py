"""All ranks of an attempt share a store, and see nothing of the attempts before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore

from nano_gpt.runtime import rendezvous
from nano_gpt.runtime.rendezvous import LostRankError, common_store


def attempt(ranks: list[int], timeout: float = 30.0) -> list[object]:
    def join(rank: int) -> object:
        try:
            return common_store(rank, 3, timeout)
        except LostRankError as error:
            return error

    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(join, ranks))


@pytest.fixture(autouse=True)
def torchruns_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for all attempts."""
    store = HashStore()
    monkeypatch.setattr(rendezvous, "rendezvous", lambda url, timeout: iter([(store, None, None)]))


def test_an_attempt_after_another_begins_with_an_empty_store() -> None:
    """The address of a rank that had died was still there, and whoever read it lost the attempt."""
    first = attempt([0, 1, 2])
    first[1].set("address", "of one that will die")
    assert [store.get("address") for store in first] == [b"of one that will die"] * 3
    second = attempt([2, 1, 0])
    second[0].set("written by", "2")
    assert [store.get("written by") for store in second] == [b"2"] * 3
    assert not any(store.check(["address"]) for store in second)


@pytest.mark.parametrize(("there", "missing"), [([0, 2], "rank 1"), ([0], "rank 1, 2"), ([1, 2], "rank 0")])
def test_who_does_not_come_is_named(there: list[int], missing: str) -> None:
    attempt([0, 1, 2])
    for rank, error in zip(there, attempt(there, timeout=0.5), strict=True):
        assert isinstance(error, LostRankError)
        assert error.message.startswith("not all of 3 ranks came within 0.5 s: no word from ")
        assert error.on_all_ranks == (rank != 0)
        if rank == min(there):
            assert error.message.endswith(f"no word from {missing}")
