"""Fixtures that many tests share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nano_gpt.model.native.library import library
from nano_gpt.runtime import compiled
from nano_gpt.runtime.logs import logger

SHARED = Path(__file__).resolve().parents[2] / "shared"  # real corpora and vocabularies, where someone put them


@pytest.fixture(autouse=True)
def fresh_logger() -> Iterator[None]:
    """Every test begins with the logger as it is before a command has set it up."""
    before = (list(logger.handlers), logger.level, logger.propagate)
    logger.handlers[:], logger.propagate = [], True
    logger.setLevel(logging.NOTSET)
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    if not SHARED.is_dir():
        pytest.skip("no folder 'shared' with real data beside the checkout")
    return SHARED


@pytest.fixture
def gpt2_bpe(shared_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the real GPT-2 vocabulary available offline."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_dir / "tiktoken-cache"))


@pytest.fixture(scope="module", params=["compiled", "not compiled"])
def multiplied(request: pytest.FixtureRequest) -> Iterator[None]:
    """On a CPU a packed model has C of ours where there is a compiler, and torch's products where there is none."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "not compiled":
            patch.setattr(compiled, "load", lambda source: None)
        elif library() is None:
            pytest.skip("nothing can be compiled here")
        yield


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fewer of them than there is work for, and more than there are cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)
