"""Log lines go to stderr and into a file; stdout is for results."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from nano_gpt.runtime import logs
from nano_gpt.runtime.logs import logger


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before


def test_lines_go_to_stderr_and_to_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up()
    path = tmp_path / "run" / "train.log"
    handler = logs.add_file(path)
    logger.info("step 1 é")
    logs.remove(handler)
    logger.info("step 2")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "step 1 é\nstep 2\n")
    assert path.read_text(encoding="utf-8") == "step 1 é\n"


def test_a_log_file_is_appended_to(tmp_path: Path) -> None:
    logs.set_up()
    path = tmp_path / "train.log"
    for line in ("first run", "resumed"):
        handler = logs.add_file(path)
        logger.info(line)
        logs.remove(handler)
    assert path.read_text() == "first run\nresumed\n"


def test_a_library_user_gets_the_log_file_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody called `set_up`, as in `nano_gpt.train(config)`: the run's train.log was empty."""
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
    handler = logs.add_file(tmp_path / "train.log")
    logger.info("step 1")
    logs.remove(handler)
    assert (tmp_path / "train.log").read_text() == "step 1\n"
    assert capsys.readouterr().err == ""  # and the console stays the program's own


@pytest.mark.parametrize(
    ("main_rank", "debug", "expected"),
    [(True, False, "info\nwarning\n"), (False, False, "warning\n"), (True, True, "debug\ninfo\nwarning\n")],
)
def test_who_prints_what(main_rank: bool, debug: bool, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(main_rank=main_rank, debug=debug)
    logger.debug("debug")
    logger.info("info")
    logger.warning("warning")
    assert capsys.readouterr().err == expected


def test_setting_up_twice_prints_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up()
    logs.set_up()
    logger.info("once")
    assert capsys.readouterr().err == "once\n"


def test_a_closed_pipe_does_not_end_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Closed:
        def write(self, text: str) -> None:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    logs.set_up()
    handler = logs.add_file(tmp_path / "train.log")
    monkeypatch.setattr("sys.stderr", Closed())
    logger.info("still written")
    logs.remove(handler)
    assert (tmp_path / "train.log").read_text() == "still written\n"
