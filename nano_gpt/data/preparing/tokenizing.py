"""One part of a source -> chunks of ids on disk: the work of one process.

A chunk is closed every few seconds of work, between two documents. Where it ends has no influence on the set, because
packing puts all chunks together again: so a chunk may end whenever that is convenient, also because of Ctrl-C.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby, islice
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from nano_gpt.data.preparing.splitting import Document, cleaned
from nano_gpt.data.preparing.unfinished import Chunk, PartRecord, Plan, Unfinished
from nano_gpt.data.sources.base import Source
from nano_gpt.data.sources.texts import LongText, Text
from nano_gpt.errors import DataError
from nano_gpt.runtime.files import atomic_file
from nano_gpt.tokenizer.base import Ids, Tokenizer
from nano_gpt.tokenizer.pieces import pieces_of

SPLITS = ("train", "validation")
# What is lost when a process is killed, and what it costs in files: about 5 seconds of work and 33 MB.
CHUNK_TOKENS, CHUNK_DOCUMENTS, CHUNK_SECONDS = 2**24, 2**17, 30.0
# A chunk of a sample is no more than a sixteenth of it, or this: by what is on disk the processes know when to end.
_LEAST_TOKENS, _LEAST_DOCUMENTS = 2**20, 2**10
DOCUMENT = np.dtype([("digest", "<u8", (2,)), ("tokens", "<i8"), ("bytes", "<i8"), ("split", "u1")])
"""A document of a chunk: 128 bits that identify its text, ids with `<|endoftext|>`, bytes of text, place in SPLITS."""
# Texts that are encoded at once: enough to be fast, and no more than come in a moment, for whose end Ctrl-C waits.
_BATCH_CHARACTERS, _BATCH_SECONDS = 2**18, 0.2

Report = Callable[[int, int, int], None]


def tokenise_part(
    index: int,
    source: Source,
    tokenizer: Tokenizer,
    plan: Plan,
    files: Unfinished,
    report: Report,
    stopping: Callable[[], bool] = lambda: False,
) -> PartRecord:
    """Go on with part `index` until it is done, it is sure to hold all that the limits let through, or `stopping()`.

    `report` is told of documents, their tokens and their bytes as they are done. Raises what the source raises,
    DiskFullError, and DataError for an id that is none of the tokenizer's; chunks that are finished are kept.
    """
    record = files.part(index)
    batches = _batches(_texts(source, plan, index, record))
    splits = tuple(split for split in SPLITS if split in plan.manifest.splits)
    limited = index in limited_parts(plan)
    limit_reached = False
    while not record.done:
        documents, tokens = _on_disk(index, plan, files) if limited else (0, 0)
        with _ChunkWriter(index, len(record.chunks), tokenizer, plan, splits, files) as chunk:
            consumed, exhausted = record.consumed, True
            for batch in batches:
                consumed += len(batch)
                report(*chunk.write(_documents(batch, plan, index, splits)))
                limit_reached = limited and is_enough(plan, documents + chunk.documents, tokens + chunk.tokens)
                if limit_reached or chunk.is_full or stopping():
                    exhausted = False
                    break
            record = PartRecord(
                chunks=(*record.chunks, chunk.close()) if chunk.documents else record.chunks,
                consumed=consumed,
                state=source.state() if not exhausted else None,
                done=exhausted or limit_reached,
            )
        files.write_part(index, record)
        if stopping():
            break
    return record


def limited_parts(plan: Plan) -> list[int]:
    """The parts that the plan's limits are about: a validation split that the source brings is taken whole."""
    limited = plan.max_documents is not None or plan.max_tokens is not None
    return [index for index, part in enumerate(plan.parts) if limited and part.split != "validation"]


def is_enough(plan: Plan, documents: int, tokens: int) -> bool:
    """Whether a limit of the plan lets through no more than these."""
    return (plan.max_documents is not None and documents >= plan.max_documents) or (
        plan.max_tokens is not None and tokens >= plan.max_tokens
    )


def pieces_of_text(text: Text) -> Iterator[str]:
    """A text cut between words, so that the ids of a long one need not all be in memory."""
    return pieces_of(text) if isinstance(text, str) else text.pieces()


def _texts(source: Source, plan: Plan, index: int, record: PartRecord) -> Iterator[Text | None]:
    """What is left of a part; None for a text that is no document."""
    if record.done:
        return iter(())
    texts = source.read(plan.parts[index], record.state)
    return cleaned(texts if record.state is not None else islice(texts, record.consumed, None))


def _batches(texts: Iterable[Text | None]) -> Iterator[list[Text | None]]:
    """The same, some at a time. A long text is the last of its batch: it may be gone when the next one is read."""
    batch: list[Text | None] = []
    characters, begun = 0, time.monotonic()
    for text in texts:
        batch.append(text)
        characters += len(text) if isinstance(text, str) else 0
        is_full = characters >= _BATCH_CHARACTERS or time.monotonic() - begun >= _BATCH_SECONDS
        if is_full or isinstance(text, LongText):
            yield batch
            batch, characters, begun = [], 0, time.monotonic()
    if batch:
        yield batch


