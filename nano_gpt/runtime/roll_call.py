"""Which rank was lost, when a collective fails or never ends: its own error names a socket, or nothing at all.

A thread of every rank writes a sign of life into the store through which the ranks have found each other; under
torchrun that is part of torchrun itself, and outlasts any rank. Whoever loses contact says so there, and reads who else
has, who stopped and why, and who is silent. A main thread that waits inside CUDA cannot be told anything: where a rank
has been silent for the whole timeout, the thread ends the process.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self

from torch.distributed import DistError
from torch.distributed.distributed_c10d import PrefixStore, Store

from nano_gpt.runtime.logs import logger
from nano_gpt.runtime.rendezvous import LostRankError

_INTERVAL = 1.0  # seconds between two signs of life
_PATIENCE = 5.0  # seconds within which a rank that lives gives a sign, on a busy machine too
_DONE, _LOST_CONTACT = "done", "lost contact"


@dataclass(frozen=True)
class _Sign:
    """What a rank tells of itself; as long as it lives, `beat` goes up."""

    beat: int
    host: str
    pid: int
    ended: str | None
    """Why it takes part no more."""


class RollCall:
    """A context manager around all that the ranks do together. Raises LostRankError in place of network errors."""

    def __init__(self, store: Store, rank: int, world_size: int, timeout: float) -> None:
        # A connection of its own: what the main thread waits for must not hold up the signs.
        self._store = PrefixStore("roll_call", store.clone())  # type: ignore[attr-defined]
        self._rank, self._world_size, self._timeout = rank, world_size, timeout
        self._beat = 0
        self._ended: str | None = None
        self._signs: dict[int, _Sign] = {}
        self._heard = dict.fromkeys(range(world_size), time.monotonic())
        """When each rank's sign last changed."""
        self._lock = threading.Lock()
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="roll call", daemon=True)

    def __enter__(self) -> Self:
        self._call()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, RuntimeError) and _is_of_the_network(error):
            with _sigterm_put_off() as asked:
                self._leave()
                lost = self._explain(error)
            if asked and lost.on_all_ranks:
                signal.raise_signal(signal.SIGTERM)  # another rank tells it
            raise lost from error
        self._leave()
        self._ended = _DONE if error is None else f"{type(error).__name__}: {_first_line(error)}"
        try:
            self._call()
        except RuntimeError:
            logger.debug("the store is gone before this rank could say that it has ended")

    def _leave(self) -> None:
        self._leaving.set()
        self._thread.join(_PATIENCE)

    def _watch(self) -> None:
        while not self._leaving.wait(_INTERVAL):
            try:
                self._call()
            except RuntimeError:  # the store is gone; collectives may still end by themselves
                if not self._leaving.wait(self._timeout):
                    self._give_up(self._without_store())
                return
            if silent := self._silent(self._timeout):
                self._give_up(self._lost(silent))

    def _call(self) -> None:
        """Give a sign, and read those of all ranks that have ever given one. Raises RuntimeError without a store."""
        with self._lock:
            self._beat += 1
            own = _Sign(self._beat, socket.gethostname(), os.getpid(), self._ended)
            self._store.set(str(self._rank), json.dumps(asdict(own)))
            unknown = [rank for rank in range(self._world_size) if rank not in self._signs]
            known = [*self._signs, *(rank for rank in unknown if self._store.check([str(rank)]))]
            for rank, text in zip(known, self._store.multi_get([str(rank) for rank in known]), strict=True):
                sign = _Sign(**json.loads(text))
                if sign != self._signs.get(rank):
                    self._signs[rank], self._heard[rank] = sign, time.monotonic()

    def _silent(self, seconds: float) -> list[int]:
        """Ranks without a sign for so long, that had not ended before."""
        now = time.monotonic()
        gone_quiet = [rank for rank, heard in self._heard.items() if now - heard > seconds]
        return [rank for rank in gone_quiet if rank not in self._signs or self._signs[rank].ended is None]

    def _explain(self, error: RuntimeError) -> LostRankError:
        """What was behind it. Those who do not know yet are given the time to notice as well."""
        self._ended = _LOST_CONTACT
        until = time.monotonic() + _PATIENCE + _INTERVAL
        while time.monotonic() < until and not self._all_have_ended():
            try:
                self._call()
            except RuntimeError:
                return self._without_store()
            if silent := self._silent(_PATIENCE):
                return self._lost(silent)
            time.sleep(_INTERVAL / 4)
        for rank, sign in self._signs.items():
            if sign.ended not in (None, _DONE, _LOST_CONTACT):
                return self._told_by_one(LostRankError(f"{self._name(rank)} stopped: {sign.ended}"), but_not=[rank])
        if late := [rank for rank, sign in self._signs.items() if sign.ended is None]:
            names = ", ".join(map(self._name, sorted(late)))
            message = f"{names} did not come to where the others waited for up to {self._timeout:g} s"
            hint = "what it does instead: py-spy dump --pid; if it only is slow: --set training.rank_timeout=SECONDS"
            return self._told_by_one(LostRankError(message, hint), but_not=late)
        return self._told_by_one(LostRankError(f"the ranks lost each other: {_first_line(error)}"), but_not=[])

    def _all_have_ended(self) -> bool:
        return len(self._signs) == self._world_size and all(sign.ended for sign in self._signs.values())

    def _lost(self, silent: list[int]) -> LostRankError:
        names = ", ".join(map(self._name, silent))
        seconds = time.monotonic() - max(self._heard[rank] for rank in silent)
        verb = "is" if len(silent) == 1 else "are"
        message = f"{names} {verb} gone, or frozen: no sign of life for {seconds:.0f} s"
        hint = "killed for want of memory, or is its machine down? --resume goes on from the last checkpoint"
        return self._told_by_one(LostRankError(message, hint), but_not=silent)

    def _without_store(self) -> LostRankError:
        message = "torchrun, or the machine of rank 0, is gone: the ranks have lost each other"
        return self._told_by_one(LostRankError(message, "--resume goes on from the last checkpoint"), but_not=[])

    def _told_by_one(self, error: LostRankError, but_not: list[int]) -> LostRankError:
        """All that are left have the same to say; the first one of them says it."""
        error.on_all_ranks = self._rank != min(rank for rank in range(self._world_size) if rank not in but_not)
        return error

    def _name(self, rank: int) -> str:
        sign = self._signs.get(rank)
        return f"rank {rank}" + (f" (process {sign.pid} on {sign.host})" if sign else "")

    def _give_up(self, error: LostRankError) -> None:
        if self._leaving.is_set():
            return
        if error.on_all_ranks:
            time.sleep(_PATIENCE)  # the first one speaks before torchrun ends them all
        else:
            logger.error(f"error: {error}")
        os._exit(1)


@contextmanager
def _sigterm_put_off() -> Iterator[list[int]]:
    """torchrun ends all ranks as soon as one has died, before anybody could say which."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    previous = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, previous)


def _is_of_the_network(error: RuntimeError) -> bool:
    """From a collective or the store; gloo has no class of its own for it."""
    return isinstance(error, DistError) or "gloo" in str(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
