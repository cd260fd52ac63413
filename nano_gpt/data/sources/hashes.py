"""The sha256 of files, remembered: a hundred gigabytes take minutes, and every command wants to know."""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from nano_gpt.errors import DataError
from nano_gpt.runtime.progress import ProgressDisplay

_REMEMBERED_BYTES = 2**20  # smaller files are read as fast as remembered
_SETTLED_SECONDS = 2.0  # a file that is as new as this may change and keep its time
_BLOCK_BYTES = 2**20

_Known = dict[str, tuple[int, int, str]]  # by path: size, time of the last change in ns, sha256


def content_hashes(files: Sequence[Path], memory: Path) -> list[str]:
    """The sha256 of each file; `memory` is a JSON file of what was found before.

    A file counts as the same as long as its path, size and time of change are. Raises DataError for one that cannot
    be read.
    """
    known = _read(memory)
    hashes, learnt = [], {}
    done, total = 0, sum(_stat(file).st_size for file in files)
    with ProgressDisplay("reading your files") as display:
        for file in files:
            name, stat = str(file.absolute()), _stat(file)
            size, changed, digest = known.get(name, (0, 0, ""))
            if (size, changed) != (stat.st_size, stat.st_mtime_ns):
                digest = _sha256(file, done, total, display)
                if stat.st_size >= _REMEMBERED_BYTES and time.time() - stat.st_mtime > _SETTLED_SECONDS:
                    learnt[name] = (stat.st_size, stat.st_mtime_ns, digest)
            done += stat.st_size
            hashes.append(digest)
    if learnt:
        _write(memory, {**{name: entry for name, entry in known.items() if Path(name).exists()}, **learnt})
    return hashes


def _sha256(file: Path, done: int, total: int, display: ProgressDisplay) -> str:
    digest = hashlib.sha256()
    try:
        with file.open("rb") as content:
            while block := content.read(_BLOCK_BYTES):
                digest.update(block)
                done += len(block)
                display.tell(f"{done / 1e9:.1f} of {total / 1e9:.1f} GB", done, total)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None
    return digest.hexdigest()


def _stat(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None


def _read(memory: Path) -> _Known:
    """Nothing where there is none, or not what was written here."""
    try:
        found = json.loads(memory.read_text(encoding="utf-8"))
        return {str(name): (int(size), int(changed), str(digest)) for name, (size, changed, digest) in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(memory: Path, known: _Known) -> None:
    """Several processes may do so at once, each with what it knows; a folder that is read-only is no reason to stop."""
    temporary = memory.with_name(f".tmp-{memory.name}-{uuid.uuid4().hex}")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(known), encoding="utf-8")
        temporary.replace(memory)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
