"""Documents -> ids in several processes, in order, with a bounded number of batches on the way."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nano_gpt.data.shards import Tokens, token_dtype
from nano_gpt.data.sources import State
from nano_gpt.errors import DataError
from nano_gpt.tokenizer import load_tokenizer
from nano_gpt.tokenizer.base import Tokenizer

# Enough work to make the exchange between processes cheap, little enough to keep all of them busy.
BATCH_DOCUMENTS = 256
BATCH_CHARACTERS = 2**19


@dataclass(frozen=True)
class TextBatch:
    """Documents of a source, in its order; those of splits that are not wanted are left out."""

    texts: list[str]
    splits: list[str]
    numbers: list[int]
    """Each one's place among all documents of the source."""
    first: int
    """The place that `state` stands before; 0 without a state."""
    state: State | None


@dataclass(frozen=True)
class TokenBatch:
    """What became of the texts of a TextBatch."""

    ids: Tokens
    """All documents one after the other, each with `<|endoftext|>` before it."""
    ends: npt.NDArray[np.int64]
    """(documents,) where each ends in `ids`."""
    bytes: list[int]
    """(documents,) length of each text in UTF-8."""


def tokenise(
    batches: Iterable[TextBatch], tokenizer: Tokenizer, folder: Path, num_procs: int
) -> Generator[tuple[TextBatch, TokenBatch]]:
    """Every batch with its tokens, in order. With several processes, each loads `tokenizer` from its files in `folder`.

    At most two batches per process are under way. Raises DataError when a process dies.
    """
    if num_procs == 1:
        for batch in batches:
            yield batch, encode(tokenizer, batch.texts)
        return
    # spawn: forking a process that has threads (torch, tokenizers, datasets) can hang.
    pool = ProcessPoolExecutor(
        num_procs, mp_context=multiprocessing.get_context("spawn"), initializer=_begin_worker, initargs=(folder,)
    )
    pending: deque[tuple[TextBatch, Future[TokenBatch]]] = deque()
    try:
        for batch in batches:
            pending.append((batch, pool.submit(_encode_in_worker, batch.texts)))
            if len(pending) > 2 * num_procs:
                first, future = pending.popleft()
                yield first, future.result()
        while pending:
            first, future = pending.popleft()
            yield first, future.result()
    except BrokenProcessPool:
        raise DataError(
            "a tokenising process died; the system may have run out of memory",
            "shards that are finished are kept: run it again, with fewer processes (--num-procs)",
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def encode(tokenizer: Tokenizer, texts: list[str]) -> TokenBatch:
    documents = tokenizer.encode_documents(texts)
    ends = np.cumsum([len(ids) + 1 for ids in documents], dtype=np.int64)
    ids = np.empty(int(ends[-1]) if texts else 0, token_dtype(tokenizer.vocab_size))
    for end, document in zip(ends.tolist(), documents, strict=True):
        ids[end - len(document) - 1] = tokenizer.eot_id
        ids[end - len(document) : end] = document
        if len(document) and int(document.max()) >= tokenizer.vocab_size:
            raise DataError(f"tokenizer {tokenizer.name} gave id {document.max()} and has {tokenizer.vocab_size} ids")
    return TokenBatch(ids, ends, [len(text.encode()) for text in texts])


_worker_tokenizer: Tokenizer


def _begin_worker(folder: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the work
    threading.Thread(target=_end_with_parent, daemon=True).start()
    global _worker_tokenizer
    _worker_tokenizer = load_tokenizer(folder)


def _end_with_parent() -> None:
    """A worker waits for work for ever if its parent is killed: its end of the queue stays open."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _encode_in_worker(texts: list[str]) -> TokenBatch:
    return encode(_worker_tokenizer, texts)
