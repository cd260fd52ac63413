"""Karpathy's TinyShakespeare: fetched once, verified every time."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from nano_gpt.config.data import DataConfig
from nano_gpt.data.catalog import DatasetInfo
from nano_gpt.data.sources.base import Part, Source, State
from nano_gpt.data.sources.network import within
from nano_gpt.errors import ConfigError, NetworkError
from nano_gpt.runtime.files import atomic_file, sha256
from nano_gpt.runtime.logs import logger

TRAIN_CHARACTERS = 1_003_854  # nanoGPT's split: the first 90% of the characters train, the last 10% validate


class TinyShakespeare(Source):
    """One file of ASCII in two parts, one for each split."""

    url = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
    sha256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
    bytes = 1_115_394

    def __init__(self, info: DatasetInfo, config: DataConfig, revision: str | None = None) -> None:
        super().__init__(info, config, revision)
        if config.validation_fraction is not None:
            raise ConfigError(
                "tinyshakespeare brings its own validation split, the last tenth", "leave --validation-fraction out"
            )
        self._path = config.dataset_dir / ".downloads" / "tinyshakespeare.txt"

    @property
    def download_size(self) -> int:
        return 0 if self._path.is_file() else self.bytes

    @property
    def is_at_hand(self) -> bool:
        return self._path.is_file()

    @property
    def revision(self) -> str:
        return self.sha256

    @property
    def validation_fraction(self) -> None:
        return None

    def parts(self) -> list[Part]:
        """Fetches the file, so that the processes that read it find it there."""
        self._file()
        return [
            Part(where={"split": "train"}, split="train", size=TRAIN_CHARACTERS),
            Part(where={"split": "validation"}, split="validation", size=self.bytes - TRAIN_CHARACTERS),
        ]

    def read(self, part: Part, state: State | None = None) -> Iterator[str]:
        text = self._file().read_text(encoding="utf-8")
        yield text[:TRAIN_CHARACTERS] if part.split == "train" else text[TRAIN_CHARACTERS:]

    def _file(self) -> Path:
        """The verified copy in `dataset_dir/.downloads`, fetched if need be."""
        path = self._path
        if path.is_file() and sha256(path) == self.sha256:
            return path
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            raise self._not_fetched(f"{self.url} is not at {path}, and HF_HUB_OFFLINE forbids to fetch it")
        logger.info(f"downloading {self.url}")
        try:
            content = download(self.url, self.bytes)
        except OSError as error:
            raise self._not_fetched(f"cannot download {self.url}: {getattr(error, 'reason', None) or error}") from None
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise self._not_fetched(
                f"{self.url} gave {len(content):,} bytes that are not TinyShakespeare (sha256 differs)"
            )
        with atomic_file(path) as temporary:
            temporary.write_bytes(content)
        return path

    def _not_fetched(self, message: str) -> NetworkError:
        return NetworkError(
            message, f"fetch it elsewhere and put it at {self._path}, or use it as your own: --files input.txt"
        )


def download(url: str, size: int) -> bytes:
    """At most one byte more than `size` of `url`. Raises OSError, after a few seconds where nothing answers."""
    with within(5, lambda: urllib.request.urlopen(url, timeout=4)) as response:
        content: bytes = response.read(size + 1)
        return content
