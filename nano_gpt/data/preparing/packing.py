"""The chunks of all parts -> full shards: which documents there are in the end, and where their tokens go.

Everything here follows the order of the source, so it does not matter who tokenised what, nor when. The list of
documents is read, 33 bytes for each; tokens are only copied, a few megabytes at a time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nano_gpt.data.manifest import Counts, Manifest
from nano_gpt.data.preparing.tokenizing import SPLITS
from nano_gpt.data.preparing.unfinished import Chunk, Plan, Unfinished
from nano_gpt.data.shards import Shard, Tokens, write_shard

BUCKET_DOCUMENTS = 2**21  # compared at a time: about 250 MB
_BLOCK_TOKENS = 2**21

Mask = npt.NDArray[np.bool_]
Index = npt.NDArray[np.void]  # of tokenizing.DOCUMENT


class ChunkPlace(NamedTuple):
    part: int
    number: int


class Kept(NamedTuple):
    """What is left of a corpus's documents."""

    masks: dict[ChunkPlace, Mask]
    """(documents,) for every chunk that has any; False where it is left out."""
    duplicates: int
    """Left out because an earlier one has the same text."""
    validation_in_train: int
    """Of those that are kept for validation: how many have the text of a training document."""


def pack(plan: Plan, files: Unfinished, *, dedup: bool, show: Callable[[int, int], None]) -> Manifest:
    """Write all shards, or those that a run before has not, and return the manifest of the set.

    `show(done, total)` is told how many tokens are packed. Chunks are deleted as soon as nothing needs them any more,
    so that the set is never on disk twice. Raises DiskFullError, and DataError for a chunk that is damaged.
    """
    chunks = _Chunks(plan, files)
    kept = choose(plan, chunks, dedup=dedup)
    layouts = {split: _layout(split, plan, chunks, kept) for split in plan.manifest.splits}
    total, done = sum(layout.counts.tokens for layout in layouts.values()), 0
    shards: list[Shard] = []
    for split, layout in layouts.items():
        for number, documents in enumerate(layout.documents_per_shard):
            name = f"{split}_{number:06d}"
            start = number * plan.manifest.tokens_per_shard
            stop = min(start + plan.manifest.tokens_per_shard, layout.counts.tokens)
            shard = files.packed(name)
            if shard is None:
                chunks.check(layout.files_of(start, stop))
                shard = write_shard(
                    files.folder / f"{name}.npy",
                    split,
                    plan.manifest.dtype,
                    stop - start,
                    documents,
                    layout.read(start, stop, plan.manifest.dtype),
                )
                files.write_packed(name, shard)
            layout.delete_before(stop)
            shards.append(shard)
            done += shard.tokens
            show(done, total)
    return plan.manifest.model_copy(
        update={
            "splits": {split: layout.counts for split, layout in layouts.items()},
            "shards": tuple(shards),
            "duplicates_dropped": kept.duplicates,
            "validation_in_train": kept.validation_in_train,
        }
    )


class _Chunks:
    """The files of all chunks, in the order of the source."""

    def __init__(self, plan: Plan, files: Unfinished) -> None:
        self._files = files
        self._chunks: dict[ChunkPlace, Chunk] = {}
        for part in range(len(plan.parts)):
            for number, chunk in enumerate(files.part(part).chunks):
                self._chunks[ChunkPlace(part, number)] = chunk
        self.sizes = {place: chunk.documents for place, chunk in self._chunks.items()}
        self._whole: set[Path] = set()
        self.check((place, files.documents_file(*place)) for place in self._chunks)

    def read(self, place: ChunkPlace) -> Index:
        """The list of a chunk's documents."""
        index: Index = np.load(self._files.documents_file(*place))
        return index

    def tokens_file(self, place: ChunkPlace, split: str) -> Path:
        return self._files.tokens_file(*place, split)

    def check(self, files: Iterable[tuple[ChunkPlace, Path]]) -> None:
        """Raises DataError for a damaged one. Each is looked at once; several at a time: packing has one thread."""
        new = {path: place for place, path in files if path not in self._whole}
        if new:
            with ThreadPoolExecutor(min(len(new), 8)) as pool:
                list(pool.map(lambda path: self._files.check(new[path].part, self._chunks[new[path]], path), new))
        self._whole.update(new)


