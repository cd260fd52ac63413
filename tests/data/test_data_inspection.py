"""Looking into prepared sets of every shape: documents by number, damage by name, and what is told of a set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_gpt.data.catalog import MANIFEST
from nano_gpt.data.description import BAR, as_json, as_text, list_as_text
from nano_gpt.data.inspection import Span, find_document, find_set, list_sets, text_of, verify
from nano_gpt.data.manifest import UNFINISHED, Counts, Manifest, PreparedSet
from nano_gpt.data.shards import write_shard
from nano_gpt.errors import ConfigError, DataError
from nano_gpt.tokenizer import load_tokenizer

EOT = 256
TEXTS = ["first", "", "the third \u00e9\u4e2d\U0001f600", "d" * 50, "<|endoftext|> spelt", "last\n"]


def make_set(
    folder: Path, texts: Sequence[str] = TEXTS, *, per_shard: int = 16, eot_opens: bool = True, **more: object
) -> PreparedSet:
    """A set whose train split holds `texts`, as bytes; its validation split holds one document."""
    tokenizer = load_tokenizer("byte")
    tokenizer.save(folder)
    shards, splits = [], {}
    for split, documents in (("train", list(texts)), ("validation", ["kept apart"])):
        parts = []
        for text in documents:
            parts += [[EOT], tokenizer.encode(text)] if eot_opens else [tokenizer.encode(text), [EOT]]
        ids = np.concatenate([np.array(part, np.uint16) for part in parts])
        for number, start in enumerate(range(0, len(ids), per_shard)):
            piece = ids[start : start + per_shard]
            name = f"{split}_{number:06d}.npy"
            eots = int((piece == EOT).sum())
            shards.append(write_shard(folder / name, split, "uint16", len(piece), eots, [piece]))
        sizes = [len(tokenizer.encode(text)) for text in documents]
        lengths = [0] * 40
        for size in sizes:
            lengths[(size + 1).bit_length() - 1] += 1
        splits[split] = Counts(documents=len(sizes), tokens=len(ids), bytes=sum(sizes), lengths=tuple(lengths))
    values = {
        "dataset": folder.name,
        "description": "made up",
        "revision": "1",
        "options": {"validation_fraction": 0.1, "text_column": None},
        "tokenizer": "byte",
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "vocab_size": 257,
        "eot_id": EOT,
        "eot_opens": eot_opens,
        "dtype": "uint16",
        "tokens_per_shard": per_shard,
        "splits": splits,
        "shards": tuple(shards),
    }
    manifest = Manifest.model_validate({**values, **more})
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return PreparedSet(folder, manifest)


def read(prepared: PreparedSet, number: int, split: str = "train") -> str:
    return b"".join(text_of(prepared, split, find_document(prepared, split, number))).decode()


# ---------------------------------------------------------------------------------------------------- documents


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=20), min_size=1, max_size=8), per_shard=st.integers(1, 30), opens=st.booleans())
def test_every_document_of_every_set(
    texts: list[str], per_shard: int, opens: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whichever side `<|endoftext|>` is on, and however often a document is cut by the end of a file."""
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    prepared = make_set(tmp_path_factory.mktemp("set"), texts, per_shard=per_shard, eot_opens=opens)
    assert [read(prepared, number) for number in range(len(texts))] == texts
    assert read(prepared, 0, "validation") == "kept apart"


def test_one_shard_is_searched_and_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = make_set(tmp_path / "many", ["x" * 9] * 50, per_shard=100)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr("nano_gpt.data.inspection._BLOCK_TOKENS", 8)
    reader = prepared.reader("train")

    class Watched:
        def __len__(self) -> int:
            return len(reader)

        def read(self, start: int, stop: int) -> object:
            asked.append((start, stop))
            return reader.read(start, stop)

    monkeypatch.setattr(PreparedSet, "reader", lambda self, split: Watched())
    assert find_document(prepared, "train", 32) == Span(321, 330)
    assert read(prepared, 32) == "x" * 9
    assert all(300 <= start < stop <= 340 and stop - start <= 8 for start, stop in asked)


