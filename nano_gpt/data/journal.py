"""How far a preparation has come, and who is at it: what makes it safe to stop anywhere and start again."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from nano_gpt.data.catalog import MANIFEST
from nano_gpt.data.manifest import JOURNAL, Manifest
from nano_gpt.errors import DataError
from nano_gpt.runtime.files import write_text
from nano_gpt.runtime.logs import logger

LOCK, HOLDER = ".lock", ".lock-holder.json"
_SHARD_NAME = re.compile(r"(?:\.tmp-)?[a-z]+_\d{6}\.npy")


class Journal(BaseModel):
    """Written whenever shards are finished: what is on disk, and the place in the source where to go on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest: Manifest
    """What it would be if this were all."""
    document: int = 0
    """The source's document to go on with, counted from 0."""
    written: int = 0
    """Tokens of that document which are already in a shard."""
    state: dict[str, Any] | None = None
    """The source's own state, to start it nearer than at its beginning ..."""
    state_document: int = 0
    """... namely before this document."""


def read_journal(folder: Path) -> Journal | None:
    """None if nothing was begun. Raises DataError for one that cannot be read."""
    path = folder / JOURNAL
    if not path.is_file():
        return None
    try:
        return Journal.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise DataError(f"{path} is damaged: {str(error).splitlines()[0]}", "begin again with --overwrite") from None


def write_journal(folder: Path, journal: Journal) -> None:
    write_text(folder / JOURNAL, journal.model_dump_json(indent=2))


def finish(folder: Path, manifest: Manifest) -> None:
    """From here on the set is complete."""
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    (folder / JOURNAL).unlink(missing_ok=True)


def remove_all_but(folder: Path, manifest: Manifest | None) -> None:
    """Delete shards that `manifest` does not know (None: all, and the set is no longer prepared)."""
    if manifest is None:  # the manifest first: it must never describe shards that are gone
        (folder / MANIFEST).unlink(missing_ok=True)
        (folder / JOURNAL).unlink(missing_ok=True)
    known = {shard.file for shard in manifest.shards} if manifest else set()
    stale = [path for path in folder.iterdir() if _SHARD_NAME.fullmatch(path.name) and path.name not in known]
    for path in stale:
        path.unlink()
    if stale:
        logger.info(f"prepare: removed {len(stale)} unfinished or replaced shards from {folder}")


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes from preparing in `folder`. The system lets go of the lock when its holder dies."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise DataError(
            f"{folder} is being prepared by {_holder(folder)}", "wait until it is done, or end it; then run this again"
        ) from None
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror}", "another place: --dataset-dir") from None
    try:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
        write_text(folder / HOLDER, json.dumps(holder))
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just taken the lock
        return "another process"
