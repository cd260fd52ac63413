"""How far long work is: a live bar on a terminal, a plain line now and then elsewhere; rank 0 alone tells it."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from nano_gpt.runtime.distributed import from_environment
from nano_gpt.runtime.logs import logger

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_SECONDS = 10.0  # between plain lines; nothing is said of work that takes less


class ProgressDisplay:
    """A context manager; `label` opens the bar and every line."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._last_line = time.monotonic()
        self._bar = _bar() if sys.stderr.isatty() and from_environment().is_main else None
        self._task = self._bar.add_task(label, figures="") if self._bar else None

    def tell(self, figures: str, done: int, total: int | None) -> None:
        """Tell where it stands, if it is time to. `total` None: nobody knows, and the bar only moves."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, figures=figures)
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            logger.info(f"{self._label}: {figures}")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _bar() -> Progress:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TextColumn("{task.fields[figures]}", markup=False),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
    )
