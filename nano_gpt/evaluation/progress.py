"""How far a measurement is: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from nano_gpt.evaluation.choices import Progress
from nano_gpt.runtime.logs import logger

LINE_SECONDS = 10.0  # between plain lines


@contextmanager
def progress_shown(label: str, *, is_main: bool) -> Iterator[Progress]:
    """Yield what is to be called with the work done and the work in all. Ranks other than 0 show nothing."""
    if not is_main:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        with _live(label) as show:
            yield show
    else:
        yield _PlainLines(label)


class _PlainLines:
    """Nothing for what is done within ten seconds."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._last >= LINE_SECONDS:
            self._last = time.monotonic()
            logger.info(f"{self._label}: {done:,} of {total:,} rows")


@contextmanager
def _live(label: str) -> Iterator[Progress]:
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn(label, markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
