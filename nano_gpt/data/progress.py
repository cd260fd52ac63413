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
        self._bytes_before = sum(counts.bytes for counts in done)
        self._start = self._last_line = time.monotonic()
        self._live = _Live(size) if sys.stderr.isatty() else None

    def show(self, splits: Iterable[Counts]) -> None:
        """Tell where it stands, if it is time to."""
        splits = list(splits)
        size = sum(counts.bytes for counts in splits)
        share = f"{min(size / self._size, 1):.0%} · " if self._size else ""
        if self._live is not None:
            self._live.show(size, share + self.figures(splits))
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            logger.info(f"prepare: {share}{self.figures(splits)}")

    def figures(self, splits: Iterable[Counts]) -> str:
        """Totals, and the speed since this run began."""
        splits = list(splits)
        seconds = time.monotonic() - self._start
        speed = (sum(counts.bytes for counts in splits) - self._bytes_before) / 1e6 / max(seconds, 1e-3)
        documents, tokens = sum(counts.documents for counts in splits), sum(counts.tokens for counts in splits)
        clock = f"{int(seconds // 60)}:{int(seconds % 60):02d}"
        return f"{documents:,} documents · {tokens:,} tokens · {speed:.1f} MB/s · {clock}"

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