def choose(plan: Plan, chunks: _Chunks, *, dedup: bool) -> Kept:
    """Which documents the set consists of: those within the limits, and with `dedup` the first of every text."""
    masks = {place: mask for place in chunks.sizes if (mask := np.ones(chunks.sizes[place], np.bool_)).size}
    if plan.max_documents is not None or plan.max_tokens is not None:
        masks = _within_limits(plan, chunks)
    documents = sum(int(mask.sum()) for mask in masks.values())
    buckets = -(-documents // BUCKET_DOCUMENTS)
    duplicates = validation_in_train = 0
    for bucket in range(buckets):
        more = _compare(chunks, masks, bucket, buckets, drop=dedup)
        duplicates += more[0]
        validation_in_train += more[1]
    return Kept(masks, duplicates, validation_in_train)


def _within_limits(plan: Plan, chunks: _Chunks) -> dict[ChunkPlace, Mask]:
    """The first documents of the source, up to the one that reaches a limit. It is kept too: none is cut."""
    masks: dict[ChunkPlace, Mask] = {}
    documents = tokens = 0
    for place, size in chunks.sizes.items():
        if plan.parts[place.part].split == "validation":  # the source's own: taken whole, and not counted
            masks[place] = np.ones(size, np.bool_)
            continue
        if plan.max_documents is not None and documents >= plan.max_documents:
            continue
        if plan.max_tokens is not None and tokens >= plan.max_tokens:
            continue
        before = tokens + np.concatenate([[0], np.cumsum(chunks.read(place)["tokens"])])  # before each, and after all
        number = size if plan.max_documents is None else min(size, plan.max_documents - documents)
        if plan.max_tokens is not None:
            number = min(number, int(np.searchsorted(before[:-1], plan.max_tokens)))
        masks[place] = np.arange(size) < number
        documents, tokens = documents + number, int(before[number])
    return masks


def _compare(
    chunks: _Chunks, masks: dict[ChunkPlace, Mask], bucket: int, buckets: int, *, drop: bool
) -> tuple[int, int]:
    """Equal texts among the documents of one bucket: (how many were dropped, validation ones that are in train too).

    Texts are equal when 128 bits of their hash are; equal ones are in the same bucket.
    """
    places = list(masks)
    digests, splits, origins = [], [], []
    for number, place in enumerate(places):
        index = chunks.read(place)
        mine = np.flatnonzero(masks[place] & (index["digest"][:, 0] % np.uint64(buckets) == bucket))
        digests.append(index["digest"][mine])
        splits.append(index["split"][mine])
        origins.append(np.stack([np.full(len(mine), number), mine], axis=1))
    digest, split, origin = np.concatenate(digests), np.concatenate(splits), np.concatenate(origins)
    order = np.lexsort((digest[:, 1], digest[:, 0]))  # stable: equal ones stay in the order of the source
    sorted_digests, split = digest[order], split[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (sorted_digests[1:] != sorted_digests[:-1]).any(axis=1)
    if drop:
        dropped = origin[np.sort(order[~first])]
        ends = np.searchsorted(dropped[:, 0], np.arange(len(places)), side="right").tolist()
        for place, start, end in zip(places, [0, *ends], ends, strict=False):
            masks[place][dropped[start:end, 1]] = False
        return len(dropped), 0
    group = np.cumsum(first) - 1
    in_train = np.zeros(int(first.sum()), np.bool_)
    in_train[group[split == SPLITS.index("train")]] = True
    return 0, int((in_train[group] & (split == SPLITS.index("validation"))).sum())


class Run(NamedTuple):
    """Consecutive tokens of a chunk's file that are kept, and where in the split they come."""

    start: int
    file: Path
    offset: int
    tokens: int


class _TokensFile(NamedTuple):
    place: ChunkPlace
    path: Path
    end: int
    """Before which token of the split its last one stands."""


@dataclass(frozen=True)
class _Layout:
    """Where the tokens of a split come from."""

    counts: Counts
    documents_per_shard: list[int]
    runs: Sequence[Run]
    files: Sequence[_TokensFile]
    """In order."""

    def files_of(self, start: int, stop: int) -> Iterator[tuple[ChunkPlace, Path]]:
        """Those that tokens start .. stop - 1 of the split come from."""
        first = bisect_right(self.files, start, key=lambda file: file.end)
        last = bisect_left(self.files, stop, key=lambda file: file.end)
        return ((file.place, file.path) for file in self.files[first : last + 1])

    def read(self, start: int, stop: int, dtype: str) -> Iterator[Tokens]:
        """Tokens start .. stop - 1 of the split, in blocks."""
        size = np.dtype(dtype).itemsize
        first = bisect_right(self.runs, start, key=lambda run: run.start) - 1
        for run in islice(self.runs, first, None):
            if run.start >= stop:
                break
            low, high = max(start, run.start), min(stop, run.start + run.tokens)
            for block in range(low, high, _BLOCK_TOKENS):
                count = min(_BLOCK_TOKENS, high - block)
                yield np.fromfile(run.file, dtype, count, offset=(run.offset + block - run.start) * size)

    def delete_before(self, stop: int) -> None:
        """Remove the files of which nothing from token `stop` on is needed."""
        for file in self.files:
            if file.end > stop:
                break
            file.path.unlink(missing_ok=True)


def _layout(split: str, plan: Plan, chunks: _Chunks, kept: Kept) -> _Layout:
    documents = tokens = size = 0
    starts_per_shard = np.zeros(1, np.int64)
    lengths = np.zeros(64, np.int64)
    runs: list[Run] = []
    files: list[_TokensFile] = []
    for place, mask in kept.masks.items():
        index = chunks.read(place)
        here = index["split"] == SPLITS.index(split)
        mine, keep = index[here], mask[here]
        if not keep.any():
            continue
        ends = np.cumsum(mine["tokens"])
        bounds = np.flatnonzero(np.diff(np.concatenate([[False], keep, [False]])))  # where keeping begins and ends
        position, file = tokens, chunks.tokens_file(place, split)
        for first, last in zip(bounds[0::2].tolist(), bounds[1::2].tolist(), strict=True):
            offset = int(ends[first] - mine["tokens"][first])
            count = int(ends[last - 1]) - offset
            runs.append(Run(position, file, offset, count))
            position += count
        files.append(_TokensFile(place, file, position))
        kept_tokens = mine["tokens"][keep]
        starts = tokens + np.cumsum(kept_tokens) - kept_tokens
        counted = np.bincount(starts // plan.manifest.tokens_per_shard)
        starts_per_shard = _added(starts_per_shard, counted)
        lengths += np.bincount(np.log2(kept_tokens).astype(np.int64), minlength=64)
        documents, tokens, size = documents + len(kept_tokens), position, size + int(mine["bytes"][keep].sum())
    shards = -(-tokens // plan.manifest.tokens_per_shard)
    starts_per_shard = _added(starts_per_shard, np.zeros(shards, np.int64))
    used = int(np.flatnonzero(lengths).max(initial=-1)) + 1
    return _Layout(
        Counts(documents=documents, tokens=tokens, bytes=size, lengths=tuple(lengths[:used].tolist())),
        starts_per_shard[:shards].tolist(),
        runs,
        files,
    )


def _added(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The sum of two arrays of which the shorter one goes on with zeros."""
    total = np.zeros(max(len(first), len(second)), np.int64)
    total[: len(first)] += first
    total[: len(second)] += second
    return total
