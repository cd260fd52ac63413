"""Where the ranks find each other: a store that all of them share, and nobody before them.

torchrun keeps one store for all attempts of a run (`--max-restarts`), with what the ranks before have left in it, and
who reads the address of one that has died has lost the attempt. The number of the attempt is no way out: machines count
for themselves. So rank 0 draws a name, and hands it to every rank that greets it now.
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from nano_gpt.errors import NanoGPTError

_INTERVAL = 0.05  # seconds between two looks


class LostRankError(NanoGPTError):
    """A rank is gone or does not come, and the others cannot go on without it."""


def common_store(rank: int, world_size: int, timeout: float) -> Store:
    """torchrun's, or one that rank 0 keeps at MASTER_ADDR. Returns when all ranks are there.

    Raises LostRankError if they are not after `timeout` seconds.
    """
    until = time.monotonic() + timeout
    try:
        store: Store = next(rendezvous("env://", timeout=timedelta(seconds=timeout)))[0]
        name = _gather(store, world_size, until) if rank == 0 else _greet(store, rank, until)
    except RuntimeError as error:
        late = LostRankError(
            f"not all of {world_size} ranks came within {timeout:g} s: {str(error).splitlines()[0]}",
            "the same MASTER_ADDR and MASTER_PORT, or --rdzv-endpoint, on all machines?",
        )
        late.on_all_ranks = rank != 0
        raise late from error
    return PrefixStore(name, store)


def _gather(store: Store, world_size: int, until: float) -> str:
    """Rank 0: answer greetings, those of the past as well, until all ranks are known to have been answered."""
    name = uuid.uuid4().hex
    waited_for = list(range(1, world_size))
    while waited_for := [rank for rank in waited_for if not store.check([f"{name}/{rank}"])]:
        for rank in waited_for:
            if store.check([f"greeting/{rank}"]):
                store.set(f"answer/{store.get(f'greeting/{rank}').decode()}", name)
        _pause(until, "no word from rank " + ", ".join(map(str, waited_for)))
    store.set(f"{name}/all", "here")
    return name


def _greet(store: Store, rank: int, until: float) -> str:
    """The other ranks: be heard by rank 0, and wait until it has heard all."""
    greeting = uuid.uuid4().hex
    store.set(f"greeting/{rank}", greeting)
    name = _told(store, f"answer/{greeting}", until)
    store.set(f"{name}/{rank}", "here")
    _told(store, f"{name}/all", until)
    return name


def _told(store: Store, key: str, until: float) -> str:
    while not store.check([key]):
        _pause(until, "no word from rank 0")
    return store.get(key).decode()


def _pause(until: float, lacking: str) -> None:
    if time.monotonic() > until:
        raise RuntimeError(lacking)
    time.sleep(_INTERVAL)
