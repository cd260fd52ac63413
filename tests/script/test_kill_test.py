"""The script that kills a run at random moments, with a few of its fifty kills."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "script" / "killing.py"


@pytest.mark.slow
def test_killed_at_random_moments_the_run_is_the_same() -> None:
    result = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", "4"], capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stderr + result.stdout
    assert re.search(r"^seed \d+: 4 kills, \d of them while a checkpoint was written: identical$", result.stdout)
