"""Token files of others: read as they are where they are sound, refused with the file's name where they are not."""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_gpt.config import DataConfig
from nano_gpt.data.catalog import MANIFEST
from nano_gpt.data.manifest import PreparedSet, open_prepared
from nano_gpt.data.ready import checking, foreign
from nano_gpt.data.ready.foreign import import_shards
from nano_gpt.data.shards import write_shard
from nano_gpt.errors import ConfigError, DataError
from nano_gpt.tokenizer import load_tokenizer

EOT = 256  # of the byte tokenizer, whose ids are otherwise the bytes


def documents(*texts: str, opens: bool = True) -> list[int]:
    ids: list[int] = []
    for text in texts:
        ids += [EOT, *text.encode()] if opens else [*text.encode(), EOT]
    return ids


Writer = Callable[[Path, Sequence[int]], None]


def npy(path: Path, ids: Sequence[int], dtype: str = "<u2") -> None:
    with path.open("wb") as file:  # np.save(path) would append .npy to the name
        np.save(file, np.array(ids, dtype))


def raw(path: Path, ids: Sequence[int], dtype: str = "<u2") -> None:
    np.array(ids, dtype).tofile(path)


def llmc(path: Path, ids: Sequence[int], magic: int = 20240520, version: int = 1, dtype: str = "<u2") -> None:
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(ids)
    path.write_bytes(header.tobytes() + np.array(ids, dtype).tobytes())


def config(folder: Path, **values: object) -> DataConfig:
    return DataConfig.model_validate(
        {"dataset": "theirs", "tokenizer": "byte", "dataset_dir": folder / "cache", **values}
    )


def place(folder: Path) -> Path:
    return folder / "cache" / "theirs-byte"


def all_ids(prepared: PreparedSet, split: str) -> list[int]:
    return prepared.reader(split).read(0, prepared.tokens(split)).tolist()


TRAIN = [documents("First Citizen", "", "Speak"), documents("All"), [*b" the rest", *documents("x")]]
VALIDATION = documents("Before we proceed", "any further")


