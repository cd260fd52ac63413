"""The parts of a source in several processes at once. What each of them does is in `tokenizing.py`."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_gpt.config.data import DataConfig
from nano_gpt.data.catalog import dataset_info
from nano_gpt.data.manifest import PreparedSet
from nano_gpt.data.preparing.tokenizing import tokenise_part
from nano_gpt.data.preparing.unfinished import PartRecord, Plan, Unfinished
from nano_gpt.data.sources.base import Source
from nano_gpt.errors import DataError
from nano_gpt.registry import load
from nano_gpt.tokenizer import Tokenizer

POLL_SECONDS = 0.2
SMALL_BYTES = 4_000_000  # of text: it is done before other processes have started
Totals = tuple[int, int, int]  # documents, tokens, bytes


@dataclass(frozen=True)
class Work:
    """What every process needs to know."""

    config: DataConfig
    folder: Path
    plan: Plan

    def source(self) -> Source:
        return make_source(self.config, self.plan.manifest.revision)

    def tokenizer(self) -> Tokenizer:
        """Raises DataError where it is not the one that was planned."""
        return PreparedSet(self.folder, self.plan.manifest).tokenizer()


def make_source(config: DataConfig, revision: str | None = None) -> Source:
    """The source of `config`, at `revision` where it can choose."""
    info = dataset_info(config)
    source: Source = load(info.source)(info, config, revision)
    return source


def usable_cores() -> int:
    """Cores that this process may run on, where the system says it: its share of them, where torchrun has started
    several here."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def tokenise_parts(
    work: Work,
    parts: Iterable[int],
    num_procs: int,
    *,
    wanted: Callable[[int], bool],
    stopping: Callable[[], bool],
    show: Callable[[Totals], None],
) -> None:
    """Have every one of `parts` tokenised, in order, `num_procs` at a time.

    A part that is not `wanted(part)` when its turn comes is left out. `show` is told what this call has done, now and
    then; as soon as `stopping()` is true the parts that are under way save what they have. Raises what a part raises,
    and DataError when a process dies.
    """
    todo = [part for part in parts if not Unfinished(work.folder).part(part).done]
    sizes = [work.plan.parts[part].size for part in todo]
    small = None not in sizes and sum(size or 0 for size in sizes) < SMALL_BYTES
    if num_procs == 1 or len(todo) < 2 or small:
        _in_this_process(work, todo, wanted, stopping, show)
    else:
        _in_processes(work, todo, min(num_procs, len(todo)), wanted, stopping, show)


def _in_this_process(
    work: Work,
    todo: Sequence[int],
    wanted: Callable[[int], bool],
    stopping: Callable[[], bool],
    show: Callable[[Totals], None],
) -> None:
    source, tokenizer, files = work.source(), work.tokenizer(), Unfinished(work.folder)
    totals = [0, 0, 0]

    def report(*more: int) -> None:
        for place, number in enumerate(more):
            totals[place] += number
        show((totals[0], totals[1], totals[2]))

    for part in todo:
        if stopping():
            return
        if wanted(part):
            tokenise_part(part, source, tokenizer, work.plan, files, report, stopping)


def _in_processes(
    work: Work,
    todo: Sequence[int],
    num_procs: int,
    wanted: Callable[[int], bool],
    stopping: Callable[[], bool],
    show: Callable[[Totals], None],
) -> None:
    # spawn: forking a process that has threads (torch, tokenizers, datasets) can hang.
    context = multiprocessing.get_context("spawn")
    shared = _Shared(
        stop=context.RawValue(ctypes.c_bool, False),
        counts=context.RawArray(ctypes.c_int64, 3 * num_procs),
        seats=context.Value(ctypes.c_int, 0),
    )
    waiting = iter(todo)
    with _pool(num_procs, context, (work, shared)) as pool:
        running: set[Future[PartRecord]] = set()
        try:
            while True:
                while len(running) < num_procs and not stopping():
                    part = next((part for part in waiting if wanted(part)), None)
                    if part is None:
                        break
                    running.add(pool.submit(_tokenise_in_worker, part))
                if not running:
                    return
                done, running = wait(running, POLL_SECONDS, FIRST_COMPLETED)
                shared.stop.value = stopping()
                show((sum(shared.counts[0::3]), sum(shared.counts[1::3]), sum(shared.counts[2::3])))
                for future in done:
                    future.result()
        except BrokenProcessPool:
            for child in multiprocessing.active_children():  # one that waits for what the dead one held waits for ever
                child.kill()
            raise DataError(
                "a tokenising process died; the system may have run out of memory",
                "what is finished is kept: run it again, with fewer processes (--num-procs)",
            ) from None
        except Exception:
            shared.stop.value = True  # the others save what they have
            wait(running)
            raise


@dataclass(frozen=True)
class _Shared:
    """What the processes share. `counts` has three places for each of them; `seats` gives out the places."""

    stop: Any
    counts: Any
    seats: Any


@contextmanager
def _pool(num_procs: int, context: Any, arguments: tuple[Any, ...]) -> Iterator[ProcessPoolExecutor]:
    pool = ProcessPoolExecutor(num_procs, mp_context=context, initializer=_begin_worker, initargs=arguments)
    try:
        yield pool
    except KeyboardInterrupt:  # the second one: do not wait for what the workers are at
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


class _Worker:
    """One of the processes: loads once what all its parts need."""

    def __init__(self, work: Work, shared: _Shared) -> None:
        self._work = work
        self._shared = shared
        with shared.seats.get_lock():
            self._seat = shared.seats.value
            shared.seats.value += 1
        self._source = work.source()
        self._tokenizer = work.tokenizer()

    def tokenise(self, part: int) -> PartRecord:
        work = self._work
        return tokenise_part(
            part, self._source, self._tokenizer, work.plan, Unfinished(work.folder), self._report, self._stopping
        )

    def _report(self, *more: int) -> None:
        for place, number in enumerate(more):
            self._shared.counts[3 * self._seat + place] += number

    def _stopping(self) -> bool:
        return bool(self._shared.stop.value)


_worker: Callable[[], _Worker]


def _begin_worker(work: Work, shared: _Shared) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C reaches the whole group; the parent ends the work
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    global _worker
    _worker = functools.cache(lambda: _Worker(work, shared))  # later: an error here would break the pool, untold


def _end_with_parent() -> None:
    """A worker waits for work for ever if its parent is killed: its end of the queue stays open."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _tokenise_in_worker(part: int) -> PartRecord:
    return _worker().tokenise(part)
