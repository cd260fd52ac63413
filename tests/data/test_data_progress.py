"""What is told while preparing: lines in a log, a bar on a terminal."""

from __future__ import annotations

import logging
import sys

import pytest

from nano_gpt.data import progress
from nano_gpt.data.manifest import Counts
from nano_gpt.data.progress import Progress

BEFORE, NOW = Counts(documents=1, tokens=10, bytes=1_000_000), Counts(documents=3, tokens=2500, bytes=2_000_000)


def test_plain_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("nano_gpt").propagate = True
    caplog.set_level("INFO", "nano_gpt")
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Progress(8_000_000, [BEFORE]) as shown:
        for seconds in (1, 11, 12, 22):
            clock[0] = 100.0 + seconds
            shown.show([NOW])
    assert caplog.messages == [
        "prepare: 25% · 3 documents · 2,500 tokens · 0.1 MB/s · 0:11",
        "prepare: 25% · 3 documents · 2,500 tokens · 0.0 MB/s · 0:22",
    ]


def test_a_terminal_gets_a_live_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    for size in (8_000_000, None):
        with Progress(size, []) as shown:
            shown.show([NOW])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2,500 tokens" in captured.err
