"""How far long work is: a live bar on a terminal, a plain line now and then elsewhere; rank 0 alone tells it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from nano_gpt.runtime.distributed import from_environment
from nano_gpt.runtime.logs import logger

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_SECONDS = 10.0  # between plain lines; nothing is said of work that takes less
_BAR_SECONDS = 0.1  # between two looks of a bar: work may tell of itself thousands of times a second


class ProgressDisplay:
    """A context manager; `label` opens the bar and every line."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._begun = self._last_line = time.monotonic()
        self._last_look = 0.0
        self._bar = _bar() if sys.stderr.isatty() and from_environment().is_main else None
        self._task = self._bar.add_task(label, figures="") if self._bar else None
        self._first: int | None = None

    @property
    def is_live(self) -> bool:
        """Whether there is a bar, and little room beside it."""
        return self._bar is not None

    def tell(self, figures: str | Callable[[], str], done: int, total: int | None) -> None:
        """Tell where it stands, if it is time to. `total` None: nobody knows, and the bar only moves."""
        now = time.monotonic()
        if self._first is None:
            self._first = done
        if self._bar is not None and self._task is not None:
            if now - self._last_look >= _BAR_SECONDS:
                self._last_look = now
                self._bar.update(self._task, completed=done, total=total, figures=_text(figures))
        elif now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            logger.info(f"{self._label}: {_text(figures)}{self._left(now, done, total)}")

    def _left(self, now: float, done: int, total: int | None) -> str:
        """The time that is left, at the speed so far."""
        if total is None or self._first is None or done <= self._first:
            return ""
        return f" · {clock(max(total - done, 0) / (done - self._first) * (now - self._begun))} left"

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def clock(seconds: float) -> str:
    """`0:07`, `12:30`, `2:05:00`"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _text(figures: str | Callable[[], str]) -> str:
    return figures if isinstance(figures, str) else figures()


def _bar() -> Progress:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=16),
        progress.TextColumn("{task.fields[figures]}", markup=False),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
    )
