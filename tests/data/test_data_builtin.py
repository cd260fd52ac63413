"""Documents of the running Python and of TinyShakespeare."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from nano_gpt.config import DataConfig
from nano_gpt.data.catalog import dataset_info
from nano_gpt.data.sources import tinyshakespeare
from nano_gpt.data.sources.python_docs import PythonDocs
from nano_gpt.data.sources.tinyshakespeare import TinyShakespeare
from nano_gpt.errors import ConfigError, NetworkError


def shakespeare(folder: Path) -> TinyShakespeare:
    config = DataConfig(dataset="tinyshakespeare", dataset_dir=folder)
    return TinyShakespeare(dataset_info(config), config)


def texts_of(source: TinyShakespeare) -> list[tuple[str | None, str]]:
    return [(part.split, text) for part in source.parts() for text in source.read(part)]


def test_python_docs_is_two_megabytes_of_distinct_prose() -> None:
    source = PythonDocs(dataset_info(DataConfig()), DataConfig())
    (part,) = source.parts()
    assert part.split is None
    texts = list(source.read(part))
    size = sum(len(text.encode()) for text in texts)
    assert 1_500_000 < size < 3_000_000
    assert part.size is not None and 0.8 < part.size / size < 1.2
    assert len(texts) == len(set(texts)) > 3000
    assert any(text.startswith("Serialize ``obj`` to a JSON formatted ``str``.") for text in texts)
    assert any("The standard type hierarchy" in text for text in texts)
    assert source.revision.startswith("CPython 3.")
    assert source.validation_fraction == 0.1


def test_tinyshakespeare_is_read_from_a_verified_copy_without_a_network(
    shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object) -> bytes:
        raise AssertionError("a copy is there")

    monkeypatch.setattr(tinyshakespeare, "download", no_network)
    assert shakespeare(tmp_path).download_size == 1_115_394
    copy = tmp_path / ".downloads" / "tinyshakespeare.txt"
    copy.parent.mkdir()
    copy.write_bytes((shared_dir / "data" / "tinyshakespeare.txt").read_bytes())
    source = shakespeare(tmp_path)
    (first, train), (second, kept) = texts_of(source)
    assert (first, second) == ("train", "validation")
    assert (len(train), len(kept)) == (1_003_854, 111_540) == tuple(part.size for part in source.parts())
    assert len(train) == int(len(train + kept) * 0.9)
    assert source.download_size == 0
    assert source.validation_fraction is None


def test_a_damaged_copy_is_fetched_again_and_checked(
    shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = (shared_dir / "data" / "tinyshakespeare.txt").read_bytes()
    copy = tmp_path / ".downloads" / "tinyshakespeare.txt"
    copy.parent.mkdir()
    copy.write_bytes(right[:-1] + b"?")
    monkeypatch.setattr(tinyshakespeare, "download", lambda *_: b"<html>log in</html>")
    with pytest.raises(NetworkError, match="not TinyShakespeare"):
        shakespeare(tmp_path).parts()
    monkeypatch.setattr(tinyshakespeare, "download", lambda *_: right)
    shakespeare(tmp_path).parts()
    assert copy.read_bytes() == right


def test_no_network_is_one_error_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TinyShakespeare, "url", "http://127.0.0.1:9/input.txt")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    start = time.monotonic()
    for words in ("cannot download .* refused", "HF_HUB_OFFLINE forbids"):
        with pytest.raises(NetworkError, match=words) as caught:
            shakespeare(tmp_path).parts()
        assert "--files input.txt" in (caught.value.hint or "")
        assert str(tmp_path / ".downloads" / "tinyshakespeare.txt") in (caught.value.hint or "")
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert time.monotonic() - start < 5


def test_a_fraction_for_a_source_with_its_own_split_is_refused() -> None:
    config = DataConfig(dataset="tinyshakespeare", validation_fraction=0.2)
    with pytest.raises(ConfigError, match="its own validation split"):
        TinyShakespeare(dataset_info(config), config)
