"""A set that is being made: the folder `unfinished` in it, and who is at it.

    plan.json                        what is to be made, and the parts of the source; written once
    part_000012.json                 how far part 12 is; rewritten whenever a chunk of it is on disk
    part_000012_000.train.tokens     ids of a chunk, raw
    part_000012_000.documents.npy    its documents: see DOCUMENT
    packed_train_000000.json         a shard that is finished

Everything appears whole, and a name means the same in every run, so whoever is killed leaves nothing to repair.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from nano_gpt.data.catalog import MANIFEST
from nano_gpt.data.manifest import UNFINISHED, Manifest
from nano_gpt.data.preparing.splitting import SplitRule
from nano_gpt.data.shards import Shard
from nano_gpt.data.sources.base import Part, State
from nano_gpt.errors import DataError
from nano_gpt.runtime.distributed import Ranks
from nano_gpt.runtime.files import write_text
from nano_gpt.runtime.logs import logger

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK = ".lock"
_TURN = ".turn"
_BLOCK_BYTES = 2**20
_SHARD_NAME = re.compile(r"(?:\.tmp-)?[a-z]+_\d{6}\.npy")
Record = TypeVar("Record", bound=BaseModel)


class Plan(BaseModel):
    """What is to be made. Whoever goes on must want the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest: Manifest
    """With nothing counted yet."""
    rule: SplitRule
    parts: tuple[Part, ...]
    max_documents: int | None
    max_tokens: int | None


class Chunk(BaseModel):
    """Consecutive documents of a part, on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents: int
    tokens: dict[str, int]
    """By split."""
    bytes: int
    """Of text."""
    checksums: dict[str, int] = {}
    """CRC-32 of its files by name, read back when the record is written: what the disk or the memory flips later is
    found before it is packed."""


class PartRecord(BaseModel):
    """How far a part is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chunks: tuple[Chunk, ...] = ()
    consumed: int = 0
    """Texts of the source that these chunks hold, blank ones included."""
    state: State | None = None
    """The source's own state after them, where it has one."""
    done: bool = False

    @property
    def documents(self) -> int:
        return sum(chunk.documents for chunk in self.chunks)

    @property
    def tokens(self) -> int:
        return sum(sum(chunk.tokens.values()) for chunk in self.chunks)

    @property
    def bytes(self) -> int:
        return sum(chunk.bytes for chunk in self.chunks)


