"""The live lines of a run on a terminal: how far it is, how fast, how long still; and how the loss goes.

    step 1,230/19,073 ━━━━╺━━━━━━━━━━━━━━━━━━━ 2:03:10 left · 1.35M tok/s · MFU 47.1% · 38.2 GB
    loss 3.8123 ▇▆▆▅▄▄▃▃▂▂▂▁▂▁▁ val 3.9012, best 3.8790 · lr 5.9e-04 · norm 0.41

There are always two lines, and they never wrap: on a narrow terminal the last figures give way.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nano_gpt.runtime.progress import clock
from nano_gpt.training.metrics import Event

RECENT = 300
"""Losses in the sparkline. Where there is not as much room, a character is the mean of several."""
_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = "_.,-~=^#"
_LEAST_ROOM = 12  # columns of the bar and of the sparkline; the figures beside them give way first
_REDRAWS = 4  # per second


class LiveLine:
    """A Listener that draws `train` and `val` events; everything else is printed above it through the logger."""

    def __init__(self, max_steps: int, first_step: int, console: Console | None = None) -> None:
        """`console` is for tests; otherwise the terminal at stderr."""
        self._max_steps = max_steps
        self._done = first_step
        self._losses: deque[float] = deque(maxlen=RECENT)
        self._losses_seen = 0
        self._train: dict[str, float | None] = {}
        self._validation: float | None = None
        self._best = math.inf
        self._live = Live(
            self,
            console=console or Console(stderr=True),
            refresh_per_second=_REDRAWS,
            transient=True,
            redirect_stdout=False,
        )
        self._live.start()

    def __call__(self, event: Event) -> None:
        if event.kind == "train":
            self._done = event.step + 1
            self._train = dict(event.fields)
            self._losses.append(event.fields["loss"])
            self._losses_seen += 1
        elif event.kind == "val":
            self._validation = event.fields["loss"]
            self._best = min(self._best, event.fields["loss"])

    def close(self) -> None:
        self._live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Drawn anew several times a second, by a thread of rich's."""
        bar = ProgressBar(total=self._max_steps, completed=self._done)
        step = Text.assemble(("step ", "dim"), (f"{self._done:,}/{self._max_steps:,}", "bold"))
        yield _line(step, bar, self._speed(), options)
        yield _line(self._loss(), _Sparkline(list(self._losses), self._losses_seen), self._health(), options)

    def _loss(self) -> Text:
        loss = self._train.get("loss")
        return Text("waiting for the first step", "dim") if loss is None else _figure("loss", f"{loss:.4f}")

    def _speed(self) -> list[Text]:
        """The most wanted first."""
        if not self._train:
            return []
        mfu, memory = self._train.get("mfu"), self._train.get("memory_gb")
        eta, speed = self._train["eta"] or 0.0, self._train["tokens_per_second"] or 0.0
        figures = [
            Text.assemble(clock(eta), (" left", "dim")),
            Text.assemble(quantity(speed), (" tok/s", "dim")),
            _figure("MFU", "-" if mfu is None else f"{mfu:.1%}"),
        ]
        if memory is not None:
            figures.append(Text.assemble(f"{memory:.1f}", (" GB", "dim")))
        return figures

    def _health(self) -> list[Text]:
        """The most wanted first."""
        figures = []
        if self._validation is not None:
            figures.append(_figure("val", f"{self._validation:.4f}, best {self._best:.4f}"))
        rate, norm, skipped = self._train.get("lr"), self._train.get("grad_norm"), self._train.get("skipped")
        if rate is not None:
            figures.append(_figure("lr", f"{rate:.1e}"))
        if norm is not None:
            figures.append(_figure("norm", f"{norm:.2f}"))
        if skipped:
            figures.append(Text(f"{skipped} skipped", "red"))
        return figures


@dataclass(frozen=True)
class _Sparkline:
    """The recent losses, in as much room as there is."""

    losses: list[float]
    seen: int
    """Losses so far, also those that are too old to be shown."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        size = max(1, math.ceil(len(self.losses) / options.max_width))
        # Groups begin at multiples of their size, so that a new loss changes the last one only and nothing dances.
        first = -(self.seen - len(self.losses)) % size
        means = [fmean(self.losses[start : start + size]) for start in range(first, len(self.losses), size)]
        yield Text(sparkline(means, plain=options.ascii_only), "cyan")


def _line(left: Text, middle: RenderableType, figures: list[Text], options: ConsoleOptions) -> Table:
    """`left`, as many of the figures as fit, and between them `middle` over all the room that remains."""
    between = Text.assemble((" | " if options.ascii_only else " · ", "dim"))
    right = between.join(figures)
    while figures and left.cell_len + right.cell_len + 2 + _LEAST_ROOM > options.max_width:
        figures = figures[:-1]
        right = between.join(figures)
    line = Table.grid(padding=(0, 1), expand=True)
    for ratio in (None, 1, None):
        line.add_column(no_wrap=True, overflow="crop", ratio=ratio)
    line.add_row(left, middle, right)
    return line


def _figure(name: str, value: str) -> Text:
    return Text.assemble((f"{name} ", "dim"), value)


def sparkline(values: Sequence[float], *, plain: bool = False) -> str:
    """A character per value, from the lowest to the highest of them; what is no number leaves a blank.

    `plain` is for terminals that cannot show Unicode's blocks.
    """
    blocks = _ASCII_BLOCKS if plain else _BLOCKS
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(blocks) - 1) / (high - low) if high > low else 0.0
    return "".join(blocks[round((value - low) * scale)] if math.isfinite(value) else " " for value in values)


def quantity(value: float) -> str:
    """`930`, `45.5k`, `1.35M`: three digits and their unit."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
