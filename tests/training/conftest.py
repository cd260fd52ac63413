"""A place to train in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from running import SETTINGS, TEXT


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, with a text and a config that trains on it.

    One thread here and in the processes that are started: with another number sums are rounded differently.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    Path("fox.txt").write_text(TEXT)
    settings = {**SETTINGS, "data": {**SETTINGS["data"], "files": ["fox.txt"]}}
    Path("fox.yaml").write_text(yaml.safe_dump(settings))
    yield tmp_path
    torch.set_num_threads(threads)
