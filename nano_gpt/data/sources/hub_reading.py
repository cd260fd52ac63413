"""Reading one part of a hub dataset: a piece of a parquet file, or a file of any other kind through `datasets`.

Both stand at a place between two rows, which `state` tells, and begin at one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from nano_gpt.data.sources.base import State
from nano_gpt.data.sources.hub_client import told
from nano_gpt.data.sources.hub_layout import open_file
from nano_gpt.data.sources.parquet_files import check_column, texts_of_group
from nano_gpt.data.sources.texts import Text
from nano_gpt.errors import DataError

_READ_BYTES = 2**24


class _InBlocks:
    """A file of the hub for pyarrow. The client keeps what it has read at once, so that must never be much."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int) -> bytes | memoryview:
        if size <= _READ_BYTES:
            return self._file.read(size)
        content, done = memoryview(bytearray(size)), 0
        while block := self._file.read(min(size - done, _READ_BYTES)):
            content[done : done + len(block)] = block
            done += len(block)
        return content[:done]


class ParquetPiece:
    """Of the groups of rows in a file, cut into `pieces` as equal as they allow, those of `piece`."""

    def __init__(
        self, repository: str, commit: str, path: str, column: str, piece: int, pieces: int, state: State | None
    ) -> None:
        self._repository, self._commit, self._path = repository, commit, path
        self._column = column
        self._piece, self._pieces = piece, pieces
        self._place = (int(state["row_group"]), int(state["row"])) if state else None

    def state(self) -> State | None:
        """After the text that came last: the group, and how many of its rows are read."""
        return None if self._place is None else {"row_group": self._place[0], "row": self._place[1]}

    def texts(self) -> Iterator[Text]:
        """A null is an empty text; a LongText is there until the next text is asked for."""
        import pyarrow.parquet as pq

        with (
            told(self._repository, self._path, reading=True),
            open_file(self._repository, self._commit, self._path) as file,
            # A group of rows may be larger than memory: with a buffer, and nothing ahead, it comes bit by bit.
            pq.ParquetFile(_InBlocks(file), buffer_size=2**20, pre_buffer=False) as table,
        ):
            check_column(table.schema_arrow, f"{self._repository}: {self._path}", self._column)
            begin, stop = (table.num_row_groups * end // self._pieces for end in (self._piece, self._piece + 1))
            begin, skip = self._place or (begin, 0)
            copies = Path(tempfile.gettempdir())
            for group in range(begin, stop):
                broken = partial(self._broken, group)
                texts = texts_of_group(table, group, self._column, "strict", broken, copies, skip)
                for row, text in enumerate(texts, skip + 1):
                    self._place = group, row
                    yield text
                skip = 0

    def _broken(self, group: int, row: int, place: int, reason: str) -> DataError:
        where = f"{self._repository}: {self._path}, row {row + 1:,} of row group {group}"
        return DataError(f"{where}: not UTF-8 at byte {place:,} of it: {reason}")


class StreamedFile:
    """One of the shards of an `IterableDataset`: a file, as a rule."""

    def __init__(self, repository: str, stream: Any, column: str, shard: int, shards: int, state: State | None) -> None:
        if stream.num_shards != shards:
            raise DataError(f"{repository} came in {shards:,} files before, and in {stream.num_shards:,} now")
        self._repository = repository
        self._column = column
        self._stream = stream.shard(shards, shard).select_columns([column])
        if state is not None:
            self._stream.load_state_dict(state)

    def state(self) -> State | None:
        state: State = self._stream.state_dict()
        return state

    def texts(self) -> Iterator[str]:
        with told(self._repository, reading=True):
            for row in self._stream:
                yield row[self._column] or ""
