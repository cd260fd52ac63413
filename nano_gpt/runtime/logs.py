"""Log lines: on the console and in a file, from rank 0 only.

Lines go to stderr, so that stdout carries results alone (samples, JSON, paths).
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

logger = logging.getLogger("nano_gpt")


class _ConsoleHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to whatever sys.stderr is now, so that a progress display can take its place for a while."""

    def __init__(self) -> None:
        super().__init__()

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """A closed pipe (`nano-gpt train 2>&1 | head`) must not end a run: the file still has every line."""
        if not isinstance(sys.exc_info()[1], (BrokenPipeError, ValueError)):
            super().handleError(record)


def set_up(*, main_rank: bool = True, debug: bool = False) -> None:
    """Call once per process. Other ranks print warnings only; `extra={"file_only": True}` keeps a line off screen."""
    logger.handlers.clear()
    handler = _ConsoleHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(lambda record: not getattr(record, "file_only", False))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.INFO if main_rank else logging.WARNING)
    logger.propagate = False


def add_file(path: Path) -> logging.Handler:
    """Append every line to `path` as well; close and remove the handler with `remove`."""
    if logger.level == logging.NOTSET:  # used as a library, without `set_up`: the root's level would drop the lines
        logger.setLevel(logging.INFO)
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    return handler


def remove(handler: logging.Handler) -> None:
    logger.removeHandler(handler)
    handler.close()