def _documents(texts: Iterable[Text | None], plan: Plan, part: int, splits: Sequence[str]) -> list[Document]:
    """What texts of a part become in these splits."""
    given = plan.parts[part].split
    documents = (document for text in texts if text is not None for document in plan.rule.apply(text, given))
    return [document for document in documents if document.split in splits]


def _on_disk(index: int, plan: Plan, files: Unfinished) -> tuple[int, int]:
    """Documents and tokens of limited part `index` and those before it, which become no fewer while others work."""
    records = [files.part(part) for part in limited_parts(plan) if part <= index]
    return sum(record.documents for record in records), sum(record.tokens for record in records)


def _most(most: int, limit: int | None, least: int) -> int:
    return most if limit is None else min(most, max(limit // 16, least))


class _ChunkWriter:
    """The files of one chunk. A context manager: what is not closed is removed."""

    def __init__(
        self, part: int, number: int, tokenizer: Tokenizer, plan: Plan, splits: Iterable[str], files: Unfinished
    ) -> None:
        self._tokenizer = tokenizer
        self._most_documents = _most(CHUNK_DOCUMENTS, plan.max_documents, _LEAST_DOCUMENTS)
        self._most_tokens = _most(CHUNK_TOKENS, plan.max_tokens, _LEAST_TOKENS)
        self._dtype = np.dtype(plan.manifest.dtype).newbyteorder("<")
        self._paths = {split: files.tokens_file(part, number, split) for split in splits}
        self._index_path = files.documents_file(part, number)
        self._index: list[npt.NDArray[np.void]] = []
        self._documents = 0
        self._tokens = dict.fromkeys(splits, 0)
        self._bytes = 0
        self._begun = time.monotonic()
        self._stack = ExitStack()
        self._open: dict[str, BinaryIO] = {}

    @property
    def documents(self) -> int:
        return self._documents

    @property
    def tokens(self) -> int:
        return sum(self._tokens.values())

    @property
    def is_full(self) -> bool:
        return bool(self._documents) and (
            self.tokens >= self._most_tokens
            or self.documents >= self._most_documents
            or time.monotonic() - self._begun >= CHUNK_SECONDS
        )

    def write(self, documents: Sequence[Document]) -> tuple[int, int, int]:
        """Returns how many documents, ids, `<|endoftext|>` included, and bytes of text these are."""
        tokens = self.tokens
        for is_text, group in groupby(documents, key=lambda document: isinstance(document.text, str)):
            if is_text:
                self._write_texts(list(group))
            else:
                for document in group:
                    self._write_long_text(document)
        size = sum(document.size for document in documents)
        self._documents += len(documents)
        self._bytes += size
        return len(documents), self.tokens - tokens, size

    def _write_texts(self, documents: Sequence[Document]) -> None:
        ids, lengths = self._tokenizer.document_encoder([str(document.text) for document in documents])
        splits = self._append_to_index(documents, lengths)
        for split in {document.split: None for document in documents}:
            self._append(split, ids[np.repeat(splits == SPLITS.index(split), lengths)])

    def _write_long_text(self, document: Document) -> None:
        assert isinstance(document.text, LongText)
        before = self._tokens[document.split]
        opening = 0  # the encoder opens every piece like a document
        for piece in document.text.pieces():
            self._append(document.split, self._tokenizer.document_encoder([piece]).ids[opening:])
            opening = 1
        self._append_to_index([document], np.array([self._tokens[document.split] - before]))

    def _append_to_index(self, documents: Sequence[Document], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Returns the places in SPLITS."""
        rows = np.zeros(len(documents), DOCUMENT)
        rows["digest"] = np.frombuffer(b"".join([document.digest for document in documents]), "<u8").reshape(-1, 2)
        rows["tokens"] = lengths
        rows["bytes"] = [document.size for document in documents]
        rows["split"] = [SPLITS.index(document.split) for document in documents]
        self._index.append(rows)
        places: npt.NDArray[np.uint8] = rows["split"]
        return places

    def _append(self, split: str, ids: Ids) -> None:
        if len(ids) and int(ids.max()) >= self._tokenizer.vocab_size:
            name, size = self._tokenizer.name, self._tokenizer.vocab_size
            raise DataError(f"tokenizer {name} gave id {ids.max()} and has {size} ids")
        if split not in self._open:
            temporary = self._stack.enter_context(atomic_file(self._paths[split]))
            self._open[split] = self._stack.enter_context(temporary.open("wb", buffering=2**20))
        self._open[split].write(ids.astype(self._dtype).data)
        self._tokens[split] += len(ids)

    def close(self) -> Chunk:
        with atomic_file(self._index_path) as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate(self._index))
        self._stack.close()
        return Chunk(documents=self.documents, tokens=self._tokens, bytes=self._bytes)

    def __enter__(self) -> _ChunkWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]
