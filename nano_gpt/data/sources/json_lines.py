"""Documents of .jsonl files: one column of their lines, and of a long line only a little in memory.

A line is long because of its strings. Those go to a file, piece by piece, and short stand-ins to the parser: so what a
long line means, and what is wrong with it, is said by the same parser as for all others.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pydantic_core import from_json

from nano_gpt.data.sources.compressed import BLOCK_BYTES, decompressed, temporary_file
from nano_gpt.data.sources.local_text import Document
from nano_gpt.data.sources.texts import LONG_BYTES, LongText, Text, blocks_of, decoded, no_column, not_utf8
from nano_gpt.errors import DataError
from nano_gpt.tokenizer.base import well_formed

_COUNTED_BYTES = 2**30  # lines before a faulty one are counted up to here; it takes a second
_PIECE_BYTES = 2**16  # of a long line
_KEPT_CHARACTERS = 1000  # longer strings of a long line get a stand-in; no column has such a name


def plain_lines(path: Path, start: int, stop: int, column: str, errors: str, copies: Path) -> Iterator[Document]:
    """`column` of the lines that begin in bytes `start` .. `stop` - 1, where a line begins, of an uncompressed file.

    A null is an empty text. A long text is copied to the folder `copies` until the next is asked for. Raises DataError,
    with the line, for one that is not an object, or does not have the column, or no text in it, and for bytes that are
    not UTF-8, unless `errors` is `replace`.
    """
    lines = _Lines(path, column, errors, copies, lambda place, _: _line_at(path, place))
    with path.open("rb", buffering=BLOCK_BYTES) as file:
        file.seek(start)
        for text, following in lines.texts(file, start, stop):
            if text is not None:
                yield Document(text, following)


def compressed_lines(path: Path, compression: str, column: str, errors: str, copies: Path) -> Iterator[Document]:
    """The same for all of a .jsonl.gz or .jsonl.zst; raises DataError for a damaged archive, too."""
    lines = _Lines(path, column, errors, copies, lambda _, count: f"line {count:,}")
    number = 0
    with decompressed(path, compression) as stream:
        for text, _ in lines.texts(stream):
            if text is not None:
                number += 1
                yield Document(text, number)


class _Stream:
    """Knows how much of it has been read."""

    def __init__(self, stream: BinaryIO, place: int) -> None:
        self._stream = stream
        self.place = place

    def readline(self, most: int) -> bytes:
        line = self._stream.readline(most)
        self.place += len(line)
        return line


@dataclass(frozen=True)
class _Lines:
    """How the lines of a file are read. `where(place, count)` names the line that begins there, the count-th one."""

    path: Path
    column: str
    errors: str
    copies: Path
    where: Callable[[int, int], str]

    def texts(self, file: BinaryIO, place: int = 0, stop: int | None = None) -> Iterator[tuple[Text | None, int]]:
        """The text of every line, None for a blank one, and where the next line begins."""
        stream, count = _Stream(file, place), 0
        while (stop is None or place < stop) and (line := stream.readline(LONG_BYTES)):
            count += 1
            if len(line) < LONG_BYTES or line.endswith(b"\n"):
                yield self._text(line, place, count), stream.place
            else:
                with self._long_text(_rest_of_line(line, stream), place, count) as text:
                    yield text, stream.place
            place = stream.place

    @contextmanager
    def _long_text(self, contents: Iterator[bytes], place: int, count: int) -> Iterator[Text | None]:
        def broken(at: int, reason: str) -> DataError:
            return not_utf8(self.path, place + at, reason)

        with temporary_file(self.copies) as copy:
            with copy.open("wb") as file:
                line, taken = _shortened(decoded(contents, self.errors, broken), file)
            text = self._text(line.encode(), place, count, taken)
            if text is None or len(text) <= _KEPT_CHARACTERS:
                yield text
            else:
                string = taken[int(text)]
                whole = LongText(copy, string.start, string.stop)
                yield whole if whole.size >= LONG_BYTES else "".join(whole.blocks())

    def _text(self, line: bytes, place: int, count: int, taken: Iterable[_String] = ()) -> str | None:
        """None for a blank line."""
        try:
            row = from_json(line)  # twice as fast as `json`, but knows neither lone surrogates nor a byte order mark
        except ValueError:
            try:
                text = line.decode("utf-8", self.errors).removeprefix("\ufeff")
            except UnicodeDecodeError as error:
                raise not_utf8(self.path, place + error.start, error.reason) from None
            if not text or text.isspace():
                return None
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{self._name(place, count)}: not JSON: {_in_words(error, taken)}") from None
        if not isinstance(row, dict):
            raise DataError(f"{self._name(place, count)}: an object is expected, not {type(row).__name__}")
        if self.column not in row:
            raise no_column(self._name(place, count), self.column, list(row))
        found = row[self.column]
        if found is not None and not isinstance(found, str):
            kind = type(found).__name__
            raise DataError(f"{self._name(place, count)}: column {self.column!r} is {kind}, not text")
        return found or ""

    def _name(self, place: int, count: int) -> str:
        return f"{self.path}, {self.where(place, count)}"


def _line_at(path: Path, place: int) -> str:
    """The number of the line that begins there, or just the place where counting would take long."""
    if place > _COUNTED_BYTES:
        return f"the line at byte {place:,}"
    with path.open("rb") as file:
        before = sum(block.count(b"\n") for block in blocks_of(file, 0, place, path))
    return f"line {1 + before:,}"


# ----------------------------------------------------------------------------------------------- long lines


class _String(NamedTuple):
    """One that has a stand-in."""

    start: int
    stop: int
    """Where its text lies in the file, in UTF-8."""
    at: int
    """Where its stand-in begins in the shortened line."""
    removed: int
    """By how many characters the line became shorter."""


def _rest_of_line(content: bytes, stream: _Stream) -> Iterator[bytes]:
    """A line that begins with `content`."""
    for start in range(0, len(content), _PIECE_BYTES):
        yield content[start : start + _PIECE_BYTES]
    ended = False
    while not ended and (content := stream.readline(_PIECE_BYTES)):
        ended = content.endswith(b"\n")
        yield content


def _shortened(blocks: Iterable[str], file: BinaryIO) -> tuple[str, list[_String]]:
    """A line of JSON with stand-ins for its long strings, whose text goes to `file`.

    The stand-in of string `n` is the number `n` with zeros before it: longer than any string that is left as it is. A
    string that is no JSON ends the line, from there on unchanged: it is what the parser will complain about.
    """
    line: list[str] = []
    length = 0
    taken: list[_String] = []
    string: list[str] = []  # what is not in the file of the one that is read
    characters = start = stop = 0
    pieces = _pieces(blocks)
    for piece, within in chain(pieces, [("", False)]):
        if within:
            string.append(piece)
            characters += len(piece)
            if characters > _KEPT_CHARACTERS:
                try:
                    for part in string:
                        stop += file.write(well_formed(json.loads(f'"{part}"')).encode())
                except ValueError:
                    deque(pieces, maxlen=0)  # what is not UTF-8 is told first, wherever it is
                else:
                    string.clear()
            continue
        kept = "".join(string)
        if stop > start:
            stand_in = f"{len(taken):0{_KEPT_CHARACTERS + 1}}"
            taken.append(_String(start, stop, length, characters - len(kept) - len(stand_in)))
            kept = stand_in + kept
        line += kept, piece
        length += len(kept) + len(piece)
        string, characters, start = [], 0, stop
    return "".join(line), taken


# Whole characters of a string: of `\ud83d`, the first half of a pair of surrogates, only what follows makes that sure.
# Behind any `\u0000` something must follow, since the parser takes one at the end of everything for cut short.
_CHARACTERS = re.compile(
    r"""(?: [^"\\]+ | \\[^u] | \\u (?: (?![dD][89abAB])....(?=.)  |  ....(?= [^\\] | \\[^u] | \\u..... ) ) )*""",
    re.DOTALL | re.VERBOSE,
)


def _pieces(blocks: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """A line of JSON in pieces, and whether each lies between two quotes; such a one holds whole characters."""
    rest, within = "", False
    for block in blocks:
        text, at = rest + block, 0
        while True:
            closing = 0
            if within:
                characters = _CHARACTERS.match(text, at)
                assert characters is not None, "none is a match, too"
                yield characters[0], True
                at, closing = characters.end(), 1
                if text[at : at + 1] != '"':
                    break
            opening = text.find('"', at + closing)
            within = opening >= 0
            end = opening + 1 if within else len(text)
            yield text[at:end], False
            at = end
            if not within:
                break
        rest = text[at:]
    yield rest, False


def _in_words(error: Exception, taken: Iterable[_String]) -> str:
    """With the place in the line as it was before it was shortened."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    removed = sum(string.removed for string in taken if string.at < error.pos)
    column = error.colno + (removed if error.lineno == 1 else 0)
    return f"{error.msg}: line {error.lineno} column {column} (char {error.pos + removed})"
