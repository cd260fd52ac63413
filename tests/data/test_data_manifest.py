"""Opening a prepared set: what is not one, or not the one that it says, is refused with the remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nano_gpt.config import DataConfig
from nano_gpt.data.catalog import MANIFEST
from nano_gpt.data.manifest import PREBUILT, UNFINISHED, PreparedSet, check_not_foreign, open_prepared
from nano_gpt.data.preparing.prepare import prepare
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
    (tmp_path / UNFINISHED).mkdir()
    (tmp_path / "train_000000.npy").touch()  # packed already
    assert "is not finished" in refused(tmp_path).message and "--prebuilt" not in (refused(tmp_path).hint or "")
    (tmp_path / UNFINISHED / PREBUILT).touch()
    assert "--prebuilt" in (refused(tmp_path).hint or "")


@pytest.mark.parametrize("name", ["train.bin", "x_val_000000.bin", "x_train.npy.000", "train_000000.npy"])
def test_token_files_without_a_manifest_can_be_imported(name: str, tmp_path: Path) -> None:
    check_not_foreign(tmp_path / "missing")
    check_not_foreign(tmp_path)
    (tmp_path / "notes.txt").touch()
    check_not_foreign(tmp_path)
    (tmp_path / name).touch()
    error = refused(tmp_path)
    assert f"holds token files ({name})" in error.message
    assert error.hint == f"nano-gpt prepare_dataset --import {tmp_path} --dataset-dir {tmp_path.parent}"


def test_the_remedy_names_the_command_that_made_the_set(prepared: PreparedSet, tmp_path: Path) -> None:
    def remedy(**values: object) -> str:
        manifest = prepared.manifest.model_copy(update=values)
        return PreparedSet(DataConfig().dataset_dir / "x", manifest).remedy

    own = f"--files ... --tokenizer byte --dataset-dir {tmp_path} --overwrite"
    assert prepared.remedy.endswith(f"prepare_dataset --dataset mine {own}")
    assert remedy(dataset="finewebedu", tokenizer="gpt2", options={}).endswith("--dataset finewebedu --overwrite")
    assert remedy(dataset="hf:a/b", tokenizer="gpt2", options={}).endswith("--dataset hf:a/b --overwrite")
    assert remedy(dataset="x", tokenizer="gpt2", options={"format": "raw"}) == (
        "restore the file, or import it again: nano-gpt prepare_dataset --import ... --dataset x --overwrite"
    )
    ready: dict[str, object] = {"format": "llm.c", "prebuilt": "a/b", "max_tokens": None}
    assert remedy(dataset="finewebedu", tokenizer="gpt2", options=ready) == (
        "restore the file, or download it again: nano-gpt prepare_dataset --dataset finewebedu --prebuilt --overwrite"
    )
    part = remedy(dataset="finewebedu", tokenizer="gpt2", options={**ready, "max_tokens": 10**9})
    assert part.endswith("--dataset finewebedu --prebuilt --max-tokens 1000000000 --overwrite")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 1}, "is of format version 1; this nano-gpt reads 2"),
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
    with pytest.raises(DataError, match="has no validation split; it has train") as caught:
        only.reader("validation")
    assert "--splits train,validation" in (caught.value.hint or "")
    imported = PreparedSet(only.folder, only.manifest.model_copy(update={"options": {"format": "npy"}}))
    with pytest.raises(DataError, match="has no validation split") as caught:
        imported.tokens("validation")
    assert "--import FOLDER" in (caught.value.hint or "")
