"""Files that appear whole or not at all: write aside, fsync, rename.

A crash, a `kill -9` or a full disk leaves what was there before, and at most a `.tmp-*` leftover that the next
writer of the same name removes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nano_gpt.errors import NanoGPTError

# What libraries say instead of ENOSPC when the disk is full (torch.save, safetensors, numpy).
_DISK_FULL_WORDS = ("no space left", "unexpected pos", "requested and", "disk quota", "write failed")


class DiskFullError(NanoGPTError):
    """Writing stopped because the disk, or the quota, is full."""


def temporary_name(path: Path) -> Path:
    return path.with_name(f".tmp-{path.name}")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` to write to; on success it replaces `path`, on failure it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        with disk_full_is_an_error(path):
            yield temporary
            sync_file(temporary)
            temporary.replace(path)
            sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Like `atomic_file` for a folder: every file in it is synced, then the folder is renamed to `path`.

    An existing `path` is replaced; it is moved aside, to `.old-*`, only when the new one is complete. Whoever is killed
    between the two renames leaves it there, and the next writer of the same name puts it back first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    old = path.with_name(f".old-{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    if old.exists() and not path.exists():
        old.replace(path)
    try:
        with disk_full_is_an_error(path):
            yield temporary
            for file in sorted(temporary.rglob("*")):
                if file.is_file():
                    sync_file(file)
            if path.exists():
                shutil.rmtree(old, ignore_errors=True)
                path.replace(old)
            try:
                temporary.replace(path)
            except OSError:
                if old.exists():
                    old.replace(path)
                raise
            sync_directory(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def disk_full_is_an_error(path: Path) -> Iterator[None]:
    """Turn the many ways in which libraries report a full disk into one DiskFullError."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or any(words in str(error).lower() for words in _DISK_FULL_WORDS):
            free = shutil.disk_usage(path.parent).free
            raise DiskFullError(
                f"the disk is full: {path} was not written ({free / 1e6:.1f} MB free); what was there before is kept",
                "free some space, or put the folder on another disk",
            ) from error
        raise


def sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make renames inside `path` survive a power cut, where the system can."""
    if os.name == "nt":  # Windows cannot open a directory
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
