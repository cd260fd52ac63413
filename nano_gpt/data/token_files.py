"""How ids lie in a file: `.npy`, llm.c's `.bin` with a header, or nanoGPT's `.bin` without one.

What a file is, its first bytes and its size say together, never its name alone: a header that is taken for tokens, or
tokens for a header, would train a model on garbage without any error.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from nano_gpt.errors import DataError

Dtype = Literal["uint16", "uint32"]

LLMC_HEADER_BYTES = 1024  # 256 int32: magic, version, number of tokens, zeros
_LLMC_DTYPES: dict[tuple[int, int], Dtype] = {
    (20240520, 1): "uint16",
    (20240801, 7): "uint32",
}  # (magic, version), as its dev/data writes them


# finewebedu_train.npy.000, finewebedu_train.npy.000.npy, edufineweb_train_000001.npy, fineweb_train_000001.bin,
# tiny_shakespeare_val.bin, train.bin, and our own train_000000.npy
_NAME = re.compile(
    r"(?:(?P<dataset>\w[\w.-]*?)[_-])?(?P<split>train|validation|valid|val)"
    r"(?:_(?P<number>\d+)\.(?:npy|bin)|\.npy\.(?P<last>\d+)(?:\.npy)?|\.npy|\.bin)"
)


@dataclass(frozen=True)
class ShardName:
    """What the name of a token file says, in any of the styles in use."""

    dataset: str
    """Empty where the name has none."""
    split: Literal["train", "validation"]
    number: int
    """0 for a split in one file."""


def parse_name(name: str) -> ShardName | None:
    """None for a name that no token file has."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    split: Literal["train", "validation"] = "train" if match["split"] == "train" else "validation"
    return ShardName(match["dataset"] or "", split, int(match["number"] or match["last"] or 0))


@dataclass(frozen=True)
class Layout:
    """Where the ids of a file are, and of what type."""

    format: Literal["npy", "llm.c", "raw"]
    dtype: Dtype
    """Little-endian."""
    offset: int
    """Bytes before the first id."""
    tokens: int


def npy_header(dtype: str, tokens: int) -> bytes:
    """The first bytes of a `.npy` file of this many ids."""
    header = io.BytesIO()
    descr = np.dtype(dtype).newbyteorder("<").str
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": (tokens,)})
    return header.getvalue()


def read_layout(path: Path, raw_dtype: Dtype, remedy: str | None = None) -> Layout:
    """What `path` is. A file without a header, which cannot say it, is taken to hold `raw_dtype`.

    Raises DataError, with `remedy` as its hint, for a file that is missing, empty, truncated or of another kind.
    """
    try:
        with path.open("rb") as file:
            return _layout(path, file, raw_dtype)
    except OSError as error:
        raise DataError(f"cannot read shard {path}: {error.strerror}", remedy) from None
    except ValueError as error:
        raise DataError(f"shard {path} {error}", remedy) from None


def _layout(path: Path, file: BinaryIO, raw_dtype: Dtype) -> Layout:
    """Raises ValueError that goes on after "shard PATH"."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(LLMC_HEADER_BYTES)
    file.seek(0)
    if not start:
        raise ValueError("is empty")
    if start.startswith(np.lib.format.MAGIC_PREFIX):
        layout = _npy_layout(file)
    elif ".npy" in path.name:
        raise ValueError("is not a .npy file: it does not begin like one")
    else:
        layout = _bin_layout(start, size, raw_dtype)
    needed = layout.offset + layout.tokens * np.dtype(layout.dtype).itemsize
    if size != needed:
        raise ValueError(f"holds {size:,} bytes; its header promises {layout.tokens:,} tokens, {needed:,} bytes")
    if layout.tokens == 0:
        raise ValueError("holds no tokens")
    return layout


def _npy_layout(file: BinaryIO) -> Layout:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"is of npy format {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = read(file)
    except ValueError as error:
        raise ValueError(f"is not a .npy file: {str(error).splitlines()[0]}") from None
    if dtype.hasobject:
        raise ValueError("holds pickled objects, which can run code when they are loaded")
    if dtype not in (np.dtype("<u2"), np.dtype("<u4")):
        raise ValueError(f"is {dtype}; tokens are uint16 or uint32, little-endian")
    if len(shape) != 1:
        raise ValueError(f"is of shape {shape}; tokens are one long array")
    return Layout("npy", "uint16" if dtype.itemsize == 2 else "uint32", file.tell(), shape[0])


def _bin_layout(start: bytes, size: int, raw_dtype: Dtype) -> Layout:
    header = np.frombuffer(start[: len(start) // 4 * 4], "<i4")
    magics = {magic for magic, _ in _LLMC_DTYPES}
    if len(header) and int(header[0]) in magics:
        if len(start) < LLMC_HEADER_BYTES:
            raise ValueError(f"holds {size:,} bytes; the header of an llm.c file alone has {LLMC_HEADER_BYTES:,}")
        magic, version, tokens = header[:3].tolist()
        if (magic, version) not in _LLMC_DTYPES:
            raise ValueError(f"has an llm.c header of an unknown version: {magic}, {version}, {tokens}")
        return Layout("llm.c", _LLMC_DTYPES[magic, version], LLMC_HEADER_BYTES, tokens)
    if len(start) == LLMC_HEADER_BYTES and not header[4:].any():
        raise ValueError(f"begins like the header of a format that is not known: {header[:4].tolist()}, then zeros")
    itemsize = np.dtype(raw_dtype).itemsize
    if size % itemsize:
        raise ValueError(f"holds {size:,} bytes, which is no whole number of {raw_dtype} tokens")
    return Layout("raw", raw_dtype, 0, size // itemsize)
