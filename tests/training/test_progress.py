"""The live lines: what they show, and that they fit every width and every terminal's characters."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console

from nano_gpt.training.metrics import Event
from nano_gpt.training.progress import LiveLine, quantity, sparkline

TRAIN = {"loss": 3.8123, "grad_norm": 0.412, "dt_ms": 388.0, "tokens_per_second": 1.35e6, "lr": 5.9e-4}


class Screen:
    def __init__(self, width: int, encoding: str) -> None:
        file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        self.console = Console(file=file, width=width, force_terminal=True, legacy_windows=False)
        self.line = LiveLine(19073, 0, self.console)

    def rows(self) -> list[str]:
        """What is shown now, without colours."""
        return ["".join(segment.text for segment in row) for row in self.console.render_lines(self.line, pad=False)]


@contextmanager
def screen(width: int = 100, encoding: str = "utf-8") -> Iterator[Screen]:
    screen = Screen(width, encoding)
    try:
        yield screen
    finally:
        screen.line.close()


def train(step: int, **fields: float | None) -> Event:
    return Event("train", step, 0, {**TRAIN, "mfu": 0.471, "eta": 7390.0, "memory_gb": 38.24, **fields})


def test_everything_that_is_known() -> None:
    with screen(120) as s:
        for step, loss in enumerate((9.0, 7.0, 3.8123)):
            s.line(train(step, loss=loss))
        for loss in (3.8790, 3.9012):
            s.line(Event("val", 3, 0, {"loss": loss}))
        first, second = s.rows()
    assert first.startswith("step 3/19,073 ")
    assert first.endswith(" 2:03:10 left · 1.35M tok/s · MFU 47.1% · 38.2 GB")
    assert second.startswith("loss 3.8123 █▅▁ ")
    assert second.endswith(" val 3.9012, best 3.8790 · lr 5.9e-04 · norm 0.41")


def test_what_is_not_known_is_left_out_or_a_dash() -> None:
    with screen() as s:
        assert s.rows()[1].strip() == "waiting for the first step"
        s.line(train(0, mfu=None, memory_gb=None))
        first, second = s.rows()
        assert first.endswith("tok/s · MFU -")
        assert "val" not in second
        event = train(1)
        s.line(Event("train", 1, 0, {key: value for key, value in event.fields.items() if key != "memory_gb"}))
        assert s.rows()[0].endswith("MFU 47.1%")
        s.line(train(2, skipped=2))
        assert s.rows()[1].endswith("norm 0.41 · 2 skipped")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 140, 300])
def test_two_lines_that_never_wrap(width: int, encoding: str) -> None:
    with screen(width, encoding) as s:
        for step in range(400):
            s.line(train(step * 47, loss=3.0 + 1 / (step + 1)))
        s.line(Event("val", 400, 0, {"loss": 3.9}))
        rows = s.rows()
    assert len(rows) == 2
    assert max(map(len, rows)) <= width
    "".join(rows).encode(encoding)
    assert ("left" in rows[0]) == ("3.9000" in rows[1]) == (width >= 60), "the last figures give way to the first"


def test_a_new_loss_changes_only_the_end_of_the_sparkline() -> None:
    """Also where a character stands for several losses: a line that is drawn anew at every step flickers."""
    with screen(80) as s:
        for step in range(500):
            s.line(train(step, loss=float(step % 7)))
        before = s.rows()[1].split()[2]
        s.line(train(500, loss=3.0))
        after = s.rows()[1].split()[2]
    assert len(before) > 15
    assert before[:-1] in after or before[1:-1] in after


def test_losses_that_are_no_numbers() -> None:
    with screen() as s:
        for loss in (2.0, math.nan, 1.0):
            s.line(train(0, loss=loss, grad_norm=math.nan))
        s.line(Event("val", 1, 0, {"loss": math.nan}))
        assert s.rows()[1].startswith("loss 1.0000 █ ▁ ")


def test_sparkline() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([7, 0, math.inf, 7], plain=True) == "#_ #"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([]) == ""


def test_quantities() -> None:
    assert [quantity(value) for value in (0, 930, 45_480, 1_350_554, 2.5e9)] == ["0", "930", "45.5k", "1.35M", "2.5B"]
