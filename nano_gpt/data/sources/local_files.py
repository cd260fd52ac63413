"""Your own text: .txt, .jsonl and .parquet files, also compressed, from this machine or from the web."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from nano_gpt.config.data import DataConfig
from nano_gpt.data.catalog import DatasetInfo
from nano_gpt.data.sources.base import Options, Part, Source, State
from nano_gpt.data.sources.compressed import copy_to, decompressed, temporary_file
from nano_gpt.data.sources.download import check_url, fetch, is_fetched, size_of
from nano_gpt.data.sources.hashes import content_hashes
from nano_gpt.data.sources.json_lines import compressed_lines, plain_lines
from nano_gpt.data.sources.local_text import (
    LINE_END,
    Document,
    boundary,
    compressed_documents,
    plain_documents,
    separator,
    text_start,
)
from nano_gpt.data.sources.parquet_files import parquet_rows, row_groups
from nano_gpt.data.sources.paths import expand, kind_of
from nano_gpt.data.sources.texts import Text
from nano_gpt.errors import ConfigError, DataError

PART_BYTES = 2**23  # half a second of tokenising
MOST_PARTS = 4096
_UNPACKED = 3  # about how many bytes of text a compressed byte holds


class LocalFiles(Source):
    """The files in the order given; URLs, downloaded when they are first needed, follow.

    A large plain file is cut in several parts, a compressed one is a part of its own, small files share parts.
    """

    def __init__(self, info: DatasetInfo, config: DataConfig, revision: str | None = None) -> None:
        super().__init__(info, config, revision)
        if config.document_separator == "":
            raise ConfigError("document_separator is empty: that is between all characters", "leave it out")
        self._own = expand(config.files)
        for url in config.urls:
            check_url(url)
        self._downloads = config.dataset_dir / ".downloads"
        missing = [url for url in config.urls if not is_fetched(url, self._downloads)]
        self._is_at_hand = not missing
        self._given = revision
        sizes = [size_of(url) for url in missing] if revision is None else [None for _ in missing]
        self._download_size = None if None in sizes else sum(size or 0 for size in sizes)
        self._column = config.text_column or info.text_column or "text"
        self._errors = config.encoding_errors
        self._between = separator(config.document_separator)
        self._place: State | None = None

    @cached_property
    def files(self) -> list[Path]:
        """All of them, downloaded. Raises NetworkError."""
        return [*self._own, *(fetch(url, self._downloads) for url in dict.fromkeys(self.config.urls))]

    @cached_property
    def revision(self) -> str:
        """Of kinds and contents in order: a file may have another name or place and is the same.

        Where all come from the web, `@` and a hash of their addresses follow: with these a set that is given need not
        be downloaded again, if somebody has removed its files, only to find that it is the same.
        """
        content, _, addresses = (self._given or "").partition("@")
        own_addresses = "" if self._own else _sha256(self.config.urls)
        if self._given and not self._is_at_hand and own_addresses and own_addresses == addresses:
            return self._given
        hashes = content_hashes(self.files, self._downloads / "hashes.json")
        found = _sha256(f"{_kind(file)} {digest}" for file, digest in zip(self.files, hashes, strict=True))
        if self._given and found == content:
            return self._given
        return f"{found}@{own_addresses}" if own_addresses else found

    @property
    def options(self) -> Options:
        return {
            "text_column": self._column,
            "document_separator": self.config.document_separator,
            "encoding_errors": self._errors,
        }

    @property
    def download_size(self) -> int | None:
        return self._download_size

    @property
    def is_at_hand(self) -> bool:
        return self._is_at_hand

    def parts(self) -> list[Part]:
        """Of about PART_BYTES, or as many more as it takes to have no more than about MOST_PARTS."""
        return list(self._parts)

    @cached_property
    def _parts(self) -> list[Part]:
        sizes = [file.stat().st_size for file in self.files]
        most = max(PART_BYTES, sum(sizes) // MOST_PARTS)
        parts: list[Part] = []
        first, held = 0, 0  # small files that share a part begin at `first`
        for index, size in enumerate(sizes):
            if index > first and held + size > most:
                parts.append(self._whole_files(first, index))
                first, held = index, 0
            if size > most:
                parts += self._cut(index, size, most)
                first = index + 1
            else:
                held += size
        return [*parts, self._whole_files(first, len(sizes))] if first < len(sizes) else parts

    def _cut(self, index: int, size: int, most: int) -> Iterator[Part]:
        """Consecutive stretches of a large file; where they begin depends on its content alone."""
        file = self.files[index]
        kind, compression = kind_of(file)
        if compression is not None:
            yield self._whole_files(index, index + 1)
        elif kind == "parquet":
            groups = row_groups(file, self._column)
            first = 0
            for group in range(len(groups)):
                held = sum(groups[first : group + 1])
                if held >= most or group == len(groups) - 1:
                    yield self._stretch(index, first, group + 1, held)
                    first = group + 1
        else:
            lines = kind == "jsonl"
            start = 0 if lines else text_start(file)
            while size - start > most:
                found = boundary(file, start + most, start, size, LINE_END if lines else self._between)
                if found is None or found[1] == size:
                    break
                end, following = found
                end = following if lines else end
                yield self._stretch(index, start, end, end - start)
                start = following
            yield self._stretch(index, start, size, size - start)

    def _whole_files(self, first: int, stop: int) -> Part:
        """Files `first` .. `stop` - 1."""
        sizes = [file.stat().st_size * (_UNPACKED if kind_of(file)[1] else 1) for file in self.files[first:stop]]
        return Part(where={"file": first, "files": stop - first, "of": len(self.files)}, size=sum(sizes))

    def _stretch(self, index: int, start: int, stop: int, size: int) -> Part:
        """Bytes or row groups `start` .. `stop` - 1 of a file. Named by its place: its path may change."""
        return Part(where={"file": index, "start": start, "stop": stop, "of": len(self.files)}, size=size)

    def read(self, part: Part, state: State | None = None) -> Iterator[Text]:
        """The texts of a part in order, or those after the point where `state` was taken.

        A LongText may be there only until the next text is asked for. Raises DataError, with the file and the place in
        it, for what is not as it should be.
        """
        first = int(part.where["file"] or 0)
        number = int(part.where.get("files") or 1)
        if len(self.files) != part.where["of"]:
            raise DataError(
                f"there are {len(self.files):,} files now, and there were {part.where['of']:,} when this was begun",
                "give it the same files; or begin again with --overwrite",
            )
        for index, file in enumerate(self.files[first : first + number], first):
            if state is not None and state["file"] != index:
                continue
            place, state = (state["place"], None) if state is not None else (0, None)
            if place is None:
                continue
            try:
                for document in self._documents(file, part.where, place):
                    self._place = {"file": index, "place": document.following}
                    yield document.text
            except OSError as error:
                raise DataError(f"{file} cannot be read: {error.strerror or error}") from None

    def state(self) -> State | None:
        return self._place

    def _documents(self, file: Path, where: dict[str, Any], place: int) -> Iterator[Document]:
        """Those of `file` from `place` on, which is a Document's `following`; 0: from where the part begins."""
        if not file.is_file():
            raise DataError(f"there is no file {file} any more")
        kind, compression = kind_of(file)
        if kind == "parquet":
            return islice(self._rows(file, compression, where), place, None)
        if compression is not None:
            return islice(self._compressed(file, kind, compression), place, None)
        stop = where.get("stop")
        stop = file.stat().st_size if stop is None else stop
        if kind == "jsonl":
            start = place or where.get("start") or 0
            return plain_lines(file, start, stop, self._column, self._errors, self._downloads)
        begin = text_start(file)
        if begin == stop:  # an empty file holds no document, not an empty one
            return iter(())
        return plain_documents(file, place or where.get("start") or begin, stop, self._between, self._errors)

    def _compressed(self, file: Path, kind: str, compression: str) -> Iterator[Document]:
        if kind == "jsonl":
            return compressed_lines(file, compression, self._column, self._errors, self._downloads)
        return compressed_documents(file, compression, self._between, self._errors, self._downloads)

    def _rows(self, file: Path, compression: str | None, where: dict[str, Any]) -> Iterator[Document]:
        if compression is None:
            start, stop = where.get("start") or 0, where.get("stop")
            yield from parquet_rows(file, start, stop, self._column, self._errors, self._downloads)
            return
        with temporary_file(self._downloads) as copy:  # its table of contents stands at its end
            with decompressed(file, compression) as stream:
                copy_to(copy, stream)
            yield from parquet_rows(copy, 0, None, self._column, self._errors, self._downloads, original=file)


def _sha256(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _kind(file: Path) -> str:
    return ".".join(ending for ending in kind_of(file) if ending)
