"""What is told of long work: a bar on a terminal of rank 0, a line every ten seconds elsewhere."""

from __future__ import annotations

import logging
import sys

import pytest

from nano_gpt.runtime import progress
from nano_gpt.runtime.progress import ProgressDisplay, clock


def test_plain_lines_come_every_ten_seconds(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(logging.getLogger("nano_gpt"), "propagate", True)
    caplog.set_level("INFO", "nano_gpt")
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with ProgressDisplay("val") as display:
        for seconds in (1, 9, 10, 15, 21):
            now[0] = seconds
            display.tell(f"{seconds} of 30 rows", seconds, 30)
    assert caplog.messages == ["val: 10 of 30 rows · 0:22 left", "val: 21 of 30 rows · 0:09 left"]


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_terminal_gets_one_live_bar(
    rank: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("RANK", rank)
    for total in (30, None):
        with ProgressDisplay("[val]") as display:
            display.tell("7 [of] 30 rows", 7, total)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("7 [of] 30 rows" in captured.err and "[val]" in captured.err) == (rank == "0")
    assert (captured.err == "") == (rank == "1")


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0, 59.6, 61, 3600)] == ["0:00", "1:00", "1:01", "1:00:00"]
