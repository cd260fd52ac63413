"""How far preparing is: a live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from nano_gpt.data.manifest import Counts
from nano_gpt.runtime.logs import logger

LINE_SECONDS = 10.0  # between plain lines


class Progress:
    """A context manager. `size` is about how many bytes of text there are, None if nobody knows; `done` went before."""

    def __init__(self, size: int | None, done: Iterable[Counts]) -> None:
        self._size = size
        self._documents = self._tokens = self._bytes = 0
        for counts in done:
            self._documents += counts.documents
            self._tokens += counts.tokens
            self._bytes += counts.bytes
        self._bytes_before = self._bytes
        self._start = self._last_line = time.monotonic()
        self._live = _Live(size) if sys.stderr.isatty() else None

    def advance(self, *, documents: int, tokens: int, bytes: int) -> None:
        self._documents += documents
        self._tokens += tokens
        self._bytes += bytes
        if self._live is not None:
            self._live.show(self._bytes, self.figures())
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            logger.info(f"prepare: {self.figures()}")

    def figures(self) -> str:
        seconds = time.monotonic() - self._start
        share = f"{min(self._bytes / self._size, 1):.0%} · " if self._size else ""
        speed = (self._bytes - self._bytes_before) / 1e6 / max(seconds, 1e-3)
        return (
            f"{share}{self._documents:,} documents · {self._tokens:,} tokens · "
            f"{speed:.1f} MB/s · {int(seconds // 60)}:{int(seconds % 60):02d}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.close()


class _Live:
    """A bar where the size is known, moving dots where it is not."""

    def __init__(self, size: int | None) -> None:
        from rich import progress
        from rich.console import Console

        self._progress = progress.Progress(
            progress.TextColumn("prepare"),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[figures]}", markup=False),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
        )
        self._task = self._progress.add_task("prepare", total=size, figures="reading")
        self._progress.start()

    def show(self, completed: int, figures: str) -> None:
        self._progress.update(self._task, completed=completed, figures=figures)

    def close(self) -> None:
        self._progress.stop()
