"""Token files that others made: one pass over all of their bytes, in bounded memory, finds out what a manifest says.

Nothing is taken on trust: an id that the tokenizer does not have is found here and not by the GPU in a run.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from nano_gpt.data.manifest import Counts
from nano_gpt.data.shards import Shard, Tokens, read_raw, token_dtype
from nano_gpt.data.token_files import Layout, read_layout
from nano_gpt.errors import DataError
from nano_gpt.runtime.progress import ProgressDisplay
from nano_gpt.tokenizer.base import Tokenizer

_BLOCK_TOKENS = 2**21

Lengths = npt.NDArray[np.int64]


class TokenFile(NamedTuple):
    path: Path
    layout: Layout


@dataclass(frozen=True)
class Checked:
    """What the files hold."""

    shards: tuple[Shard, ...]
    splits: dict[str, Counts]
    validation_in_train: int | None
    """Validation documents with the ids of a training document; None where there are no documents of both."""
    eot_opens: bool
    format: str
    """That of all shards: see `token_files.Layout`."""
    dtype: Literal["uint16", "uint32"]


def look_at(paths: Mapping[str, Sequence[Path]], tokenizer: Tokenizer) -> dict[str, list[TokenFile]]:
    """The files of every split, after a look at their first bytes and their sizes.

    Raises DataError for a file that is empty, truncated or of another kind, and for files that are not alike.
    """
    raw_dtype = token_dtype(tokenizer.vocab_size)
    files = {split: [TokenFile(path, read_layout(path, raw_dtype)) for path in paths[split]] for split in paths}
    everything = [file for split in files.values() for file in split]
    first = everything[0]
    for file in everything:
        kind, expected = (file.layout.format, file.layout.dtype), (first.layout.format, first.layout.dtype)
        if kind != expected:
            raise DataError(
                f"{first.path.name} is {' of '.join(expected)} and {file.path.name} is {' of '.join(kind)}: "
                "they are not one set",
                "keep each set in a folder of its own, or choose by a pattern: --import 'FOLDER/NAME_*'",
            )
    if tokenizer.vocab_size > 2**16 and first.layout.dtype == "uint16":
        raise DataError(
            f"{first.path} holds 16-bit ids; tokenizer {tokenizer.name} has {tokenizer.vocab_size:,}, which do not fit",
            "name the tokenizer that made the shards: --tokenizer NAME_OR_PATH",
        )
    return files


def check_files(files: Mapping[str, Sequence[TokenFile]], tokenizer: Tokenizer, label: str) -> Checked:
    """Read all of `files`, which are in order within a split. `label` opens the lines of progress.

    Raises DataError for an id that is none of the tokenizer's.
    """
    eot_opens = _eot_opens(files, tokenizer.eot_id)
    table = _bytes_per_id(tokenizer)
    shards: dict[str, list[Shard]] = {split: [] for split in files}
    splits = dict.fromkeys(files, Counts())
    overlap = _Overlap()
    meet = {"validation": overlap.remember, "train": overlap.look_up} if len(files) == 2 else {}
    with _Progress(label, sum(file.path.stat().st_size for split in files.values() for file in split)) as progress:
        for split in sorted(files, reverse=True):  # validation first: only what it holds is looked for in train
            documents = _Documents(eot_opens, meet.get(split))
            text_bytes = 0
            for file in files[split]:
                shard, size = _check_file(file, split, tokenizer, table, documents, progress)
                shards[split].append(shard)
                text_bytes += size
            splits[split] = documents.counts(text_bytes)
    layout = next(iter(files.values()))[0].layout
    of_both = len(files) == 2 and all(counts.documents for counts in splits.values())
    return Checked(
        shards=tuple(shard for split in files for shard in shards[split]),
        splits=splits,
        validation_in_train=overlap.found if of_both else None,
        eot_opens=eot_opens,
        format=layout.format,
        dtype=layout.dtype,
    )


def _check_file(
    file: TokenFile, split: str, tokenizer: Tokenizer, table: Lengths, documents: _Documents, progress: _Progress
) -> tuple[Shard, int]:
    """The shard, and the bytes of text that its ids stand for."""
    path, layout = file
    with path.open("rb") as header:
        digest = hashlib.sha256(header.read(layout.offset))
    eots, max_id, text_bytes, position = 0, 0, 0, 0
    for ids in read_raw(path, layout.dtype, layout.offset, layout.tokens):
        digest.update(ids.data)
        largest = int(ids.max())
        if largest >= tokenizer.vocab_size:
            _raise_unknown(path, ids, position, tokenizer)
        if position == 0 and layout.format == "raw" and layout.dtype == "uint16" and len(ids) > 64:
            _check_not_32_bit(path, ids)
        places = np.flatnonzero(ids == tokenizer.eot_id)
        documents.add(ids, places)
        text_bytes += int(table[ids].sum())
        eots += len(places)
        max_id = max(max_id, largest)
        position += len(ids)
        progress.add(ids.nbytes)
    shard = Shard(
        file=path.name,
        split=split,
        tokens=layout.tokens,
        documents=eots,
        offset=layout.offset,
        bytes=path.stat().st_size,
        sha256=digest.hexdigest(),
        max_id=max_id,
    )
    return shard, text_bytes


def _raise_unknown(path: Path, ids: Tokens, position: int, tokenizer: Tokenizer) -> None:
    where = int(np.argmax(ids >= tokenizer.vocab_size))
    raise DataError(
        f"{path} holds id {ids[where]} at token {position + where:,}; tokenizer {tokenizer.name} has the ids 0 to "
        f"{tokenizer.vocab_size - 1:,}",
        "name the tokenizer that made the shards: --tokenizer NAME_OR_PATH",
    )


def _check_not_32_bit(path: Path, ids: Tokens) -> None:
    if not ids[1::2].any():
        raise DataError(
            f"{path}: every second 16-bit id is 0, so these are 32-bit ids in a file that cannot say so",
            "write them as uint16, which is what nanoGPT reads, or as .npy, which says its type",
        )


def _eot_opens(files: Mapping[str, Sequence[TokenFile]], eot_id: int) -> bool:
    """Whether `<|endoftext|>` stands before a document or behind it.

    A split may begin in the middle of a document, where a stream was cut in two, so one split that begins with it is
    enough; then one that ends with it. Without either there is nothing to tell them apart.
    """
    ends = [(_token(split[0], 0), _token(split[-1], split[-1].layout.tokens - 1)) for split in files.values()]
    return any(first == eot_id for first, _ in ends) or not any(last == eot_id for _, last in ends)


def _token(file: TokenFile, place: int) -> int:
    layout = file.layout
    (ids,) = read_raw(file.path, layout.dtype, layout.offset + place * np.dtype(layout.dtype).itemsize, 1)
    return int(ids[0])


def _bytes_per_id(tokenizer: Tokenizer) -> Lengths:
    """(vocab_size,) UTF-8 bytes of text that each id stands for; none for `<|endoftext|>`."""
    lengths = np.array([len(tokenizer.decode_bytes([number])) for number in range(tokenizer.vocab_size)], np.int64)
    lengths[tokenizer.eot_id] = 0
    return lengths


@dataclass
class _Documents:
    """Counts the documents of a split and their lengths, stretch by stretch. A piece of one at a cut is none."""

    eot_opens: bool
    meet: Callable[[bytes], None] | None
    """Is told of every document: 128 bits of a hash of its ids, without `<|endoftext|>`."""
    tokens: int = 0
    number: int = 0
    lengths: Lengths = field(default_factory=lambda: np.zeros(64, np.int64))
    last: int = -1
    """Place of the last `<|endoftext|>`; -1 as long as there was none."""
    _hash: hashlib.blake2b | None = None
    """Of the document that goes on in the next stretch; None outside of one."""

    def __post_init__(self) -> None:
        self._hash = None if self.eot_opens else _new_hash()

    def add(self, ids: Tokens, places: Lengths) -> None:
        """The next ids, and the places of `<|endoftext|>` in them."""
        if len(places):
            everywhere = places + self.tokens
            begins = self.number > 0 or not self.eot_opens  # is what stands before the first one a document?
            self._count(np.diff(everywhere, prepend=[self.last] if begins else []))
            self.number += len(places)
            self.last = int(everywhere[-1])
        self.tokens += len(ids)
        if self.meet is not None:
            self._tell(ids, places, self.meet)

    def counts(self, text_bytes: int) -> Counts:
        """Of all that was added: to be asked once."""
        if self.eot_opens and self.number:
            self._count(np.array([self.tokens - self.last]))
            if self.meet is not None and self._hash is not None:
                self.meet(self._hash.digest())
        used = np.trim_zeros(self.lengths, "b").tolist()
        return Counts(documents=self.number, tokens=self.tokens, bytes=text_bytes, lengths=tuple(used))

    def _tell(self, ids: Tokens, places: Lengths, meet: Callable[[bytes], None]) -> None:
        content, width, start = ids.view(np.uint8).data, ids.itemsize, 0
        for place in places.tolist():
            if self._hash is not None:
                self._hash.update(content[start * width : place * width])
                meet(self._hash.digest())
            self._hash, start = _new_hash(), place + 1
        if self._hash is not None:
            self._hash.update(content[start * width :])

    def _count(self, lengths: Lengths) -> None:
        """Powers of two, exactly: frexp gives the exponent of 2^k .. 2^(k+1) - 1 as k + 1."""
        self.lengths += np.bincount(np.frexp(lengths)[1] - 1, minlength=64)


def _new_hash() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)


class _Overlap:
    """Validation documents that are training documents too. Held are the hashes of validation alone, of train none."""

    def __init__(self) -> None:
        self.found = 0
        self._missing: Counter[bytes] = Counter()

    def remember(self, digest: bytes) -> None:
        """A validation document; all of them come before the first of train. An empty one is no text that leaks."""
        if digest != _new_hash().digest():
            self._missing[digest] += 1

    def look_up(self, digest: bytes) -> None:
        """A training document."""
        self.found += self._missing.pop(digest, 0)


class _Progress(ProgressDisplay):
    def __init__(self, label: str, total: int) -> None:
        super().__init__(label)
        self._total, self._done, self._began = total, 0, time.monotonic()

    def add(self, size: int) -> None:
        self._done += size
        rate = self._done / max(time.monotonic() - self._began, 1e-9)
        figures = f"checked {self._done / 1e6:,.0f} of {self._total / 1e6:,.0f} MB, {rate / 1e6:,.0f} MB/s"
        self.tell(figures, self._done, self._total)