@pytest.mark.parametrize("opens", [True, False])
def test_a_document_that_is_not_there(opens: bool, tmp_path: Path) -> None:
    prepared = make_set(tmp_path / "small", eot_opens=opens)
    for number in (6, 10**9):
        with pytest.raises(DataError, match=r"has no train document .*: it holds 6") as error:
            find_document(prepared, "train", number)
        assert "the last one is 5" in (error.value.hint or "")
    with pytest.raises(ConfigError, match="unknown split 'trian'") as misspelt:
        find_document(prepared, "trian", 0)
    assert "did you mean 'train'" in (misspelt.value.hint or "")


def test_a_shard_with_fewer_documents_than_the_manifest_counts(tmp_path: Path) -> None:
    prepared = make_set(tmp_path / "small", per_shard=1000)
    shards = [shard.model_copy(update={"documents": shard.documents + 2}) for shard in prepared.manifest.shards]
    wrong = PreparedSet(prepared.folder, prepared.manifest.model_copy(update={"shards": tuple(shards)}))
    with pytest.raises(DataError, match=r"train_000000\.npy holds fewer than the 8 documents"):
        find_document(wrong, "train", 7)


# ---------------------------------------------------------------------------------------------------- verifying


def test_a_whole_set_verifies(tmp_path: Path) -> None:
    verify(make_set(tmp_path / "whole"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit": (lambda folder: flip(folder / "train_000002.npy"), r"train_000002\.npy is not what was written"),
    "the end": (
        lambda folder: (folder / "train_000000.npy").write_bytes((folder / "train_000000.npy").read_bytes()[:-5]),
        r"train_000000\.npy holds 155 of 160 bytes",
    ),
    "missing": (lambda folder: (folder / "validation_000000.npy").unlink(), r"validation_000000\.npy is missing"),
    "a folder": (
        lambda folder: ((folder / "train_000001.npy").unlink(), (folder / "train_000001.npy").mkdir()),
        r"train_000001\.npy ",
    ),
    "the tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        r"tokenizer\.json is not a tokenizer",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(kind: str, tmp_path: Path) -> None:
    prepared = make_set(tmp_path / "whole")
    damage, words = DAMAGE[kind]
    damage(prepared.folder)
    with pytest.raises(DataError, match=words) as error:
        verify(prepared)
    assert "2 files" not in error.value.message
    assert "prepare_dataset" in (error.value.hint or "")


def test_all_damaged_files_are_named(tmp_path: Path) -> None:
    prepared = make_set(tmp_path / "whole")
    flip(prepared.folder / "train_000000.npy")
    (prepared.folder / "train_000003.npy").unlink()
    with pytest.raises(DataError, match=r"2 files: .*train_000000.*; .*train_000003\.npy is missing"):
        verify(prepared)


def test_a_manifest_that_counts_otherwise(tmp_path: Path) -> None:
    prepared = make_set(tmp_path / "whole")
    counts = prepared.manifest.splits["train"]
    splits = {**prepared.manifest.splits, "train": counts.model_copy(update={"tokens": counts.tokens + 1})}
    with pytest.raises(DataError, match=r"counts 105 train tokens, and 104 in its files"):
        verify(PreparedSet(prepared.folder, prepared.manifest.model_copy(update={"splits": splits})))


# ---------------------------------------------------------------------------------------------------- finding


def test_sets_are_found_by_name_and_by_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_set(tmp_path / "cache" / "poems")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "poems").mkdir()  # of another kind: the set is meant
    for reference in ("poems", "cache/poems", "cache/poems/", f"cache/poems/{MANIFEST}", str(tmp_path / "cache/poems")):
        assert find_set(reference, Path("cache")).manifest.dataset == "poems"
    with pytest.raises(ConfigError, match="unknown prepared set 'poem'") as error:
        find_set("poem", Path("cache"))
    assert error.value.hint == "did you mean 'poems'?"
    with pytest.raises(DataError, match="nothing holds no prepared set"):
        find_set("poem", Path("nothing"))
    with pytest.raises(DataError, match="there is no prepared set in empty"):
        Path("empty").mkdir()
        find_set("empty", Path("cache"))


def test_a_list_shows_what_is_unfinished_and_damaged(tmp_path: Path) -> None:
    make_set(tmp_path / "whole")
    (tmp_path / "begun" / UNFINISHED).mkdir(parents=True)
    make_set(tmp_path / "torn")
    (tmp_path / "torn" / MANIFEST).write_text("{")
    (tmp_path / "other").mkdir()
    entries = list_sets(tmp_path)
    assert [(entry.name, entry.prepared is None) for entry in entries] == [
        ("begun", True),
        ("torn", True),
        ("whole", False),
    ]
    text = list_as_text(entries)
    assert "begun: not finished" in text
    assert "torn: " in text and "damaged" in text
    assert next(line for line in text.splitlines() if "whole" in line).split()[:4] == ["whole", "byte", "104", "6"]
    assert list_sets(tmp_path / "nowhere") == []


# ---------------------------------------------------------------------------------------------------- describing


def test_a_set_in_words(tmp_path: Path) -> None:
    prepared = make_set(tmp_path / "poems", duplicates_dropped=3, validation_in_train=2)
    text = as_text(prepared)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "source poems: made up" in lines
    assert "options validation_fraction 0.1" in lines
    assert "tokenizer byte, 257 ids; <|endoftext|> = 256 before each document" in lines
    assert "duplicates 3 dropped; validation documents that are also in train: 2" in lines
    assert "train 104 6 17.3 0.942 7 1.1 kB" in lines
    assert max(len(line) for line in text.splitlines()) <= 100
    # Documents of 6, 1, 20, 51, 20 and 6 tokens.
    histogram = text.splitlines()[-6:]
    counts = {line.split()[0]: int(line.split()[1]) for line in histogram}
    assert counts == {"1": 1, "2-3": 0, "4-7": 2, "8-15": 0, "16-31": 2, "32-63": 1}
    bars = {line.split()[0]: line.split()[2] for line in histogram if len(line.split()) > 3}
    assert bars["4-7"] == "█" * BAR and bars["32-63"] == "█" * (BAR // 2)
    assert prepared.fingerprint[:16] in text


def test_plain_text_is_ascii_and_what_is_not_known_is_a_dash(tmp_path: Path) -> None:
    prepared = make_set(tmp_path / "poems")
    assert as_text(prepared, plain=True).isascii() and "####" in as_text(prepared, plain=True)
    bare = {split: Counts(documents=c.documents, tokens=c.tokens) for split, c in prepared.manifest.splits.items()}
    unknown = PreparedSet(prepared.folder, prepared.manifest.model_copy(update={"splits": bare}))
    lines = [" ".join(line.split()) for line in as_text(unknown).splitlines()]
    assert "document lengths: -" in lines
    assert "train 104 6 17.3 - 7 1.1 kB" in lines
    assert "duplicates 0 dropped; validation documents that are also in train: -" in lines


def test_why_nobody_knows_what_is_in_both_splits(tmp_path: Path) -> None:
    prepared = make_set(tmp_path / "poems")
    known = prepared.manifest.splits
    for splits, why in (
        ({"train": known["train"]}, "no validation split"),
        ({"validation": known["validation"]}, "no train split"),
        ({**known, "train": Counts(tokens=104)}, "no <|endoftext|>"),
    ):
        text = as_text(PreparedSet(prepared.folder, prepared.manifest.model_copy(update={"splits": splits})))
        assert f"validation documents that are also in train: - ({why})" in text
        assert max(len(line) for line in text.splitlines()) <= 100


def test_a_set_as_json(tmp_path: Path) -> None:
    prepared = make_set(tmp_path / "poems")
    values = as_json(prepared)
    assert values["fingerprint"] == prepared.fingerprint
    assert values["splits"]["train"]["documents"] == 6
    assert [shard["file"] for shard in values["splits"]["validation"]["shards"]] == ["validation_000000.npy"]
    assert values["splits"]["train"]["bytes_per_token"] == pytest.approx(98 / 104)
