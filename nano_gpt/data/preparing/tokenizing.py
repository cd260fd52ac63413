"""One part of a source -> chunks of ids on disk: the work of one process.

A chunk is closed every few seconds of work, between two documents. Where it ends has no influence on the set, because
packing puts all chunks together again: so a chunk may end whenever that is convenient, also because of Ctrl-C.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import BinaryIO

import numpy as np

from nano_gpt.data.preparing.splitting import Document, cleaned
from nano_gpt.data.preparing.unfinished import Chunk, PartRecord, Plan, Unfinished
from nano_gpt.data.sources.base import Source
from nano_gpt.data.sources.texts import Text
from nano_gpt.errors import DataError
from nano_gpt.runtime.files import atomic_file
from nano_gpt.tokenizer.base import Tokenizer
from nano_gpt.tokenizer.pieces import pieces_of

SPLITS = ("train", "validation")
# What is lost when a process is killed, and what it costs in files: about 5 seconds of work and 33 MB.
CHUNK_TOKENS, CHUNK_DOCUMENTS, CHUNK_SECONDS = 2**24, 2**17, 30.0
DOCUMENT = np.dtype([("digest", "<u8", (2,)), ("tokens", "<i8"), ("bytes", "<i8"), ("split", "u1")])
"""A document of a chunk: 128 bits that identify its text, ids with `<|endoftext|>`, bytes of text, place in SPLITS."""
_PACKED = struct.Struct("<16sqqB")  # the same
assert _PACKED.size == DOCUMENT.itemsize

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
    """Go on with part `index` until it is done, its share of the plan's limits is reached, or `stopping()`.

    `report` is told of every document: 1, its tokens, its bytes. Raises what the source raises, DiskFullError, and
    DataError for an id that is none of the tokenizer's; chunks that are finished are kept.
    """
    record = files.part(index)
    texts = _texts(source, plan, index, record)
    splits = tuple(split for split in SPLITS if split in plan.manifest.splits)
    limit_reached = False
    while not record.done:
        with _ChunkWriter(index, len(record.chunks), tokenizer, plan.manifest.dtype, splits, files) as chunk:
            consumed, exhausted = record.consumed, True
            for text in texts:
                consumed += 1
                if text is not None:
                    for document in plan.rule.apply(text, plan.parts[index].split):
                        if document.split in splits:
                            report(1, chunk.write(document), document.size)
                    limit_reached = plan.parts[index].split != "validation" and _reached(plan, record, chunk)
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


def pieces_of_text(text: Text) -> Iterator[str]:
    """A text cut between words, so that the ids of a long one need not all be in memory."""
    return pieces_of(text) if isinstance(text, str) else text.pieces()


def _texts(source: Source, plan: Plan, index: int, record: PartRecord) -> Iterator[Text | None]:
    """What is left of a part; None for a text that is no document."""
    if record.done:
        return iter(())
    texts = source.read(plan.parts[index], record.state)
    return cleaned(texts if record.state is not None else islice(texts, record.consumed, None))


def _reached(plan: Plan, record: PartRecord, chunk: _ChunkWriter) -> bool:
    """Whether this part alone is all that the plan's limits let through."""
    return (plan.max_documents is not None and record.documents + chunk.documents >= plan.max_documents) or (
        plan.max_tokens is not None and record.tokens + chunk.tokens >= plan.max_tokens
    )


class _ChunkWriter:
    """The files of one chunk. A context manager: what is not closed is removed."""

    def __init__(
        self, part: int, number: int, tokenizer: Tokenizer, dtype: str, splits: Iterable[str], files: Unfinished
    ) -> None:
        self._tokenizer = tokenizer
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._eot = np.array([tokenizer.eot_id], self._dtype).tobytes()
        self._paths = {split: files.tokens_file(part, number, split) for split in splits}
        self._index_path = files.documents_file(part, number)
        self._index = bytearray()
        self._tokens = dict.fromkeys(splits, 0)
        self._bytes = 0
        self._begun = time.monotonic()
        self._stack = ExitStack()
        self._open: dict[str, BinaryIO] = {}

    @property
    def documents(self) -> int:
        return len(self._index) // _PACKED.size

    @property
    def tokens(self) -> int:
        return sum(self._tokens.values())

    @property
    def is_full(self) -> bool:
        return bool(self._index) and (
            self.tokens >= CHUNK_TOKENS
            or self.documents >= CHUNK_DOCUMENTS
            or time.monotonic() - self._begun >= CHUNK_SECONDS
        )

    def write(self, document: Document) -> int:
        """Returns how many ids it has, `<|endoftext|>` included."""
        if document.split not in self._open:
            temporary = self._stack.enter_context(atomic_file(self._paths[document.split]))
            self._open[document.split] = self._stack.enter_context(temporary.open("wb", buffering=2**20))
        file = self._open[document.split]
        file.write(self._eot)
        tokens = 1
        for piece in pieces_of_text(document.text):
            ids = self._tokenizer.encode_to_numpy(piece)
            if len(ids) and int(ids.max()) >= self._tokenizer.vocab_size:
                name, size = self._tokenizer.name, self._tokenizer.vocab_size
                raise DataError(f"tokenizer {name} gave id {ids.max()} and has {size} ids")
            file.write(ids.astype(self._dtype).data)
            tokens += len(ids)
        self._index += _PACKED.pack(document.digest, tokens, document.size, SPLITS.index(document.split))
        self._tokens[document.split] += tokens
        self._bytes += document.size
        return tokens

    def close(self) -> Chunk:
        with atomic_file(self._index_path) as temporary, temporary.open("wb") as file:
            np.save(file, np.frombuffer(self._index, DOCUMENT))
        self._stack.close()
        return Chunk(documents=self.documents, tokens=self._tokens, bytes=self._bytes)

    def __enter__(self) -> _ChunkWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]
