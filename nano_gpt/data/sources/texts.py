"""The text of a document: a string, or a stretch of a file that is too long to be held in memory."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nano_gpt.data.sources.compressed import temporary_file
from nano_gpt.errors import DataError
from nano_gpt.tokenizer.pieces import pieces_of_blocks

LONG_BYTES = 2**24  # from here on a document is a LongText
_BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class LongText:
    """Bytes `start` .. `stop` - 1 of a UTF-8 file, read block by block whenever they are needed."""

    path: Path
    start: int
    stop: int
    encoding_errors: str = "strict"
    """`strict`, or `replace` for U+FFFD in the place of bytes that are not UTF-8."""
    original: Path | None = None
    """The file that errors name where `path` is a copy of a stretch of it."""
    shift: int = 0
    """What to add to a place in `path` to get the place in `original`."""

    @property
    def size(self) -> int:
        """Bytes in the file; the text has another number of them where some are replaced."""
        return self.stop - self.start

    def blocks(self) -> Iterator[str]:
        """The text, cut anywhere.

        Raises DataError for bytes that are not UTF-8, where these are strict, and for a file that has become shorter.
        """

        def broken(place: int, reason: str) -> DataError:
            return not_utf8(self.original or self.path, self.start + place + self.shift, reason)

        return decoded(self._contents(self.start, self.stop), self.encoding_errors, broken)

    def pieces(self) -> Iterator[str]:
        """The text, cut between words: ids of the pieces, put together, are those of the whole."""
        return pieces_of_blocks(self.blocks())

    def is_blank(self) -> bool:
        """Whether there is nothing but white space; ends at the first block that has anything else."""
        return all(block.isspace() for block in self.blocks())

    def cut(self, fraction: float) -> tuple[LongText, LongText]:
        """Two texts, the second with about this share of the bytes.

        The first ends behind the last blank line, else line end, else character, in the tenth before the share.
        """
        end = self.start + min(max(1, int(self.size * (1 - fraction))), self.size - 1)
        end = self._last_break(max(end - self.size // 10, self.start + 1), end) or self._character_start(end)
        return self._stretch(self.start, end), self._stretch(end, self.stop)

    def _last_break(self, start: int, stop: int) -> int | None:
        """Behind the last blank line of these bytes, else behind their last line end; None where there is neither."""
        line_end, behind = None, b""
        while stop > start:
            block_start = max(stop - _BLOCK_BYTES, start)
            content = b"".join(self._contents(block_start, stop)) + behind
            if (at := content.rfind(b"\n\n")) >= 0:
                return block_start + at + 2
            if line_end is None and (at := content.rfind(b"\n")) >= 0:
                line_end = block_start + at + 1
            stop, behind = block_start, content[:1]  # a blank line may lie across two blocks
        return line_end

    def _character_start(self, place: int) -> int:
        """The place, or up to three bytes before it, so that no character is cut."""
        first = max(place - 3, self.start + 1)
        content = b"".join(self._contents(first, place + 1))
        for back, byte in enumerate(reversed(content)):
            if byte & 0xC0 != 0x80:  # no continuation byte
                return place - back
        return place  # in a run of stray continuation bytes, each of which is replaced on its own

    def _stretch(self, start: int, stop: int) -> LongText:
        return LongText(self.path, start, stop, self.encoding_errors, self.original, self.shift)

    def _contents(self, start: int, stop: int) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            yield from blocks_of(file, start, stop, self.path)


Text = str | LongText


@contextmanager
def kept_in_file(blocks: Iterable[str], copies: Path) -> Iterator[LongText]:
    """A text that comes in blocks without lone surrogates, in a file of the folder `copies` that is removed after."""
    with temporary_file(copies) as copy:
        with copy.open("wb") as file:
            file.writelines(block.encode() for block in blocks)
        yield LongText(copy, 0, copy.stat().st_size)


def decoded(
    contents: Iterable[bytes | memoryview], errors: str, broken: Callable[[int, str], DataError]
) -> Iterator[str]:
    """The text of UTF-8 that is cut anywhere.

    Raises `broken(place, reason)` for a byte, counted from the first, that begins no character, unless `errors` is
    `replace`.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    position = 0

    def decode(content: bytes | memoryview, *, final: bool = False) -> str:
        begun = len(decoder.getstate()[0])  # of a character that the block before ended in
        try:
            return decoder.decode(content, final)
        except UnicodeDecodeError as error:
            raise broken(position - begun + error.start, error.reason) from None

    for content in contents:
        if block := decode(content):
            yield block
        position += len(content)
    if block := decode(b"", final=True):
        yield block


def blocks_of(file: BinaryIO, start: int, stop: int, path: Path, block_bytes: int = _BLOCK_BYTES) -> Iterator[bytes]:
    """Bytes `start` .. `stop` - 1 of a file. Raises DataError where it is shorter than that."""
    file.seek(start)
    while start < stop:
        content = file.read(min(block_bytes, stop - start))
        if not content:
            raise DataError(f"{path} has become shorter while it was read: it ended at byte {start:,}", "run it again")
        start += len(content)
        yield content


def not_utf8(path: Path, place: int, reason: str) -> DataError:
    """The error for a file with a byte that begins no character, at `place` of its decompressed content."""
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    return DataError(
        f"{path}: not UTF-8 at byte {place:,}: {reason}",
        f"convert it first, as in iconv -f latin1 -t utf-8 {name} > utf8-{name}; "
        "or put U+FFFD in the place of such bytes: --encoding-errors replace",
    )


def no_column(where: str, column: str, columns: list[str]) -> DataError:
    """The error for a table without the column that was asked for."""
    listed = ", ".join(columns[:20]) + (", ..." if len(columns) > 20 else "")
    return DataError(
        f"{where}: column {column!r} not found; columns: {listed or 'none'}",
        "name the one that holds the text: --text-column NAME",
    )
