"""Where documents come from: what a source is, your own files, and TinyShakespeare.

A source yields the same documents in the same order every time, so preparing can stop anywhere and go on.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nano_gpt.config.data import DataConfig
from nano_gpt.data.catalog import DatasetInfo
from nano_gpt.data.network import within
from nano_gpt.data.splitting import Document, split_rule
from nano_gpt.errors import ConfigError, DataError, NetworkError
from nano_gpt.runtime.files import atomic_file, sha256
from nano_gpt.runtime.logs import logger
from nano_gpt.tokenizer.base import END_OF_TEXT, well_formed

State = dict[str, Any]  # JSON; where a source stands, in its own terms
Options = dict[str, str | float | None]


class Source(ABC):
    """The documents of one dataset.

    `info` and `config` say what is asked for. `revision` is that of a preparation which is gone on with: a source
    whose text can change under the same name keeps to it, the others compute their own.
    """

    size: int | None = None
    """About how many bytes of text there are, where that is known before reading."""

    def __init__(self, info: DatasetInfo, config: DataConfig, revision: str | None = None) -> None:
        self.info = info
        self.config = config

    @property
    @abstractmethod
    def revision(self) -> str:
        """Changes whenever the text does."""

    @property
    @abstractmethod
    def options(self) -> Options:
        """The settings, besides the tokenizer, that determine which documents come out."""

    @abstractmethod
    def documents(self, state: State | None = None) -> Iterator[Document]:
        """All documents, or those after the point where `state` was taken."""

    def state(self) -> State | None:
        """Where `documents` stands; None where starting over and skipping is as good."""
        return None


class TextSource(Source):
    """A source that yields texts and leaves the split to our rule. Texts of nothing but white space are left out."""

    @abstractmethod
    def texts(self, state: State | None = None) -> Iterator[str]: ...

    @property
    def validation_fraction(self) -> float:
        fraction = self.config.validation_fraction or self.info.validation_fraction
        assert fraction is not None
        return fraction

    @property
    def options(self) -> Options:
        return {"validation_fraction": self.validation_fraction}

    def documents(self, state: State | None = None) -> Iterator[Document]:
        split = split_rule(self._clean_texts(None), self.validation_fraction)
        for text in self._clean_texts(state):
            yield from split(text)

    def _clean_texts(self, state: State | None) -> Iterator[str]:
        for text in self.texts(state):
            if text and not text.isspace():
                yield well_formed(text)


_SEPARATOR_LINE = rb"(?m)^" + re.escape(END_OF_TEXT.encode()) + rb"[ \t]*\r?(?:\n|\Z)"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class LocalFiles(TextSource):
    """Your own .txt and .jsonl files, in the order given, as strict UTF-8."""

    def __init__(self, info: DatasetInfo, config: DataConfig, revision: str | None = None) -> None:
        super().__init__(info, config, revision)
        for path in config.files:
            if path.suffix.lower() not in (".txt", ".jsonl"):
                raise ConfigError(f"{path}: neither a .txt nor a .jsonl file")
            if not path.is_file():
                raise DataError(f"there is no file {path}")
        self.size = sum(path.stat().st_size for path in config.files)
        self._revision: str | None = None

    @property
    def revision(self) -> str:
        if self._revision is None:
            hashes = [f"{path.suffix.lower()} {sha256(path)}" for path in self.config.files]
            self._revision = hashlib.sha256("\n".join(hashes).encode()).hexdigest()
        return self._revision

    @property
    def options(self) -> Options:
        return {
            **super().options,
            "text_column": self.config.text_column,
            "document_separator": self.config.document_separator,
        }

    def texts(self, state: State | None = None) -> Iterator[str]:
        for path in self.config.files:
            if path.suffix.lower() == ".txt":
                yield from _text_file(path, self.config.document_separator)
            else:
                yield from _json_lines(path, self.config.text_column)


def _text_file(path: Path, separator: str | None) -> Iterator[str]:
    """Cut at the separator's bytes, which in UTF-8 is the same as at its characters, one document in memory."""
    if path.stat().st_size == 0:
        return
    pattern = re.compile(_SEPARATOR_LINE if separator is None else re.escape(separator.encode()))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = len(_BYTE_ORDER_MARK) if content[:3] == _BYTE_ORDER_MARK else 0
        for match in pattern.finditer(content):
            yield _decode(content[start : match.start()], path, start)
            start = match.end()
        yield _decode(content[start:], path, start)


def _json_lines(path: Path, column: str) -> Iterator[str]:
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            text = _decode(line, path, offset).removeprefix("\ufeff")
            offset += len(line)
            if text.isspace():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {number}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: an object is expected, not {type(row).__name__}")
            if column not in row:
                raise DataError(
                    f"{path}, line {number}: column {column!r} not found; columns: {', '.join(row) or 'none'}",
                    "name the one that holds the text: --text-column NAME",
                )
            if not isinstance(row[column], str):
                raise DataError(f"{path}, line {number}: column {column!r} is {type(row[column]).__name__}, not text")
            yield row[column]


def _decode(content: bytes, path: Path, offset: int) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 at byte {offset + error.start:,}: {error.reason}",
            f"convert it first: iconv -f latin1 -t utf-8 {path} > utf8{path.suffix}",
        ) from None


class TinyShakespeare(Source):
    """Karpathy's file. nanoGPT's split: the first 90% of the characters train, the last 10% validate."""

    url = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
    sha256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
    size = 1_115_394

    def __init__(self, info: DatasetInfo, config: DataConfig, revision: str | None = None) -> None:
        super().__init__(info, config, revision)
        if config.validation_fraction is not None:
            raise ConfigError(
                "tinyshakespeare brings its own validation split, the last tenth", "leave --validation-fraction out"
            )

    @property
    def revision(self) -> str:
        return self.sha256

    @property
    def options(self) -> Options:
        return {}

    def documents(self, state: State | None = None) -> Iterator[Document]:
        text = self._file().read_text(encoding="utf-8")
        end = int(len(text) * 0.9)
        yield Document("train", text[:end])
        yield Document("validation", text[end:])

    def _file(self) -> Path:
        """The verified copy in `dataset_dir/.downloads`, fetched if need be."""
        path = self.config.dataset_dir / ".downloads" / "tinyshakespeare.txt"
        if path.is_file() and sha256(path) == self.sha256:
            return path
        logger.info(f"downloading {self.url}")
        try:
            content = download(self.url, self.size)
        except OSError as error:
            raise NetworkError(
                f"cannot download {self.url}: {getattr(error, 'reason', None) or error}",
                f"fetch it elsewhere and put it at {path}, or use it as your own: --files input.txt",
            ) from None
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise NetworkError(
                f"{self.url} gave {len(content):,} bytes that are not TinyShakespeare (sha256 differs)",
                f"fetch it elsewhere and put it at {path}, or use it as your own: --files input.txt",
            )
        with atomic_file(path) as temporary:
            temporary.write_bytes(content)
        return path


def download(url: str, size: int) -> bytes:
    """At most one byte more than `size` of `url`. Raises OSError, after a few seconds where nothing answers."""
    with within(5, lambda: urllib.request.urlopen(url, timeout=4)) as response:
        content: bytes = response.read(size + 1)
        return content
