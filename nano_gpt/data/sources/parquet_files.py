"""Documents of .parquet files: one column of their rows, a batch of short ones or a single long one in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nano_gpt.data.sources.compressed import BLOCK_BYTES
from nano_gpt.data.sources.local_text import Document
from nano_gpt.data.sources.texts import LONG_BYTES, Text, decoded, kept_in_file, no_column
from nano_gpt.errors import DataError

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import ParquetFile

_BATCH_BYTES, _BATCH_ROWS = 2**22, 1024
Broken = Callable[[int, int, str], DataError]
"""The error for a row, counted from 0 in its group, that is not UTF-8: where in it, and why."""


def row_groups(path: Path, column: str) -> list[int]:
    """Bytes of `column` in every row group, uncompressed. Raises DataError for a damaged file, or another column."""
    with _opened(path, path, column) as file:
        return [_column_bytes(file, group, column) for group in range(file.num_row_groups)]


def parquet_rows(
    path: Path, start: int, stop: int | None, column: str, errors: str, copies: Path, original: Path | None = None
) -> Iterator[Document]:
    """`column` of row groups `start` .. `stop` - 1 (None: to the last); errors name `original`.

    A null is an empty text. A long text is copied to the folder `copies` until the next is asked for. Raises DataError
    for a damaged file, for another column, one that is not text, and for text that is not UTF-8, unless `errors` is
    `replace`.
    """
    name, number = original or path, 0
    with _opened(path, name, column) as file:
        before = sum(file.metadata.row_group(group).num_rows for group in range(start))

        def broken(row: int, place: int, reason: str) -> DataError:
            return DataError(
                f"{name}, row {before + row + 1:,}: not UTF-8 at byte {place:,} of it: {reason}",
                "put U+FFFD in the place of such bytes: --encoding-errors replace",
            )

        for group in range(start, file.num_row_groups if stop is None else stop):
            for text in texts_of_group(file, group, column, errors, broken, copies):
                number += 1
                yield Document(text, number)
            before += file.metadata.row_group(group).num_rows


def texts_of_group(
    file: ParquetFile, group: int, column: str, errors: str, broken: Broken, copies: Path, skip: int = 0
) -> Iterator[Text]:
    """`column` of a group of rows, without the first `skip` of them; a null is an empty text.

    A long text is copied to the folder `copies` until the next is asked for: as a string it could take four times its
    size. Raises what `broken` returns, unless `errors` is `replace`.
    """
    rows = max(1, file.metadata.row_group(group).num_rows)
    size = max(1, _column_bytes(file, group, column) // rows)
    size = min(max(1, _BATCH_BYTES // size), _BATCH_ROWS)
    row = 0
    for batch in file.iter_batches(size, row_groups=[group], columns=[column], use_threads=False):
        begin = min(max(skip - row, 0), batch.num_rows)
        yield from _texts(batch.column(0).slice(begin), row + begin, errors, broken, copies)
        row += batch.num_rows


def _texts(array: pyarrow.Array, row: int, errors: str, broken: Broken, copies: Path) -> Iterator[Text]:
    """`row` is the number of the first one."""
    if array.nbytes < LONG_BYTES:
        try:
            texts = array.to_pylist()
        except UnicodeDecodeError:  # one by one, to know which it is
            pass
        else:
            yield from (text or "" for text in texts)
            return
    for number, scalar in enumerate(array, row):
        content = _content(scalar)
        pieces = (content[start : start + BLOCK_BYTES] for start in range(0, len(content), BLOCK_BYTES))
        blocks = decoded(pieces, errors, partial(broken, number))
        if len(content) < LONG_BYTES:
            yield "".join(blocks)
        else:
            with kept_in_file(blocks, copies) as text:
                yield text


def _content(scalar: pyarrow.Scalar) -> memoryview:
    """The UTF-8 of a string where it lies in memory, nothing of a null."""
    import pyarrow

    if isinstance(scalar, pyarrow.DictionaryScalar):
        scalar = scalar.value
    return memoryview(scalar.as_buffer() if scalar.is_valid else b"")


@contextmanager
def _opened(path: Path, name: Path, column: str) -> Iterator[ParquetFile]:
    import pyarrow
    from pyarrow import parquet

    try:
        # Without these two Arrow reads a whole row group, which may be a gigabyte, at once.
        with parquet.ParquetFile(path, buffer_size=BLOCK_BYTES, pre_buffer=False) as file:
            check_column(file.schema_arrow, str(name), column)
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{name} is no parquet file, or a damaged one: {str(error).splitlines()[0]}") from None


def check_column(schema: pyarrow.Schema, name: str, column: str) -> None:
    """Raises DataError, about the file `name`, for a column that is not there, or no text."""
    from pyarrow import types

    if column not in schema.names:
        raise no_column(name, column, schema.names)
    kind = schema.field(column).type
    plain = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(plain) or types.is_large_string(plain) or types.is_string_view(plain)):
        raise DataError(f"{name}: column {column!r} is {kind}, not text", "name another one: --text-column NAME")


def _column_bytes(file: ParquetFile, group: int, column: str) -> int:
    metadata = file.metadata.row_group(group)
    chunks = (metadata.column(index) for index in range(metadata.num_columns))
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column)
