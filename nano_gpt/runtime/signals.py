"""Being asked to stop: the first SIGINT or SIGTERM is noted, a later one ends the process at once.

Where a whole group is signalled (SLURM, systemd), torchrun passes on to its workers what they were sent themselves, so
what follows within a second is taken for the same request.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

from nano_gpt.runtime.distributed import any_rank
from nano_gpt.runtime.logs import logger

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_REQUEST = 1.0  # seconds


class StopRequest:
    """Listens while its context is open. Outside of the main thread Python delivers no signals, so it hears none."""

    def __init__(self, answer: str = "saving after this step") -> None:
        """`answer` is what the user is told at once."""
        self._answer = answer
        self.signal: int | None = None
        self._noted = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            if time.monotonic() - self._noted > SAME_REQUEST:
                raise KeyboardInterrupt
            return
        self.signal, self._noted = number, time.monotonic()
        logger.info(f"{signal.Signals(number).name}: {self._answer}; once more to stop at once")

    def agreed(self) -> bool:
        """Whether any rank was asked, the same answer on all of them. A collective: every rank must call it."""
        return any_rank(self.signal is not None)
