"""Documents of .jsonl and .parquet files: one column of their rows, a row or a batch of them in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from nano_gpt.data.sources.compressed import BLOCK_BYTES, decompressed
from nano_gpt.data.sources.local_text import Document
from nano_gpt.data.sources.texts import blocks_of, not_utf8
from nano_gpt.errors import DataError

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import ParquetFile

_COUNTED_BYTES = 2**30  # lines before a faulty one are counted up to here; it takes a second
_BATCH_BYTES, _BATCH_ROWS = 2**22, 1024


# ---------------------------------------------------------------------------------------------------- jsonl


def plain_lines(path: Path, start: int, stop: int, column: str, errors: str) -> Iterator[Document]:
    """`column` of the lines that begin in bytes `start` .. `stop` - 1, where a line begins, of an uncompressed file.

    Raises DataError, with the line, for one that is not an object, or does not have the column, or no text in it, and
    for bytes that are not UTF-8, unless `errors` is `replace`.
    """
    with path.open("rb", buffering=BLOCK_BYTES) as file:
        file.seek(start)
        place = start
        while place < stop and (line := file.readline()):
            text = _text_of_line(line, path, place, lambda: _line_at(path, place), column, errors)  # noqa: B023 (now)
            place += len(line)
            del line  # it may be long
            if text is not None:
                yield Document(text, place)


def compressed_lines(path: Path, compression: str, column: str, errors: str) -> Iterator[Document]:
    """The same for all of a .jsonl.gz or .jsonl.zst; raises DataError for a damaged archive, too."""
    with decompressed(path, compression) as stream:
        place = number = count = 0
        while line := stream.readline():
            count += 1
            text = _text_of_line(line, path, place, lambda: f"line {count:,}", column, errors)  # noqa: B023 (now)
            place += len(line)
            del line
            if text is not None:
                number += 1
                yield Document(text, number)


def _text_of_line(
    line: bytes, path: Path, place: int, where: Callable[[], str], column: str, errors: str
) -> str | None:
    """None for a blank line."""
    try:
        row = from_json(line)  # twice as fast as `json`, but knows neither lone surrogates nor a byte order mark
    except ValueError:
        try:
            text = line.decode("utf-8", errors).removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            raise not_utf8(path, place + error.start, error.reason) from None
        if not text or text.isspace():
            return None
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, {where()}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise DataError(f"{path}, {where()}: an object is expected, not {type(row).__name__}")
    if column not in row:
        raise _no_column(f"{path}, {where()}", column, list(row))
    found = row[column]
    if not isinstance(found, str):
        raise DataError(f"{path}, {where()}: column {column!r} is {type(found).__name__}, not text")
    return found


def _line_at(path: Path, place: int) -> str:
    """The number of the line that begins there, or just the place where counting would take long."""
    if place > _COUNTED_BYTES:
        return f"the line at byte {place:,}"
    with path.open("rb") as file:
        before = sum(block.count(b"\n") for block in blocks_of(file, 0, place, path))
    return f"line {1 + before:,}"


# ---------------------------------------------------------------------------------------------------- parquet


def row_groups(path: Path, column: str) -> list[int]:
    """Bytes of `column` in every row group, uncompressed. Raises DataError for a damaged file, or another column."""
    with _opened(path, path, column) as file:
        return [_column_bytes(file, group, column) for group in range(file.num_row_groups)]


def parquet_rows(
    path: Path, start: int, stop: int | None, column: str, errors: str, original: Path | None = None
) -> Iterator[Document]:
    """`column` of row groups `start` .. `stop` - 1 (None: to the last), nulls left out; errors name `original`.

    Raises DataError for a damaged file, for another column, one that is not text, and for text that is not UTF-8,
    unless `errors` is `replace`.
    """
    name, number = original or path, 0
    with _opened(path, name, column) as file:
        row = sum(file.metadata.row_group(group).num_rows for group in range(start))
        for group in range(start, file.num_row_groups if stop is None else stop):
            rows = max(1, file.metadata.row_group(group).num_rows)
            size = max(1, _column_bytes(file, group, column) // rows)
            size = min(max(1, _BATCH_BYTES // size), _BATCH_ROWS)
            for batch in file.iter_batches(size, row_groups=[group], columns=[column], use_threads=False):
                for text in _texts_of_batch(batch.column(0), name, row, errors):
                    if text is not None:
                        number += 1
                        yield Document(text, number)
                row += batch.num_rows


@contextmanager
def _opened(path: Path, name: Path, column: str) -> Iterator[ParquetFile]:
    import pyarrow
    from pyarrow import parquet

    try:
        # Without these two Arrow reads a whole row group, which may be a gigabyte, at once.
        with parquet.ParquetFile(path, buffer_size=BLOCK_BYTES, pre_buffer=False) as file:
            _check_column(file.schema_arrow, name, column)
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{name} is no parquet file, or a damaged one: {str(error).splitlines()[0]}") from None


def _check_column(schema: pyarrow.Schema, name: Path, column: str) -> None:
    from pyarrow import types

    if column not in schema.names:
        raise _no_column(str(name), column, schema.names)
    kind = schema.field(column).type
    plain = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(plain) or types.is_large_string(plain) or types.is_string_view(plain)):
        raise DataError(f"{name}: column {column!r} is {kind}, not text", "name another one: --text-column NAME")


def _column_bytes(file: ParquetFile, group: int, column: str) -> int:
    metadata = file.metadata.row_group(group)
    chunks = (metadata.column(index) for index in range(metadata.num_columns))
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column)


def _texts_of_batch(array: pyarrow.Array, name: Path, row: int, errors: str) -> list[str | None]:
    """`row` is the number of the first one."""
    import pyarrow

    try:
        texts: list[str | None] = array.to_pylist()
    except UnicodeDecodeError:
        strings = array.dictionary_decode() if isinstance(array, pyarrow.DictionaryArray) else array
        texts = []
        for content in strings.cast(pyarrow.large_binary()).to_pylist():
            try:
                texts.append(None if content is None else content.decode("utf-8", errors))
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{name}, row {row + len(texts) + 1:,}: not UTF-8 at byte {error.start:,} of it: {error.reason}",
                    "put U+FFFD in the place of such bytes: --encoding-errors replace",
                ) from None
    return texts


def _no_column(where: str, column: str, columns: list[str]) -> DataError:
    listed: Any = ", ".join(columns[:20]) + (", ..." if len(columns) > 20 else "")
    return DataError(
        f"{where}: column {column!r} not found; columns: {listed or 'none'}",
        "name the one that holds the text: --text-column NAME",
    )
