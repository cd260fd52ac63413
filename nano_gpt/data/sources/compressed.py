"""Files as .gz and .zst, read as a stream; and copies of what has to be a file, kept for as long as it is read."""

from __future__ import annotations

import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from nano_gpt.errors import DataError
from nano_gpt.runtime.files import disk_full_is_an_error

BLOCK_BYTES = 2**20
_ARROW_NAMES = {"gz": "gzip", "zst": "zstd"}
_TEMPORARY = re.compile(r"\.tmp-(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{32}")


@contextmanager
def decompressed(path: Path, compression: str) -> Iterator[BinaryIO]:
    """The content of a .gz or .zst file, several archives in a row included, as a stream.

    Raises DataError where the archive is damaged or cut short, as soon as the reader gets there.
    """
    import pyarrow

    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty, which no .{compression} file is", "fetch or write it again")
    try:
        with pyarrow.input_stream(str(path), compression=_ARROW_NAMES[compression], buffer_size=BLOCK_BYTES) as stream:
            yield BufferedReader(stream, BLOCK_BYTES)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(
            f"{path} is damaged or cut short: {str(error).splitlines()[0]}", "fetch or write it again"
        ) from None


def blocks(stream: BinaryIO) -> Iterator[bytes]:
    """All of a stream."""
    while block := stream.read(BLOCK_BYTES):
        yield block


@contextmanager
def temporary_file(folder: Path) -> Iterator[Path]:
    """A name in `folder` for a copy; the file is removed in the end. Raises DiskFullError."""
    folder.mkdir(parents=True, exist_ok=True)
    _remove_orphans(folder)
    path = folder / f".tmp-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"
    try:
        with disk_full_is_an_error(path):
            yield path
    finally:
        path.unlink(missing_ok=True)


def copy_to(path: Path, stream: BinaryIO) -> None:
    with path.open("wb") as file:
        shutil.copyfileobj(stream, file, BLOCK_BYTES)


def _remove_orphans(folder: Path) -> None:
    """Those of processes of this machine that were killed."""
    if os.name == "nt":  # asking for a process ends it there
        return
    for path in folder.glob(".tmp-*"):
        match = _TEMPORARY.fullmatch(path.name)
        if match is None or match["host"] != socket.gethostname():
            continue
        try:
            os.kill(int(match["pid"]), 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except OSError:  # somebody else's, and alive
            continue
