"""Reading one part of a hub dataset: a piece of a parquet file, or a file of any other kind through `datasets`.

Both stand at a place between two rows, which `state` tells, and begin at one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nano_gpt.data.sources.base import State
from nano_gpt.data.sources.hub_client import told
from nano_gpt.data.sources.hub_layout import open_file
from nano_gpt.errors import DataError

_ROWS = 50  # decoded at a time: few, since a row may be a book


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

    def texts(self) -> Iterator[str]:
        import pyarrow.parquet as pq

        with (
            told(self._repository, self._path, reading=True),
            open_file(self._repository, self._commit, self._path) as file,
            # A group of rows may be larger than memory: with a buffer, and nothing ahead, it comes bit by bit.
            pq.ParquetFile(file, buffer_size=2**20, pre_buffer=False) as table,
        ):
            names = table.schema_arrow.names
            if self._column not in names:
                raise DataError(
                    f"{self._repository}: {self._path}: column {self._column!r} not found; columns: {', '.join(names)}"
                )
            begin, stop = (table.num_row_groups * end // self._pieces for end in (self._piece, self._piece + 1))
            begin, skip = self._place or (begin, 0)
            for group in range(begin, stop):
                row = 0
                for batch in table.iter_batches(_ROWS, row_groups=[group], columns=[self._column], use_threads=False):
                    done = min(max(0, skip - row), batch.num_rows)
                    row += done
                    for text in batch.column(0).slice(done).to_pylist():
                        row += 1
                        self._place = group, row
                        yield text or ""
                skip = 0


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
