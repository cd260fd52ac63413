"""Documents of .txt files: cut at separators, never more than one in memory, and not even one that is long.

A file is read block by block. Cutting at the separator's bytes is, in UTF-8, the same as cutting at its characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

from nano_gpt.data.sources.compressed import blocks, decompressed, temporary_file
from nano_gpt.data.sources.texts import LONG_BYTES, LongText, Text, blocks_of, not_utf8
from nano_gpt.tokenizer.base import END_OF_TEXT

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Separator:
    """What stands between two documents. A pattern is searched with the byte before in sight."""

    pattern: re.Pattern[bytes]
    at_end: re.Pattern[bytes]
    """The pattern for what nothing follows."""
    longest: int
    """Bytes that a match may have."""


def separator(text: str | None) -> Separator:
    """That of your own; None: a line that holds only <|endoftext|> and, at most 255, blanks behind it."""
    if text is not None:
        pattern = re.compile(re.escape(text.encode()))
        return Separator(pattern, pattern, len(text.encode()))
    line = rb"(?<=\n)" + re.escape(END_OF_TEXT.encode()) + rb"[ \t]{0,255}\r?"
    return Separator(re.compile(line + rb"\n"), re.compile(line + rb"(?:\n|\Z)"), len(END_OF_TEXT) + 257)


LINE_END = separator("\n")


class Document(NamedTuple):
    text: Text
    following: int | None
    """Where the next document begins: its first byte in a plain file, its number in a compressed one. None: none."""


def text_start(path: Path) -> int:
    """Behind a byte order mark."""
    with path.open("rb") as file:
        return len(BYTE_ORDER_MARK) if file.read(3) == BYTE_ORDER_MARK else 0


def plain_documents(path: Path, start: int, stop: int, between: Separator, errors: str) -> Iterator[Document]:
    """The documents of bytes `start` .. `stop` - 1, where a document begins, of an uncompressed file.

    Raises DataError for bytes that are not UTF-8, unless `errors` is `replace`.
    """
    with path.open("rb") as file:
        begun, size = start, 0
        kept: list[bytes] = []
        for stretch in _split(blocks_of(file, start, stop, path), between, start):
            size += len(stretch.content)
            if size < LONG_BYTES:
                kept.append(stretch.content)
            if not stretch.is_last:
                continue
            if size < LONG_BYTES:
                yield Document(_decode(b"".join(kept), path, begun, errors), stretch.following)
            else:
                yield Document(LongText(path, begun, begun + size, errors), stretch.following)
            begun, size, kept = stretch.following or 0, 0, []


def compressed_documents(
    path: Path, compression: str, between: Separator, errors: str, copies: Path
) -> Iterator[Document]:
    """All documents of a .txt.gz or .txt.zst; a long one is copied to the folder `copies` until the next is asked for.

    Raises like `plain_documents`, with the place in the decompressed text, and for a damaged archive.
    """
    with decompressed(path, compression) as stream, ExitStack() as stack:
        head = stream.read(len(BYTE_ORDER_MARK))
        begun, size, number = len(head) if head == BYTE_ORDER_MARK else 0, 0, 0
        kept: list[bytes] = []
        copy: BinaryIO | None = None
        for stretch in _split(chain([head[begun:]], blocks(stream)), between, begun):
            size += len(stretch.content)
            kept.append(stretch.content)
            if size >= LONG_BYTES:
                if copy is None:
                    copy = stack.enter_context(stack.enter_context(temporary_file(copies)).open("wb"))
                copy.writelines(kept)
                kept.clear()
            if not stretch.is_last:
                continue
            number += 1
            following = None if stretch.following is None else number
            if copy is None:
                if size or stretch.following is not None or number > 1:  # an empty file holds no document
                    yield Document(_decode(b"".join(kept), path, begun, errors), following)
            else:
                copy.flush()
                yield Document(LongText(Path(copy.name), 0, size, errors, path, begun), following)
                stack.close()
                copy = None
            begun, size, kept = stretch.following or 0, 0, []


def boundary(path: Path, place: int, start: int, stop: int, between: Separator) -> tuple[int, int] | None:
    """Where a part of a file may end and the next one begin: a separator at `place` or behind it; None: there is none.

    It is one that reading on from `start` would find too: no other, which might have been taken instead, overlaps it
    from before. Only the bytes up to there are read.
    """
    base = max(start, place - between.longest)
    buffer, taken = b"\n", base  # the byte before `start` counts as the end of a line
    base -= 1
    with path.open("rb") as file:
        for block in blocks_of(file, base + 1, stop, path):
            buffer += block
            at = 1
            while (match := between.pattern.search(buffer, at)) is not None:
                if base + match.start() >= max(place, taken):
                    return base + match.start(), base + match.end()
                taken = max(taken, base + match.end())
                at = match.start() + 1
            keep = min(len(buffer) - 1, between.longest)
            base += len(buffer) - keep - 1
            buffer = buffer[len(buffer) - keep - 1 :]
    return None


class _Stretch(NamedTuple):
    content: bytes
    is_last: bool
    """Of its document."""
    following: int | None
    """Where the next document begins; None within a document and at the end of all."""


def _split(content: Iterable[bytes], between: Separator, start: int) -> Iterator[_Stretch]:
    """Everything from byte `start`, where a document begins, without the separators."""
    buffer, at = b"\n", 1
    base = start - 1
    for block in content:
        base += at - 1
        buffer, at = buffer[at - 1 :] + block, 1
        for match in between.pattern.finditer(buffer, at):
            yield _Stretch(buffer[at : match.start()], True, base + match.end())
            at = match.end()
        sure = len(buffer) - between.longest + 1  # from here on a separator may have begun
        if sure > at:
            yield _Stretch(buffer[at:sure], False, None)
            at = sure
    for match in between.at_end.finditer(buffer, at):
        yield _Stretch(buffer[at : match.start()], True, base + match.end())
        at = match.end()
    yield _Stretch(buffer[at:], True, None)


def _decode(content: bytes, path: Path, start: int, errors: str) -> str:
    try:
        return content.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise not_utf8(path, start + error.start, error.reason) from None
