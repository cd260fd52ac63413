"""Token files: 1-D `.npy` arrays of uint16 or uint32, written as a stream and read through memory maps.

Documents may span shards, so every shard but the last of a stretch is full. Only a shard that is whole gets its name.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from nano_gpt.errors import DataError
from nano_gpt.runtime.files import atomic_file, sha256

Tokens = npt.NDArray[np.unsignedinteger]

HEADER_BYTES = 128  # numpy pads its header so that the length of the array can be filled in afterwards


class Shard(BaseModel):
    """One file of a split, as the manifest describes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str = Field(pattern=r"^\w[\w.-]*$")  # a name in the set's folder, never a path
    split: str
    tokens: int = Field(gt=0)
    bytes: int = Field(gt=0)
    sha256: str
    max_id: int = Field(ge=0)


def token_dtype(vocab_size: int) -> str:
    """The narrower of the two that holds every id, by numpy's name."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


class ShardWriter:
    """Appends the tokens of one split to files `SPLIT_NNNNNN.npy`. Memory does not grow with the shard.

    A context manager: leaving it by an exception removes the shard that is open. Raises DiskFullError.
    """

    def __init__(self, folder: Path, split: str, dtype: str, tokens_per_shard: int, number: int) -> None:
        self.split = split
        self._folder = folder
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._capacity = tokens_per_shard
        self._number = number
        self._tokens = 0
        self._max_id = 0
        self._open = ExitStack()

    def append(self, ids: Tokens) -> int:
        """Write as many of `ids` as the shard has room for and return their number; 0 once it is full."""
        if self._tokens == 0:
            self._begin()
        ids = ids[: self._capacity - self._tokens]
        if len(ids):
            self._file.write(np.ascontiguousarray(ids, self._dtype).data)
            self._tokens += len(ids)
            self._max_id = max(self._max_id, int(ids.max()))
        return len(ids)

    @property
    def full(self) -> bool:
        return self._tokens == self._capacity

    def close(self) -> Shard | None:
        """Finish the shard, however short, and return it; None if nothing was appended since the last one."""
        if self._tokens == 0:
            return None
        self._file.seek(0)
        self._write_header()
        self._open.close()
        shard = Shard(
            file=self._path.name,
            split=self.split,
            tokens=self._tokens,
            bytes=self._path.stat().st_size,
            sha256=sha256(self._path),
            max_id=self._max_id,
        )
        self._tokens = self._max_id = 0
        self._number += 1
        return shard

    def _begin(self) -> None:
        self._path = self._folder / f"{self.split}_{self._number:06d}.npy"
        temporary = self._open.enter_context(atomic_file(self._path))
        self._file: BinaryIO = self._open.enter_context(temporary.open("wb"))
        self._write_header()

    def _write_header(self) -> None:
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._tokens,)}
        np.lib.format.write_array_header_1_0(self._file, header)
        assert self._file.tell() == HEADER_BYTES

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert error is not None or self._tokens == 0, "a shard was left open"
        return self._open.__exit__(kind, error, trace)


class TokenReader:
    """The shards of one split as one long array, mapped into memory and never loaded whole.

    Raises DataError for a shard that is missing, truncated, of another type, or with ids beyond the vocabulary.
    """

    def __init__(self, folder: Path, shards: Sequence[Shard], dtype: str, vocab_size: int, remedy: str) -> None:
        """`remedy` is the hint of these errors."""
        self._maps = [_map_shard(folder / shard.file, shard, np.dtype(dtype), vocab_size, remedy) for shard in shards]
        self._ends = list(accumulate(shard.tokens for shard in shards))
        self._dtype = np.dtype(dtype)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, start: int, stop: int) -> Tokens:
        """Tokens start .. stop - 1, fewer at the end, as (stop - start,). A view where one shard holds them all."""
        assert 0 <= start <= stop, f"{start}:{stop}"
        stop = min(stop, len(self))
        parts: list[Tokens] = []
        index = bisect_right(self._ends, start)
        while start < stop:
            first = self._ends[index] - len(self._maps[index])
            parts.append(self._maps[index][start - first : stop - first])
            start = self._ends[index]
            index += 1
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, self._dtype)


def _map_shard(path: Path, shard: Shard, dtype: np.dtype[np.unsignedinteger], vocab_size: int, remedy: str) -> Tokens:
    if shard.max_id >= vocab_size:
        raise DataError(f"shard {path} holds id {shard.max_id}, but its tokenizer has {vocab_size} ids", remedy)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot read shard {path}: {error.strerror}", remedy) from None
    if size != shard.bytes:
        raise DataError(f"shard {path} holds {size:,} of {shard.bytes:,} bytes", remedy)
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"npy format {version}")
            shape, _, found = np.lib.format.read_array_header_1_0(file)
            offset = file.tell()
    except ValueError as error:
        raise DataError(f"shard {path} is not a .npy file: {error}", remedy) from None
    if found.hasobject:
        raise DataError(f"shard {path} holds pickled objects, which can run code when they are loaded", remedy)
    if found != dtype:
        raise DataError(f"shard {path} is {found}; the manifest promises {dtype}", remedy)
    if shape != (shard.tokens,) or offset + shard.tokens * dtype.itemsize != size:
        raise DataError(f"shard {path} is of shape {shape}; the manifest promises {shard.tokens:,} tokens", remedy)
    return np.memmap(path, dtype, "r", offset, shape)
