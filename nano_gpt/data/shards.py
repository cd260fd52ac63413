"""Token files: written as 1-D little-endian `.npy`, read with `pread` from these and from the formats of others.

Memory maps would be simpler to read from, but every page that was ever touched would count as the process's own, and a
file that is truncated while a run reads it would end the run by SIGBUS. A `pread` of a window costs microseconds more.
"""

from __future__ import annotations

import hashlib
import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from nano_gpt.data.token_files import Dtype, npy_header, read_layout
from nano_gpt.errors import DataError
from nano_gpt.runtime.files import atomic_file

Tokens = npt.NDArray[np.unsignedinteger]

FILE_NAME = r"^\w[\w.-]*$"  # of a shard: in the set's folder, never a path
MAX_OPEN_FILES = 64  # of one reader; a common limit is 1024 per process
_BLOCK_TOKENS = 2**20


class Shard(BaseModel):
    """One file of a split, as the manifest describes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str = Field(pattern=FILE_NAME)
    split: str
    tokens: int = Field(gt=0)
    documents: int = Field(ge=0)
    """How many `<|endoftext|>` it holds."""
    offset: int = Field(ge=0)
    """Bytes before the first token: a header, if any."""
    bytes: int = Field(gt=0)
    """Size of the file."""
    sha256: str
    max_id: int = Field(ge=0)


def token_dtype(vocab_size: int) -> Dtype:
    """The narrower of the two that holds every id, by numpy's name."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def write_shard(path: Path, split: str, dtype: str, tokens: int, documents: int, stretches: Iterable[Tokens]) -> Shard:
    """Write the ids of `stretches`, `tokens` in all, as a file that appears whole or not at all.

    Memory does not grow with the shard beyond the longest stretch. Raises DiskFullError.
    """
    header = npy_header(dtype, tokens)
    digest = hashlib.sha256(header)
    written, max_id = 0, 0
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        file.write(header)
        for block in _blocks(stretches):
            max_id = max(max_id, int(block.max()))
            data = raw(block, dtype)
            file.write(data)
            digest.update(data)
            written += len(block)
        assert written == tokens, f"{path}: {written:,} tokens came, {tokens:,} were promised"
    return Shard(
        file=path.name,
        split=split,
        tokens=tokens,
        documents=documents,
        offset=len(header),
        bytes=len(header) + tokens * np.dtype(dtype).itemsize,
        sha256=digest.hexdigest(),
        max_id=max_id,
    )


def raw(ids: Tokens, dtype: str) -> memoryview:
    """Ids as they lie in a file, little-endian and without a header. Ids that `dtype` cannot hold are a bug."""
    assert len(ids) == 0 or int(ids.max()) <= np.iinfo(dtype).max, f"{ids.max()} is too large for {dtype}"
    return np.ascontiguousarray(ids, np.dtype(dtype).newbyteorder("<")).view(np.uint8).data


def read_raw(path: Path, dtype: str, offset: int = 0, tokens: int | None = None) -> Iterator[Tokens]:
    """Ids of a file in order, in stretches of bounded length: `tokens` from byte `offset` on, or all there are.

    Raises DataError where the file holds fewer.
    """
    kind = np.dtype(dtype).newbyteorder("<")
    with path.open("rb") as file:
        file.seek(offset)
        left = (path.stat().st_size - offset) // kind.itemsize if tokens is None else tokens
        while left > 0:
            data = file.read(min(left, _BLOCK_TOKENS) * kind.itemsize)
            if len(data) < min(left, _BLOCK_TOKENS) * kind.itemsize:
                raise DataError(f"{path} ends {left - len(data) // kind.itemsize:,} tokens too early")
            yield np.frombuffer(data, kind)
            left -= len(data) // kind.itemsize


def _blocks(stretches: Iterable[Tokens]) -> Iterator[Tokens]:
    """The same ids in stretches that are neither empty nor too long to be converted at once."""
    for stretch in stretches:
        for start in range(0, len(stretch), _BLOCK_TOKENS):
            yield stretch[start : start + _BLOCK_TOKENS]


