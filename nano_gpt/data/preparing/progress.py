"""How far preparing is: documents, tokens, speed."""

from __future__ import annotations

import time

from nano_gpt.data.preparing.workers import Totals
from nano_gpt.runtime.progress import ProgressDisplay, clock


class Progress(ProgressDisplay):
    """`goal` is what there is to do, and `measure` (0 documents, 1 tokens, 2 bytes) what it is counted in.

    `before` was done by earlier runs. A goal of None: nobody knows how much there is.
    """

    def __init__(self, label: str, goal: int | None, measure: int, before: Totals) -> None:
        super().__init__(label)
        self._goal = goal
        self._measure = measure
        self._before = before
        self._earlier: Totals = (0, 0, 0)
        self._totals: Totals = (0, 0, 0)
        self._start = time.monotonic()

    def begin(self, held: Totals) -> None:
        """A round of work begins, with so much done by earlier runs and rounds together."""
        self._earlier = self._totals = _difference(held, self._before)

    def show(self, totals: Totals) -> None:
        """Tell where it stands, if it is time to. `totals` is what this round has done."""
        self._totals = _sum(self._earlier, totals)
        done = self._totals[self._measure] + self._before[self._measure]
        share = f"{min(done / self._goal, 1):.0%} · " if self._goal else ""
        self.tell(lambda: share + (self._short() if self.is_live else self.figures()), done, self._goal)

    def figures(self) -> str:
        """Totals, and the speed of this run."""
        documents, tokens, _ = _sum(self._totals, self._before)
        seconds = max(time.monotonic() - self._start, 1e-3)
        _, new_tokens, new_bytes = self._totals
        speed = f"{_si(new_tokens / seconds)} tokens/s · {new_bytes / 1e6 / seconds:.1f} MB/s"
        return f"{documents:,} documents · {tokens:,} tokens · {speed} · {clock(seconds)}"

    def _short(self) -> str:
        """For a line of 80 columns, which has a bar and the time left too."""
        seconds = max(time.monotonic() - self._start, 1e-3)
        tokens, (_, new_tokens, new_bytes) = _sum(self._totals, self._before)[1], self._totals
        return f"{_si(tokens)} tokens · {_si(new_tokens / seconds)}/s · {new_bytes / 1e6 / seconds:.1f} MB/s"


def _sum(first: Totals, second: Totals) -> Totals:
    return first[0] + second[0], first[1] + second[1], first[2] + second[2]


def _difference(first: Totals, second: Totals) -> Totals:
    return first[0] - second[0], first[1] - second[1], first[2] - second[2]


def _si(number: float) -> str:
    for limit, divisor, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e3, 1e3, "k")):
        if number >= limit:
            return f"{number / divisor:.2f}{unit}"
    return f"{number:.0f}"
