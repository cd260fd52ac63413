"""Being asked to stop: by a signal, by a time limit, by anything that watches a run.

The first SIGINT, SIGTERM or SIGUSR1 (SLURM's `--signal=USR1@120`) is noted, a later one ends the process at once. Where
a whole group is signalled (SLURM, systemd), torchrun passes on to its workers what they were sent themselves, so what
follows within a second is taken for the same request.
"""

from __future__ import annotations

import signal
import threading
import time
from enum import IntEnum
from types import FrameType, TracebackType
from typing import Any, Self

from nano_gpt.runtime.distributed import max_over_ranks
from nano_gpt.runtime.logs import logger

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
SAME_REQUEST = 1.0  # seconds


class Stop(IntEnum):
    """Why. Where ranks have several reasons, the largest counts."""

    STEPS = 1
    NO_PROGRESS = 2
    TIME = 3
    USR1 = 64 + signal.SIGUSR1
    INT = 64 + signal.SIGINT
    TERM = 64 + signal.SIGTERM

    @property
    def signal(self) -> int | None:
        """Its number, if it was one."""
        return self - 64 if self > 64 else None


class StopRequest:
    """Listens while its context is open. Outside of the main thread Python delivers no signals, so it hears none."""

    def __init__(self, answer: str = "saving after this step") -> None:
        """`answer` is what the user is told at once after a signal."""
        self._answer = answer
        self._reason: Stop | None = None
        self._noted: float | None = None
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
        if self._noted is not None:
            if time.monotonic() - self._noted > SAME_REQUEST:
                raise KeyboardInterrupt
            return
        self._noted = time.monotonic()
        self.ask(Stop(64 + number))
        logger.info(f"{signal.Signals(number).name}: {self._answer}; once more to stop at once")

    @property
    def signal(self) -> int | None:
        """The number of the one that came, if any."""
        return None if self._reason is None else self._reason.signal

    def ask(self, reason: Stop) -> None:
        """Stop at the next occasion."""
        self._reason = max(reason, self._reason or reason)

    def agreed(self) -> Stop | None:
        """Why any rank was asked, the same answer on all of them. A collective: every rank must call it."""
        reason = max_over_ranks(self._reason or 0)
        return Stop(reason) if reason else None