class Unfinished:
    """The files of the set that is being made in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._inner = folder / UNFINISHED

    def plan(self) -> Plan | None:
        """None if nothing was begun."""
        return _read(self._inner / "plan.json", Plan)

    def write_plan(self, plan: Plan) -> None:
        _write(self._inner / "plan.json", plan)

    def part(self, index: int) -> PartRecord:
        return _read(self._part_file(index), PartRecord) or PartRecord()

    def write_part(self, index: int, record: PartRecord) -> None:
        """With the checksums of the chunks that are new in it."""
        known = self.part(index).chunks
        new = enumerate(record.chunks[len(known) :], len(known))
        chunks = (*known, *(self._with_checksums(index, number, chunk) for number, chunk in new))
        _write(self._part_file(index), record.model_copy(update={"chunks": chunks}))

    def check(self, part: int, chunk: Chunk, file: Path) -> None:
        """Raises DataError for a file of a chunk that is not what was written.

        Its part is forgotten, and thus made again by the next run. Several threads may look at once.
        """
        expected = chunk.checksums.get(file.name)
        found = _checksum(file) if file.is_file() else None
        if found is None or expected not in (None, found):  # None: of a version that took no checksums
            self._part_file(part).unlink(missing_ok=True)
            raise DataError(
                f"{file} is {'gone' if found is None else 'damaged: its checksum differs'}",
                "run the same command again: that part of the text is tokenised again, all others are kept",
            )

    def packed(self, name: str) -> Shard | None:
        """The shard of that name, without its ending, if it is finished and still there."""
        shard = _read(self._inner / f"packed_{name}.json", Shard)
        path = self.folder / shard.file if shard else None
        return shard if shard and path and path.is_file() and path.stat().st_size == shard.bytes else None

    def write_packed(self, name: str, shard: Shard) -> None:
        _write(self._inner / f"packed_{name}.json", shard)

    def tokens_file(self, part: int, chunk: int, split: str) -> Path:
        return self._inner / f"part_{part:06d}_{chunk:03d}.{split}.tokens"

    def documents_file(self, part: int, chunk: int) -> Path:
        return self._inner / f"part_{part:06d}_{chunk:03d}.documents.npy"

    def _part_file(self, index: int) -> Path:
        return self._inner / f"part_{index:06d}.json"

    def _with_checksums(self, part: int, number: int, chunk: Chunk) -> Chunk:
        files = [self.documents_file(part, number)]
        files += [self.tokens_file(part, number, split) for split, tokens in chunk.tokens.items() if tokens]
        return chunk.model_copy(update={"checksums": {file.name: _checksum(file) for file in files}})

    def discard(self) -> None:
        """Remove what a finished set has no use for. A download that is not finished is none of ours."""
        if (self._inner / "plan.json").is_file():
            shutil.rmtree(self._inner, ignore_errors=True)

    def finish(self, manifest: Manifest) -> None:
        """From here on the set is complete."""
        remove_shards(self.folder, manifest)
        write_text(self.folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
        shutil.rmtree(self._inner, ignore_errors=True)

    def remove(self) -> None:
        """Forget what was begun, and what was there before: the folder holds no set any more."""
        (self.folder / MANIFEST).unlink(missing_ok=True)  # first: it must never describe shards that are gone
        shutil.rmtree(self._inner, ignore_errors=True)
        remove_shards(self.folder, None)


def remove_shards(folder: Path, manifest: Manifest | None) -> None:
    """Delete the shards of ours that `manifest` does not know (None: all of them)."""
    known = {shard.file for shard in manifest.shards} if manifest else set()
    stale = [path for path in folder.iterdir() if _SHARD_NAME.fullmatch(path.name) and path.name not in known]
    for path in stale:
        path.unlink()
    if stale:
        logger.info(f"prepare: removed {len(stale)} replaced shards from {folder}")


@contextmanager
def exclusive(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Keep other processes from preparing in `folder`, but for the other ranks of the same number of them.

    The system lets go of a lock when its holder dies. Raises DataError, with the holder, and for a folder that cannot
    be written to.
    """
    own = _lock_name(ranks)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _try_lock(folder / own)
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror}", "another place: --dataset-dir") from None
    if lock is None:
        raise _held(folder, own)
    try:
        write_text(_holder_file(folder, own), json.dumps(_this_process()))
        for other in sorted(path.name for path in folder.glob(f"{LOCK}*") if path.suffix != ".json"):
            if other.endswith(f"-of-{ranks.world_size}") or other == own:
                continue
            free = _try_lock(folder / other)
            if free is None:
                raise _held(folder, other)
            free.release()
        yield
    finally:
        _holder_file(folder, own).unlink(missing_ok=True)
        _remove_if_nothing_began(folder, lock)
        lock.release()


@contextmanager
def taking_turns(folder: Path) -> Iterator[None]:
    """What one rank does at a time: beginning and finishing."""
    from filelock import FileLock

    with FileLock(folder / _TURN):
        yield


def _remove_if_nothing_began(folder: Path, lock: BaseFileLock) -> None:
    """Leave no empty set behind where a start has failed; `lock` is still held.

    Whoever has opened its file by now and locks it later learns from filelock (3.21 on) that it has no name any more.
    Several ranks leave it alone: each has a lock of its own, and none knows whether it is the last one.
    """
    from filelock import SoftFileLock

    with suppress(OSError):  # Windows removes no open file; or somebody has begun just now
        if not isinstance(lock, SoftFileLock) and {path.name for path in folder.iterdir()} <= {LOCK, _TURN}:
            (folder / _TURN).unlink(missing_ok=True)
            (folder / LOCK).unlink()
            folder.rmdir()


def _lock_name(ranks: Ranks) -> str:
    return LOCK if ranks.world_size == 1 else f"{LOCK}-{ranks.rank}-of-{ranks.world_size}"


def _try_lock(path: Path) -> BaseFileLock | None:
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock


def _holder_file(folder: Path, lock: str) -> Path:
    return folder / f"{lock}-holder.json"


def _this_process() -> dict[str, str | int]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}


def _held(folder: Path, lock: str) -> DataError:
    try:
        holder = json.loads(_holder_file(folder, lock).read_text(encoding="utf-8"))
        who = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just taken the lock
        who = "another process"
    return DataError(f"{folder} is being prepared by {who}", "wait until it is done, or end it; then run this again")


def _read(path: Path, kind: type[Record]) -> Record | None:
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise DataError(f"{path} is damaged: {str(error).splitlines()[0]}", "begin again with --overwrite") from None


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _write(path: Path, record: BaseModel) -> None:
    write_text(path, record.model_dump_json(indent=2))
