"""Fixtures that many tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"  # real corpora and vocabularies, where someone put them


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    if not SHARED.is_dir():
        pytest.skip("no folder 'shared' with real data beside the checkout")
    return SHARED


@pytest.fixture
def gpt2_bpe(shared_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the real GPT-2 vocabulary available offline."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_dir / "tiktoken-cache"))
