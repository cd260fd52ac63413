"""How far preparing is: documents, tokens, speed."""

from __future__ import annotations

import time
from collections.abc import Iterable

from nano_gpt.data.manifest import Counts
from nano_gpt.runtime.progress import ProgressDisplay


class Progress(ProgressDisplay):
    """`size` is about how many bytes of text there are, None if nobody knows; `done` went before."""

    def __init__(self, size: int | None, done: Iterable[Counts]) -> None:
        super().__init__("prepare")
        self._size = size
        self._bytes_before = sum(counts.bytes for counts in done)
        self._start = time.monotonic()

    def show(self, splits: Iterable[Counts]) -> None:
        """Tell where it stands, if it is time to."""
        splits = list(splits)
        size = sum(counts.bytes for counts in splits)
        share = f"{min(size / self._size, 1):.0%} · " if self._size else ""
        self.tell(share + self.figures(splits), size, self._size)

    def figures(self, splits: Iterable[Counts]) -> str:
        """Totals, and the speed since this run began."""
        splits = list(splits)
        seconds = time.monotonic() - self._start
        speed = (sum(counts.bytes for counts in splits) - self._bytes_before) / 1e6 / max(seconds, 1e-3)
        documents, tokens = sum(counts.documents for counts in splits), sum(counts.tokens for counts in splits)
        clock = f"{int(seconds // 60)}:{int(seconds % 60):02d}"
        return f"{documents:,} documents · {tokens:,} tokens · {speed:.1f} MB/s · {clock}"
