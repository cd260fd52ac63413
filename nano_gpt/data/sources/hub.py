"""Datasets of the Hugging Face hub, streamed: nothing is downloaded as a whole, and little is held in memory.

Which files there are, in which splits, is the `datasets` client's answer. Parquet, which nearly all large ones are, is
then read in pieces of 256 MB: they give many processes work, begin with no more than one request, and go on in the
middle without fetching what lies before. (`IterableDataset.reshard` would cut at every group of rows and open the file
again for each: five times the traffic with groups of 3 MB.) Every other kind is streamed by `datasets`, file by file.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from nano_gpt.config.data import DataConfig
from nano_gpt.data.catalog import CATALOG, DatasetInfo
from nano_gpt.data.sources.base import Options, Part, Source, Split, State
from nano_gpt.data.sources.hub_client import newest_commit, quiet, told
from nano_gpt.data.sources.hub_layout import Layout, find_layout, find_revision, open_builder
from nano_gpt.data.sources.hub_reading import ParquetPiece, StreamedFile
from nano_gpt.data.sources.texts import Text
from nano_gpt.errors import ConfigError, DataError
from nano_gpt.runtime.logs import logger

PIECE_BYTES = 2**28  # of a parquet file: half a minute of tokenising
_LEAST_PIECE_BYTES = 2**24  # of a sample, which is cut into sixteen, so that all processes have a part in it
_TEXT_PER_BYTE = {"parquet": 1.7, "gz": 3.0, "zst": 3.0, "xz": 3.5, "bz2": 3.5}  # of web text; 1 for what is not packed


class HubDataset(Source):
    """The revision is the commit that the hub shows when preparing begins; going on keeps to that one.

    A validation split that the dataset brings is used as such, unless a share is asked for: then, and where there is
    none, the documents of `train` are split. A test split is never read.
    """

    def __init__(self, info: DatasetInfo, config: DataConfig, revision: str | None = None) -> None:
        super().__init__(info, config, revision)
        assert info.repository is not None
        self._repository = info.repository
        self._config_name = config.config_name or info.config_name
        self._given = revision
        self._builder: Any = None
        self._streams: dict[str, Any] = {}
        self._reader: ParquetPiece | StreamedFile | None = None

    @cached_property
    def revision(self) -> str:
        return self._given or find_revision(self._repository)

    @property
    def options(self) -> Options:
        return {"config_name": self._config_name, "text_column": self.config.text_column or self.info.text_column}

    @property
    def validation_fraction(self) -> float | None:
        if self.config.validation_fraction is not None:
            return self.config.validation_fraction
        if self.info.name not in CATALOG and self._layout.validation is not None:
            return None
        return self.info.validation_fraction

    @property
    def download_size(self) -> int | None:
        """Whole files; where there are other long columns than the text, these are not fetched."""
        files = [file for _, name in self._splits() for file in self._layout.splits[name]]
        sizes = [self._layout.sizes.get(file) for file in files]
        return None if None in sizes else sum(size or 0 for size in sizes)

    @cached_property
    def _layout(self) -> Layout:
        if self._given is not None:
            newest_commit(self._repository)  # is there a network? the clients themselves take longer to find out
        return find_layout(self._repository, self._config_name, self.revision)

    @property
    def _commit(self) -> str:
        return self.revision.rpartition("@")[2]

    def parts(self) -> list[Part]:
        """Raises ConfigError for a column that is not there; NetworkError within five seconds without a network."""
        column = self._column()
        if self._layout.kind == "text":
            logger.warning(f"prepare: {self._repository} is of .txt files, of which each line is a document")
        return [
            Part(where={"in": name, **where, "column": column}, split=split, size=size)
            for split, name in self._splits()
            for where, size in self._pieces(name)
        ]

    def _splits(self) -> list[tuple[Split | None, str]]:
        """What a split is for us, and its name there. Raises DataError where it is unclear which to train on."""
        names = list(self._layout.splits)
        train = "train" if "train" in names or len(names) > 1 else names[0]
        if train not in names:
            raise DataError(f"{self._repository} has no split 'train'; splits: {', '.join(names)}")
        if self.validation_fraction is not None:
            return [(None, train)]
        validation = self._layout.validation
        if validation is None:
            raise DataError(
                f"{self._repository} no longer brings a validation split; splits: {', '.join(names)}",
                "have one split off: --validation-fraction 0.01",
            )
        return [("train", train), ("validation", validation)]

    def _column(self) -> str:
        columns = self._layout.columns
        asked = self.config.text_column or self.info.text_column
        texts = [name for name, type_ in columns.items() if type_ == "string"]
        column = asked or (texts[0] if "text" not in columns and len(texts) == 1 else "text")
        if column not in columns:
            raise ConfigError(
                f"{self._repository}: column {column!r} not found; columns: {', '.join(columns)}",
                f"--text-column {' or '.join(texts)}" if texts else "none of them is text",
            )
        if columns[column] != "string":
            raise ConfigError(
                f"{self._repository}: column {column!r} holds {columns[column]}, not text",
                f"--text-column {' or '.join(texts)}" if texts else "none of its columns is text",
            )
        return column

    def _pieces(self, split: str) -> Iterator[tuple[dict[str, str | int | None], int | None]]:
        layout = self._layout
        files = layout.splits[split]
        if layout.kind != "parquet" or not layout.sizes.keys() >= set(files):
            shards = self._stream(split).num_shards  # one for each file, as a rule
            for number in range(shards):
                size = self._text_bytes(files[number]) if shards == len(files) else None
                yield {"shard": number, "shards": shards}, size
            return
        for file in files:
            pieces = max(1, -(-layout.sizes[file] // self._piece_bytes))
            size = self._text_bytes(file)
            for piece in range(pieces):
                yield {"path": file, "piece": piece, "pieces": pieces}, None if size is None else size // pieces

    @property
    def _piece_bytes(self) -> int:
        if self.config.max_tokens is None and self.config.max_documents is None:
            return PIECE_BYTES
        bytes_needed = (
            (self.config.max_tokens or 0) * 4 / _TEXT_PER_BYTE["parquet"]
        )  # four bytes of text a token, about
        return min(PIECE_BYTES, max(_LEAST_PIECE_BYTES, int(bytes_needed / 16)))

    def _text_bytes(self, file: str) -> int | None:
        """By what is known of the whole, else by what is usual for such a file."""
        layout, size = self._layout, self._layout.sizes.get(file)
        if size is None:
            return None
        known = self.info.config(self._config_name)
        total = sum(layout.sizes.get(each, 0) for _, split in self._splits() for each in layout.splits[split])
        if known is not None and total:
            return round(known.text_bytes * size / total)
        return round(size * _TEXT_PER_BYTE.get(file.rpartition(".")[2].lower(), 1.0))

    def read(self, part: Part, state: State | None = None) -> Iterator[Text]:
        """Asks the hub for nothing but this part: processes that read need no layout."""
        quiet()
        split, column = str(part.where["in"]), str(part.where["column"])
        if "path" in part.where:
            piece, pieces = (int(part.where[name] or 0) for name in ("piece", "pieces"))
            path = str(part.where["path"])
            self._reader = ParquetPiece(self._repository, self._commit, path, column, piece, pieces, state)
        else:
            shard, shards = (int(part.where[name] or 0) for name in ("shard", "shards"))
            self._reader = StreamedFile(self._repository, self._stream(split), column, shard, shards, state)
        return self._reader.texts()

    def state(self) -> State | None:
        return None if self._reader is None else self._reader.state()

    def _stream(self, split: str) -> Any:
        """The `datasets.IterableDataset` of a whole split."""
        if split not in self._streams:
            if self._builder is None:
                there: Layout | None = self.__dict__.get("_layout")  # if it was needed in this process
                self._builder = there.builder if there else None
            if self._builder is None:
                self._builder = open_builder(self._repository, self._config_name, self._commit)
            with told(self._repository, reading=True):
                self._streams[split] = self._builder.as_streaming_dataset(split=split)
        return self._streams[split]