@pytest.mark.parametrize(
    ("train", "validation", "write", "kind"),
    [
        ("tiny_train.npy.{:03d}", "tiny_validation.npy.000", npy, "npy"),
        ("tiny_train.npy.{:03d}.npy", "tiny_validation.npy.000.npy", npy, "npy"),
        ("edufineweb_train_{:06d}.npy", "edufineweb_val_000000.npy", npy, "npy"),
        ("train_{:06d}.npy", "validation_000000.npy", npy, "npy"),
        ("fineweb_train_{:06d}.bin", "fineweb_val_000000.bin", llmc, "llm.c"),
    ],
)
def test_every_style_in_several_files(train: str, validation: str, write: Writer, kind: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number, ids in enumerate(TRAIN, 1):
        write(source / train.format(number), ids)
    write(source / validation, VALIDATION)
    (source / "README.md").touch()
    (source / ".tmp-train_000009.npy").write_bytes(b"half")
    prepared = import_shards(source, config(tmp_path))
    assert prepared.folder == place(tmp_path)
    assert all_ids(prepared, "train") == [*TRAIN[0], *TRAIN[1], *TRAIN[2]]
    assert all_ids(prepared, "validation") == VALIDATION
    manifest = open_prepared(place(tmp_path)).manifest
    assert manifest == prepared.manifest
    assert manifest.options == {"format": kind} and manifest.eot_opens and manifest.eot_id == EOT
    assert manifest.description.startswith("imported from source (") and str(tmp_path) not in manifest.model_dump_json()
    counts = manifest.splits["train"]
    text = b"".join(bytes(token for token in ids if token != EOT) for ids in TRAIN)
    assert (counts.documents, counts.tokens, counts.bytes) == (5, sum(map(len, TRAIN)), len(text))
    assert [shard.documents for shard in manifest.shards] == [3, 1, 1, 2]
    # lengths 14, 1, 6, 4 + 9 (it goes on in the next shard), 2
    assert counts.lengths == (1, 1, 1, 2)
    for shard in manifest.shards:
        content = (source / shard.file).read_bytes()
        assert (shard.bytes, shard.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert (source / shard.file).samefile(place(tmp_path) / shard.file)
    assert manifest.shards[0].max_id == EOT and manifest.tokens_per_shard == max(map(len, [*TRAIN, VALIDATION]))
    assert prepared.tokenizer().fingerprint == load_tokenizer("byte").fingerprint
    prepared.verify()


def test_nanogpt_files_end_their_documents(tmp_path: Path) -> None:
    source = tmp_path / "openwebtext"
    source.mkdir()
    train = documents("one", "", "three!", opens=False)
    raw(source / "train.bin", train)
    raw(source / "val.bin", documents("four", opens=False))
    manifest = import_shards(source, config(tmp_path)).manifest
    assert not manifest.eot_opens and manifest.options == {"format": "raw"}
    assert manifest.splits["train"].documents == 3 and manifest.splits["train"].lengths == (1, 0, 2)  # 1, 4, 7
    assert [(shard.file, shard.offset) for shard in manifest.shards] == [("train.bin", 0), ("val.bin", 0)]
    assert all_ids(open_prepared(place(tmp_path)), "train") == train


def test_statistics_do_not_depend_on_how_much_is_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nano_gpt.data import shards

    for opens in (True, False):
        source = tmp_path / f"opens{opens}"
        source.mkdir()
        ids = documents(*("x" * length for length in (5, 0, 300, 2, 2, 64, 63, 62)), opens=opens)
        npy(source / "train_000000.npy", ids)
        found = []
        for block in (10**6, 7, 1):
            monkeypatch.setattr(shards, "_BLOCK_TOKENS", block)
            checked = import_shards(source, config(tmp_path, dataset=f"set{opens}{block}")).manifest
            found.append((checked.splits, checked.shards))
        assert found[0] == found[1] == found[2]
        assert checked.splits["train"].lengths == (1, 2, 1, 0, 0, 1, 2, 0, 1)  # 1 | 3 3 | 6 | 63 | 64 65 | 301
        assert checked.eot_opens is opens


@settings(deadline=None, max_examples=150)
@given(
    texts=st.fixed_dictionaries(
        dict.fromkeys(("train", "validation"), st.lists(st.text("ab", max_size=3), min_size=1))
    ),
    opens=st.booleans(),
    cut=st.sampled_from(["", "a", "ab"]),
    block=st.integers(1, 9),
    file=st.integers(1, 9),
)
def test_validation_documents_that_are_in_train_too_are_counted(
    texts: dict[str, list[str]], opens: bool, cut: str, block: int, file: int
) -> None:
    """However the tokens lie in files and are read; neither an empty document nor a piece of one at a cut counts."""
    from nano_gpt.data import shards

    with tempfile.TemporaryDirectory() as name, patch.object(shards, "_BLOCK_TOKENS", block):
        folder = Path(name)
        texts = {split: ["b", *members] for split, members in texts.items()}  # or it could open them, too
        for split, members in texts.items():
            ids = documents(*members, opens=opens)
            # A stream that was cut in two: one split begins, or ends, within a document.
            ids = [*cut.encode(), *ids] if opens and split == "validation" else ids
            ids = [*ids, *cut.encode()] if not opens and split == "train" else ids
            for number, start in enumerate(range(0, len(ids), file)):
                npy(folder / f"{split}_{number:06d}.npy", ids[start : start + file])
        manifest = import_shards(folder, config(folder)).manifest
        train = set(texts["train"])
        assert manifest.validation_in_train == sum(bool(text) and text in train for text in texts["validation"])
        assert [shard.split for shard in manifest.shards] == sorted(shard.split for shard in manifest.shards)


def test_without_documents_of_both_splits_nobody_knows(tmp_path: Path) -> None:
    for number, (train, validation) in enumerate(((b"a\0a", b"b"), (b"a", None), (None, b"a"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        for split, ids in (("train", train), ("val", validation)):
            if ids is not None:
                raw(folder / f"{split}.bin", [EOT if id_ == 0 else id_ for id_ in ids])
        assert import_shards(folder, config(tmp_path, dataset=f"set{number}")).manifest.validation_in_train is None


def test_llama_shards_of_llmc_have_wide_ids(tmp_path: Path) -> None:
    llmc(tmp_path / "x_train_000001.bin", documents("abc"), 20240801, 7, "<u4")
    prepared = import_shards(tmp_path / "x_train_000001.bin", config(tmp_path))
    assert prepared.manifest.dtype == "uint32" and all_ids(prepared, "train") == documents("abc")


def test_one_file_and_a_pattern(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    raw(tmp_path / "train.bin", documents("a"))
    raw(tmp_path / "val.bin", documents("b"))
    assert set(import_shards(tmp_path / "train.bin", config(tmp_path)).manifest.splits) == {"train"}
    assert "has no validation split" in caplog.text
    both = import_shards(tmp_path / "*.bin", config(tmp_path, dataset="both"))
    assert set(both.manifest.splits) == {"train", "validation"}
    only = import_shards(tmp_path / "val.*", config(tmp_path, dataset="only"))
    assert set(only.manifest.splits) == {"validation"} and "has no train split" in caplog.text


def test_a_folder_of_several_sets_gives_the_named_one(tmp_path: Path) -> None:
    """The predecessor keeps all of its sets in one folder."""
    for name in ("shakespeare", "finewebedu"):
        npy(tmp_path / f"{name}_train.npy.000.npy", documents(name))
    assert all_ids(import_shards(tmp_path, config(tmp_path, dataset="finewebedu", tokenizer="byte")), "train") == (
        documents("finewebedu")
    )
    with pytest.raises(DataError, match="several sets: finewebedu, shakespeare") as caught:
        import_shards(tmp_path, config(tmp_path))
    assert "--dataset NAME" in (caught.value.hint or "")


def test_the_same_again_returns_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.mkdir()
    raw(source / "train.bin", documents("a"))
    first = import_shards(source, config(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(foreign, "check_files", lambda *_: pytest.fail("it was read again"))
        assert import_shards(source, config(tmp_path)).manifest == first.manifest
    copy = tmp_path / "copy"  # other files with the same content: read, and found to be the same
    copy.mkdir()
    raw(copy / "train.bin", documents("a"))
    assert import_shards(copy, config(tmp_path)).manifest == first.manifest


def test_other_content_is_refused_unless_it_may_replace(tmp_path: Path) -> None:
    for name, text in (("old", "a"), ("new", "b")):
        (tmp_path / name).mkdir()
        raw(tmp_path / name / "train.bin", documents(text))
    raw(tmp_path / "old" / "val.bin", documents("c"))
    import_shards(tmp_path / "old", config(tmp_path))
    with pytest.raises(DataError, match=r"holds another set: imported from old \(") as caught:
        import_shards(tmp_path / "new", config(tmp_path))
    assert "--overwrite" in (caught.value.hint or "")
    assert all_ids(open_prepared(place(tmp_path)), "train") == documents("a")
    replaced = import_shards(tmp_path / "new", config(tmp_path), overwrite=True)
    assert all_ids(replaced, "train") == documents("b") and set(replaced.manifest.splits) == {"train"}
    assert not (place(tmp_path) / "val.bin").exists()  # a link; what it led to is its owner's
    assert sorted(path.name for path in (tmp_path / "old").iterdir()) == ["train.bin", "val.bin"]


def test_an_import_that_was_stopped_is_done_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.mkdir()
    raw(source / "train.bin", documents("a"))
    raw(source / "val.bin", documents("b"))

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(foreign, "finish", stopped)
        with pytest.raises(KeyboardInterrupt):
            import_shards(source, config(tmp_path))
    with pytest.raises(DataError, match=r"holds token files \(train.bin\) and no manifest.json") as caught:
        open_prepared(place(tmp_path))
    assert (
        caught.value.hint == f"nano-gpt prepare_dataset --import {place(tmp_path)} --dataset-dir {tmp_path / 'cache'}"
    )
    assert all_ids(import_shards(source, config(tmp_path)), "validation") == documents("b")


def test_where_the_files_lie_already_nothing_is_linked(tmp_path: Path) -> None:
    place(tmp_path).mkdir(parents=True)
    npy(place(tmp_path) / "train_000000.npy", documents("a"))
    before = (place(tmp_path) / "train_000000.npy").stat()
    prepared = import_shards(place(tmp_path), config(tmp_path))
    after = (place(tmp_path) / "train_000000.npy").stat()
    assert (after.st_ino, after.st_nlink) == (before.st_ino, 1) and all_ids(prepared, "train") == documents("a")
    npy(place(tmp_path) / "train_000001.npy", documents("b"))
    import_shards(place(tmp_path), config(tmp_path), overwrite=True)
    assert all_ids(open_prepared(place(tmp_path)), "train") == documents("a", "b")
    npy(tmp_path / "train_000000.npy", documents("c"))  # another set in its place: what may be the only copy stays
    import_shards(tmp_path / "train_000000.npy", config(tmp_path), overwrite=True)
    assert all_ids(open_prepared(place(tmp_path)), "train") == documents("c")
    assert (place(tmp_path) / "train_000001.npy").is_file()


def test_a_symbolic_link_where_a_hard_one_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    raw(tmp_path / "train.bin", documents("a"))
    monkeypatch.setattr(os, "link", refuse)
    prepared = import_shards(tmp_path / "train.bin", config(tmp_path))
    assert (prepared.folder / "train.bin").is_symlink() and all_ids(prepared, "train") == documents("a")
    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(DataError, match="neither by a hard nor by a symbolic link: Invalid cross-device") as caught:
        import_shards(tmp_path / "train.bin", config(tmp_path, dataset="more"))
    assert "--dataset-dir" in (caught.value.hint or "")


def test_another_file_of_that_name_is_not_touched(tmp_path: Path) -> None:
    raw(tmp_path / "train.bin", documents("a"))
    place(tmp_path).mkdir(parents=True)
    raw(place(tmp_path) / "train.bin", documents("bb"))
    with pytest.raises(DataError, match="is there already, and is another file"):
        import_shards(tmp_path / "train.bin", config(tmp_path))
    assert (place(tmp_path) / "train.bin").stat().st_size == 6


def test_a_set_that_is_being_prepared_is_not_touched(tmp_path: Path) -> None:
    raw(tmp_path / "train.bin", documents("a"))
    (place(tmp_path) / "unfinished").mkdir(parents=True)
    (place(tmp_path) / "unfinished" / "plan.json").touch()
    with pytest.raises(DataError, match="is being prepared from text and not finished"):
        import_shards(tmp_path / "train.bin", config(tmp_path))
    import_shards(tmp_path / "train.bin", config(tmp_path), overwrite=True)
    assert not (place(tmp_path) / "unfinished").exists()


def fails(tmp_path: Path, **values: object) -> DataError:
    with pytest.raises(DataError) as caught:
        import_shards(tmp_path, config(tmp_path, **values))
    assert not (place(tmp_path) / MANIFEST).exists() and not list((tmp_path / "cache").glob("*/*.bin"))
    return caught.value


def test_an_id_that_the_tokenizer_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nano_gpt.data import shards

    monkeypatch.setattr(shards, "_BLOCK_TOKENS", 100)
    ids = documents("x" * 300)
    ids[250] = 50256
    llmc(tmp_path / "a_train_000001.bin", ids)
    error = fails(tmp_path)
    assert error.message == (
        f"{tmp_path / 'a_train_000001.bin'} holds id 50256 at token 250; tokenizer byte has the ids 0 to 256"
    )
    assert "--tokenizer" in (error.hint or "")


def test_a_header_is_never_taken_for_tokens(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    llmc(path, documents("abc"))
    whole = path.read_bytes()
    for size, message in (
        (1000, "holds 1,000 bytes; the header of an llm.c file alone has 1,024"),
        (1024, "its header promises 4 tokens, 1,032 bytes"),
        (1030, "holds 1,030 bytes; its header promises 4 tokens, 1,032 bytes"),
    ):
        path.write_bytes(whole[:size])
        assert message in fails(tmp_path).message
    path.write_bytes(whole + b"\0\0")
    assert "holds 1,034 bytes" in fails(tmp_path).message
    llmc(path, documents("abc"), version=2)
    assert "llm.c header of an unknown version: 20240520, 2, 4" in fails(tmp_path).message
    llmc(path, documents("abc"), magic=20240522)  # its evaluation files
    assert "header of a format that is not known: [20240522, 1, 4, 0], then zeros" in fails(tmp_path).message


def test_files_that_are_no_token_files(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    path.write_bytes(b"")
    assert fails(tmp_path).message == f"shard {path} is empty"
    path.write_bytes(b"\1\0\2")
    assert "3 bytes, which is no whole number of uint16 tokens" in fails(tmp_path).message
    raw(path, documents("a" * 100), "<u4")
    assert "every second 16-bit id is 0" in fails(tmp_path).message
    path.unlink()
    npy(tmp_path / "a_train_000000.npy", [1, 2], "<i8")
    assert "is int64; tokens are uint16 or uint32" in fails(tmp_path).message
    npy(tmp_path / "a_train_000000.npy", [])
    assert "holds no tokens" in fails(tmp_path).message
    npy(tmp_path / "a_train_000000.npy", documents("a" * 100))
    whole = (tmp_path / "a_train_000000.npy").read_bytes()
    for size in (7, 64, 200):
        (tmp_path / "a_train_000000.npy").write_bytes(whole[:size])
        assert f"shard {tmp_path / 'a_train_000000.npy'} " in fails(tmp_path).message
    raw(tmp_path / "a_train_000000.npy", documents("a" * 100))
    assert "is not a .npy file" in fails(tmp_path).message


class _Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle was loaded",))


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    with (tmp_path / "train_000000.npy").open("wb") as file:
        np.save(file, np.array([_Harmful()], object), allow_pickle=True)
    assert "pickled objects" in fails(tmp_path).message


def test_nanogpt_sets_of_characters_are_not_guessed_at(tmp_path: Path) -> None:
    """Their ids would pass for GPT-2's."""
    raw(tmp_path / "train.bin", [1, 2, 3])
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(_Harmful()))
    error = fails(tmp_path, tokenizer=None)
    assert "a pickle" in error.message and "--tokenizer char" in (error.hint or "")
    assert all_ids(import_shards(tmp_path, config(tmp_path)), "train") == [1, 2, 3]  # told which one it is


def test_a_tokenizer_beside_the_shards_is_not_passed_over(tmp_path: Path) -> None:
    npy(tmp_path / "train_000000.npy", documents("a"))
    load_tokenizer("byte").save(tmp_path)
    error = fails(tmp_path, tokenizer=None)
    assert "holds a tokenizer, byte, beside the shards" in error.message
    assert f"--tokenizer {tmp_path}" in (error.hint or "")
    assert import_shards(tmp_path, config(tmp_path, tokenizer=str(tmp_path))).manifest.tokenizer == "byte"


def test_a_mixture_is_refused(tmp_path: Path) -> None:
    raw(tmp_path / "a_train_000000.bin", documents("a"))
    npy(tmp_path / "a_train_000001.npy", documents("b"))
    assert (
        "a_train_000000.bin is raw of uint16 and a_train_000001.npy is npy of uint16: they are not one set"
        in fails(tmp_path).message
    )
    (tmp_path / "a_train_000000.bin").unlink()
    npy(tmp_path / "a_train_000002.npy", documents("b"), "<u4")
    assert "npy of uint16 and a_train_000002.npy is npy of uint32" in fails(tmp_path).message
    npy(tmp_path / "a_train.npy.001.npy", documents("b"))
    assert "a_train.npy.001.npy and a_train_000001.npy are both number 1 of the train split" in fails(tmp_path).message


def test_files_follow_each_other_by_number(tmp_path: Path) -> None:
    for number in (9, 10, 100):
        raw(tmp_path / f"a_train_{number}.bin", documents(str(number)))
    assert all_ids(import_shards(tmp_path, config(tmp_path)), "train") == documents("9", "10", "100")


def test_a_gap_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in (2, 3, 5):
        raw(tmp_path / f"a_train_{number:06d}.bin", documents("a"))
    import_shards(tmp_path, config(tmp_path))
    told = [record.getMessage() for record in caplog.records if "missing" in record.getMessage()]
    assert told == ["import: the train split goes from a_train_000003.bin to a_train_000005.bin: is one missing?"]


def test_without_any_end_of_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw(tmp_path / "train.bin", list(b"one long text"))
    prepared = import_shards(tmp_path, config(tmp_path))
    assert prepared.manifest.splits["train"].documents == 0 and "no <|endoftext|> in the train split" in caplog.text
    assert prepared.bytes_per_token("train") == 1.0


def test_nothing_to_import(tmp_path: Path) -> None:
    assert "there are no files in" in fails(tmp_path).message
    (tmp_path / "input.txt").touch()
    error = fails(tmp_path)
    assert "there are no token files in" in error.message and "train.bin" in (error.hint or "")
    with pytest.raises(DataError, match="there is no file"):
        import_shards(tmp_path / "missing*.bin", config(tmp_path))
    raw(tmp_path / "train.bin", documents("a"))
    prepared = import_shards(tmp_path, config(tmp_path))
    with pytest.raises(DataError, match="is a prepared set already") as caught:
        import_shards(prepared.folder, config(tmp_path, dataset="other"))
    assert caught.value.hint == f"use it where it is: --dataset theirs-byte --dataset-dir {tmp_path / 'cache'}"


@pytest.mark.parametrize(
    ("name", "value", "flag"),
    [
        ("max_tokens", 5, "--max-tokens"),
        ("dedup", "exact", "--dedup"),
        ("encoding_errors", "replace", "--encoding-errors"),
        ("files", (Path("a.txt"),), "--files"),
        ("urls", ("https://example.org/a.txt",), "--url"),
    ],
)
def test_settings_that_could_not_have_an_effect(name: str, value: object, flag: str, tmp_path: Path) -> None:
    raw(tmp_path / "train.bin", documents("a"))
    with pytest.raises(ConfigError) as caught:
        import_shards(tmp_path, config(tmp_path, **{name: value}))
    assert (caught.value.message, caught.value.hint) == (f"{flag} cannot change shards that are ready", "leave it out")


def test_wide_vocabularies_do_not_fit_narrow_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npy(tmp_path / "train_000000.npy", documents("a"))
    tokenizer = load_tokenizer("byte")
    tokenizer._tokens += [b"x"] * 70_000
    with pytest.raises(DataError, match="holds 16-bit ids; tokenizer byte has 70,257, which do not fit"):
        checking.look_at({"train": [tmp_path / "train_000000.npy"]}, tokenizer)


def test_our_own_shards_without_their_manifest(tmp_path: Path) -> None:
    place(tmp_path).mkdir(parents=True)
    ids = np.array(documents("ours", "too"), np.uint32)
    shard = write_shard(place(tmp_path) / "train_000000.npy", "train", "uint16", len(ids), 2, [ids])
    assert import_shards(place(tmp_path), config(tmp_path)).manifest.shards == (shard,)


def test_gpt2_is_the_default(tmp_path: Path, gpt2_bpe: None) -> None:
    ids = [50256, 5962, 22307, 25]  # <|endoftext|>First Citizen:
    npy(tmp_path / "edufineweb_train_000001.npy", ids)
    prepared = import_shards(tmp_path, DataConfig(dataset="finewebedu", dataset_dir=tmp_path / "cache"))
    assert prepared.folder == tmp_path / "cache" / "finewebedu"  # where `train --dataset finewebedu` looks
    assert prepared.manifest.tokenizer == "gpt2" and prepared.manifest.splits["train"].bytes == len("First Citizen:")
    assert prepared.tokenizer().decode(all_ids(prepared, "train")) == "<|endoftext|>First Citizen:"
