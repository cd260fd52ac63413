"""A rank that dies, hangs or stops ends the run on the others, in one line that names it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("lost_rank_worker.py")
RANK_1 = r"rank 1 \(process \d+ on \S+\)"
GONE = r"is gone, or frozen: no sign of life for \d+ s\n  hint: killed for want of memory, or is its machine down\? .*"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lost")
    done = subprocess.run(
        [sys.executable, str(WORKER), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(
    ("way", "line"),
    [
        ("killed", f"LostRankError: {RANK_1} {GONE}"),
        ("frozen", f".*rror: {RANK_1} {GONE}"),  # by an error of gloo or by the thread, whichever is first
        ("raised", f"LostRankError: {RANK_1} stopped: ValueError: no such luck"),
        (
            "stuck",
            f"LostRankError: {RANK_1} did not come to where the others waited for up to 6 s\n  hint: .*py-spy.*",
        ),
        ("frozen while the others are deaf", f"error: {RANK_1} {GONE}"),
        (
            "never there",
            "LostRankError: not all of 3 ranks came within 6 s: no word from rank 1\n  hint: the same MASTER_ADDR .*",
        ),
    ],
)
def test_the_lost_rank_is_named_once(folder: Path, way: str, line: str) -> None:
    told = (folder / f"{way} 0").read_text()
    assert re.fullmatch(line + "\n", told), told
    assert (folder / f"{way} 2").read_text() == ""
    assert (folder / f"{way} 0 status").read_text() == "1"


def test_whoever_is_asked_to_end_still_says_which_rank_was_lost(folder: Path) -> None:
    """torchrun sends SIGTERM to all ranks as soon as one has died: that took the line with it."""
    assert (folder / "killed 0 status").read_text() == "1"
    assert (folder / "killed 2 status").read_text() == "-15"
