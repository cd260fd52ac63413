"""Looking into a prepared set: find it, verify it, find a document in it. Memory does not grow with the set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nano_gpt.data.catalog import MANIFEST, safe_name
from nano_gpt.data.manifest import UNFINISHED, PreparedSet, open_prepared
from nano_gpt.data.shards import Shard, TokenReader
from nano_gpt.errors import DataError
from nano_gpt.registry import unknown_name
from nano_gpt.runtime.progress import ProgressDisplay

_BLOCK_TOKENS, _BLOCK_BYTES = 2**20, 2**22


class Entry(NamedTuple):
    """A folder among the prepared sets."""

    name: str
    prepared: PreparedSet | None
    problem: str | None
    """Why it is none: not finished, damaged, of another format."""


class Span(NamedTuple):
    """Tokens start .. stop - 1 of a split: one document, without its `<|endoftext|>`."""

    start: int
    stop: int


def list_sets(dataset_dir: Path) -> list[Entry]:
    """All sets in `dataset_dir`, by name, those that are not finished or cannot be read included."""
    folders = {path.parent for name in (MANIFEST, UNFINISHED) for path in dataset_dir.glob(f"*/{name}")}
    return [_entry(folder) for folder in sorted(folders)]


def _entry(folder: Path) -> Entry:
    try:
        return Entry(folder.name, open_prepared(folder), None)
    except DataError as error:
        return Entry(folder.name, None, error.message.removeprefix(f"{folder} ").removeprefix("is "))


def find_set(reference: str, dataset_dir: Path) -> PreparedSet:
    """A folder, or the name of one in `dataset_dir`. Raises DataError for what is no set, ConfigError where none is."""
    path = Path(reference)
    if path.name == MANIFEST:
        path = path.parent
    folders = [path, dataset_dir / reference, dataset_dir / safe_name(reference)]
    for folder in folders:
        if (folder / MANIFEST).is_file():
            return open_prepared(folder)
    for folder in folders:
        if folder.is_dir():
            return open_prepared(folder)  # raises, with what is there instead
    names = [entry.name for entry in list_sets(dataset_dir)]
    if not names:
        raise DataError(
            f"there is no folder {reference}, and {dataset_dir} holds no prepared set", "nano-gpt prepare_dataset"
        )
    raise unknown_name("prepared set", reference, names)


def check_split(prepared: PreparedSet, split: str) -> None:
    """Raises ConfigError for a split that the set does not have."""
    if split not in prepared.manifest.splits:
        raise unknown_name("split", split, prepared.manifest.splits)


# ---------------------------------------------------------------------------------------------------- verifying


def verify(prepared: PreparedSet) -> None:
    """Read every byte and compare it with the manifest. Raises DataError that names all files that are not as written.

    Unlike `PreparedSet.verify` it goes on after the first one, and shows how far it is: for sets of many gigabytes.
    """
    manifest, problems = prepared.manifest, []
    try:
        prepared.tokenizer()
    except DataError as error:
        problems.append(error.message)
    total, done = prepared.bytes, 0
    with ProgressDisplay("verify") as display:

        def tell(size: int) -> None:
            nonlocal done
            done += size
            display.tell(f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB", done, total)

        for shard in manifest.shards:
            problem = _problem(prepared.folder / shard.file, shard, tell)
            if problem is not None:
                problems.append(f"{prepared.folder / shard.file} {problem}")
    for split, counts in manifest.splits.items():
        tokens = sum(shard.tokens for shard in manifest.shards if shard.split == split)
        if tokens != counts.tokens:
            problems.append(f"{MANIFEST} counts {counts.tokens:,} {split} tokens, and {tokens:,} in its files")
    if not problems:
        for split in manifest.splits:
            prepared.reader(split)  # headers, and ids beyond the vocabulary
        return
    what = problems[0] if len(problems) == 1 else f"{len(problems)} files: {'; '.join(problems)}"
    raise DataError(f"damaged: {what}", prepared.remedy)


def _problem(path: Path, shard: Shard, tell: Callable[[int], None]) -> str | None:
    """What is wrong with a file."""
    digest = hashlib.sha256()
    try:
        size = path.stat().st_size
        if size != shard.bytes:
            return f"holds {size:,} of {shard.bytes:,} bytes"
        with path.open("rb", buffering=0) as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
                tell(len(block))
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if digest.hexdigest() == shard.sha256 else "is not what was written: its sha256 differs"


# ---------------------------------------------------------------------------------------------------- documents


def find_document(prepared: PreparedSet, split: str, number: int) -> Span:
    """Where document `number` of a split lies, counted from 0. One shard is searched, then the document itself.

    Raises ConfigError for a split that is not there, DataError for a number that is too large and for damaged shards.
    """
    check_split(prepared, split)
    manifest = prepared.manifest
    shards = [shard for shard in manifest.shards if shard.split == split]
    total = sum(shard.documents for shard in shards)
    if not 0 <= number < total:
        raise DataError(
            f"{prepared.folder} has no {split} document {number:,}: it holds {total:,}",
            f"they are counted from 0, so the last one is {total - 1:,}" if total else None,
        )
    reader = prepared.reader(split)
    if manifest.eot_opens:
        start = _place(prepared, reader, shards, number) + 1
        return Span(start, next(_places(reader, manifest.eot_id, start, len(reader)), len(reader)))
    stop = _place(prepared, reader, shards, number)
    return Span(_place(prepared, reader, shards, number - 1) + 1 if number else 0, stop)


def text_of(prepared: PreparedSet, split: str, span: Span) -> Iterator[bytes]:
    """The text of a stretch of tokens in UTF-8, block by block; the bytes that were tokenised."""
    tokenizer, reader = prepared.tokenizer(), prepared.reader(split)
    for start in range(span.start, span.stop, _BLOCK_TOKENS):
        yield tokenizer.decode_bytes(reader.read(start, min(start + _BLOCK_TOKENS, span.stop)))


def _place(prepared: PreparedSet, reader: TokenReader, shards: list[Shard], number: int) -> int:
    """The token that is `<|endoftext|>` number `number` of the split."""
    tokens_before = documents_before = 0
    for shard, tokens, documents in zip(
        shards,
        accumulate(shard.tokens for shard in shards),
        accumulate(shard.documents for shard in shards),
        strict=True,
    ):
        if number < documents:
            places = _places(reader, prepared.manifest.eot_id, tokens_before, tokens)
            for found, place in enumerate(places, documents_before):
                if found == number:
                    return place
            raise DataError(
                f"{prepared.folder / shard.file} holds fewer than the {shard.documents:,} documents of {MANIFEST}",
                prepared.remedy,
            )
        tokens_before, documents_before = tokens, documents
    raise AssertionError(f"document {number} of {documents_before}")


def _places(reader: TokenReader, token: int, start: int, stop: int) -> Iterator[int]:
    """Where `token` stands in `start` .. `stop` - 1, in order."""
    for first in range(start, stop, _BLOCK_TOKENS):
        ids = reader.read(first, min(first + _BLOCK_TOKENS, stop))
        yield from (np.flatnonzero(ids == token) + first).tolist()
