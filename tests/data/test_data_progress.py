"""What is told while preparing: lines in a log, a bar on a terminal."""

from __future__ import annotations

import logging
import sys

import pytest

from nano_gpt.data.preparing import progress
from nano_gpt.data.preparing.progress import Progress

BEFORE, NOW = (1, 10, 1_000_000), (2, 2_490, 1_000_000)  # documents, tokens, bytes


def test_plain_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("nano_gpt").propagate = True
    caplog.set_level("INFO", "nano_gpt")
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Progress("prepare", 8_000_000, 2, BEFORE) as shown:
        for seconds, totals in ((0, (0, 0, 0)), (11, NOW), (12, NOW), (22, NOW)):
            clock[0] = 100.0 + seconds
            shown.show(totals)
    assert caplog.messages == [
        "prepare: 25% · 3 documents · 2,500 tokens · 226 tokens/s · 0.1 MB/s · 0:11 · 1:06 left",
        "prepare: 25% · 3 documents · 2,500 tokens · 113 tokens/s · 0.0 MB/s · 0:22 · 2:12 left",
    ]


@pytest.mark.parametrize(("measure", "goal"), [(0, 6), (1, 5_000)])
def test_a_sample_is_measured_in_what_limits_it(measure: int, goal: int, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int | None]] = []
    monkeypatch.setattr(Progress, "tell", lambda self, figures, done, total: told.append((done, total)))
    with Progress("prepare", goal, measure, BEFORE) as shown:
        shown.show(NOW)
    assert told == [(BEFORE[measure] + NOW[measure], goal)] and told[0][0] * 2 == goal


def test_a_terminal_gets_a_live_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    for size in (8_000_000, None):
        with Progress("prepare", size, 2, BEFORE) as shown:
            shown.show(NOW)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2.50k tokens" in captured.err


def test_further_rounds_go_on_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(Progress, "tell", lambda self, figures, done, total: told.append(done))
    with Progress("prepare", 100, 1, (1, 10, 0)) as shown:
        shown.begin((1, 10, 0))
        shown.show((2, 20, 0))
        shown.begin((3, 30, 0))
        shown.show((1, 7, 0))
    assert told == [30, 37]
    assert "4 documents · 37 tokens" in shown.figures()