class TokenReader:
    """The shards of one split as one long array that is never in memory. Two threads may read at once.

    Raises DataError for a shard that is missing, truncated, of another type, or with ids beyond the vocabulary: when
    the reader is made, and for what happens to the files later, when they are read.
    """

    def __init__(self, folder: Path, shards: Sequence[Shard], dtype: Dtype, vocab_size: int, remedy: str) -> None:
        """`remedy` is the hint of these errors."""
        for shard in shards:
            _check(folder / shard.file, shard, dtype, vocab_size, remedy)
        self._shards = tuple(shards)
        self._paths = [str(folder / shard.file) for shard in shards]  # not Paths: these are slow keys
        self._ends = list(accumulate(shard.tokens for shard in shards))
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._vocab_size = vocab_size
        self._remedy = remedy
        self._files = _OpenFiles()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, start: int, stop: int) -> Tokens:
        """Tokens start .. stop - 1, fewer at the end, as (stop - start,), read-only. All are below the vocabulary."""
        assert 0 <= start <= stop, f"{start}:{stop}"
        stop = min(stop, len(self))
        parts: list[Tokens] = []
        index = bisect_right(self._ends, start)
        while start < stop:
            shard, end = self._shards[index], self._ends[index]
            first = end - shard.tokens
            parts.append(self._read_shard(index, start - first, min(stop, end) - start))
            start = end
            index += 1
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, self._dtype)

    def _read_shard(self, index: int, first: int, count: int) -> Tokens:
        shard, path = self._shards[index], self._paths[index]
        size = count * self._dtype.itemsize
        try:
            data = self._files.read(path, shard.bytes, shard.offset + first * self._dtype.itemsize, size)
        except OSError as error:
            raise DataError(f"cannot read shard {path}: {error.strerror or error}", self._remedy) from None
        ids: Tokens = np.frombuffer(data, self._dtype)
        largest = int(ids.max())  # an id that the model has no row for would be a device assert far from here
        if largest >= self._vocab_size:
            where = first + int(ids.argmax())
            raise DataError(
                f"shard {path} holds id {largest} at token {where:,}, but its tokenizer has {self._vocab_size} ids",
                self._remedy,
            )
        return ids


class _OpenFiles:
    """The files that were read last, at most MAX_OPEN_FILES of them."""

    def __init__(self) -> None:
        self._descriptors: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()  # no thread may close a file that another reads

    def read(self, path: str, size: int, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`. Raises OSError, also for a file that is not of `size` bytes any more."""
        with self._lock:
            descriptor = self._descriptors.get(path)
            if descriptor is None:
                descriptor = self._open(path, size)
            self._descriptors.move_to_end(path)
            data = _pread(descriptor, count, offset)
            while len(data) < count:  # the system may give fewer than it was asked for
                more = _pread(descriptor, count - len(data), offset + len(data))
                if not more:
                    raise OSError(_wrong_size(os.fstat(descriptor).st_size, size))
                data += more
            return data

    def _open(self, path: str, size: int) -> int:
        if len(self._descriptors) >= MAX_OPEN_FILES:
            os.close(self._descriptors.popitem(last=False)[1])
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        found = os.fstat(descriptor).st_size
        if found != size:
            os.close(descriptor)
            raise OSError(_wrong_size(found, size))
        self._descriptors[path] = descriptor
        return descriptor

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)


def _pread(descriptor: int, count: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, count, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)  # Windows
    return os.read(descriptor, count)


def _wrong_size(found: int, promised: int) -> str:
    return f"it holds {found:,} of {promised:,} bytes"


def _check(path: Path, shard: Shard, dtype: Dtype, vocab_size: int, remedy: str) -> None:
    if shard.max_id >= vocab_size:
        raise DataError(f"shard {path} holds id {shard.max_id}, but its tokenizer has {vocab_size} ids", remedy)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot read shard {path}: {error.strerror}", remedy) from None
    if size != shard.bytes:
        raise DataError(f"shard {path} holds {size:,} of {shard.bytes:,} bytes", remedy)
    layout = read_layout(path, dtype, remedy)
    if layout.dtype != dtype:
        raise DataError(f"shard {path} is {layout.dtype}; the manifest promises {dtype}", remedy)
    if (layout.offset, layout.tokens) != (shard.offset, shard.tokens):
        raise DataError(
            f"shard {path} holds {layout.tokens:,} tokens from byte {layout.offset} on; "
            f"the manifest promises {shard.tokens:,} from byte {shard.offset} on",
            remedy,
        )
