"""Opening a prepared set: what is not one, or not the one that it says, is refused with the remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nano_gpt.config import DataConfig
from nano_gpt.data.catalog import MANIFEST
from nano_gpt.data.manifest import JOURNAL, PreparedSet, open_prepared
from nano_gpt.data.prepare import prepare
from nano_gpt.errors import DataError
from nano_gpt.tokenizer import load_tokenizer


@pytest.fixture
def prepared(tmp_path: Path) -> PreparedSet:
    (tmp_path / "mine.txt").write_text("To be, or not to be: that is the question.\n" * 20)
    return prepare(DataConfig(dataset="mine", files=(tmp_path / "mine.txt",), tokenizer="byte", dataset_dir=tmp_path))


def refused(folder: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        open_prepared(folder)
    assert caught.value.hint is not None
    return caught.value


def test_missing_and_unfinished(tmp_path: Path) -> None:
    error = refused(tmp_path / "poems")
    assert "there is no prepared set" in error.message and "--dataset poems" in (error.hint or "")
    (tmp_path / JOURNAL).touch()
    assert "is not finished" in refused(tmp_path).message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "is of format version 2; this nano-gpt reads 1"),
        ({"vocab_size": "many"}, "is damaged: vocab_size"),
        ({"colour": "red"}, "is damaged: colour"),
        ({"dtype": "object"}, "is damaged: dtype"),
    ],
)
def test_a_manifest_that_is_not_ours(change: dict[str, object], message: str, prepared: PreparedSet) -> None:
    path = prepared.folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert message in refused(prepared.folder).message


def test_a_manifest_cannot_point_outside_its_folder(prepared: PreparedSet) -> None:
    path = prepared.folder / MANIFEST
    path.write_text(path.read_text().replace("train_000000.npy", "../train_000000.npy"))
    assert "shards.0.file" in refused(prepared.folder).message


def test_half_a_manifest_is_damaged(prepared: PreparedSet) -> None:
    path = prepared.folder / MANIFEST
    path.write_text(path.read_text()[:100])
    assert "is damaged" in refused(prepared.folder).message


def test_another_tokenizer_in_the_folder_is_refused(prepared: PreparedSet, tmp_path: Path) -> None:
    other = prepare(DataConfig(dataset="mine", files=(tmp_path / "mine.txt",), tokenizer="char", dataset_dir=tmp_path))
    assert prepared.tokenizer().fingerprint == load_tokenizer("byte").fingerprint
    other.tokenizer().save(prepared.folder)
    with pytest.raises(DataError, match="not those that made its tokens"):
        prepared.tokenizer()


def test_the_fingerprint_changes_with_the_tokens_and_not_with_the_place(prepared: PreparedSet, tmp_path: Path) -> None:
    config = DataConfig(dataset="mine", files=(tmp_path / "mine.txt",), tokenizer="byte", dataset_dir=tmp_path / "b")
    assert prepare(config).fingerprint == prepared.fingerprint
    more = config.model_copy(update={"validation_fraction": 0.5, "dataset_dir": tmp_path / "c"})
    assert prepare(more).fingerprint != prepared.fingerprint


def test_a_split_that_was_not_prepared(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("one two three " * 20)
    config = DataConfig(dataset="mine", files=(tmp_path / "mine.txt",), tokenizer="byte", dataset_dir=tmp_path)
    only = prepare(config, ["train"])
    with pytest.raises(DataError, match="has no validation split; it has train"):
        only.reader("validation")
