"""Parts -> chunks -> shards, against a plain reference: whatever the parts, chunks and shards, the set is the same."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_gpt.config import DataConfig
from nano_gpt.data.catalog import CATALOG
from nano_gpt.data.manifest import Counts, Manifest
from nano_gpt.data.preparing import packing, tokenizing
from nano_gpt.data.preparing.splitting import SplitRule
from nano_gpt.data.preparing.tokenizing import SPLITS, tokenise_part
from nano_gpt.data.preparing.unfinished import Plan, Unfinished
from nano_gpt.data.sources.base import Part, Source, Split, State
from nano_gpt.data.sources.texts import Text
from nano_gpt.errors import DataError
from nano_gpt.tokenizer import load_tokenizer

BYTE = load_tokenizer("byte")


class Memory(Source):
    """Texts in memory, part by part; `stateful` ones know their place, the others are gone through again."""

    revision = "1"

    def __init__(self, texts: Sequence[Sequence[str]], *, stateful: bool = False) -> None:
        super().__init__(CATALOG["python_docs"], DataConfig())
        self.all_texts = texts
        self.read_again = 0
        self._stateful = stateful
        self._place = 0

    def parts(self) -> list[Part]:
        return [Part(where={"number": number}) for number in range(len(self.all_texts))]

    def read(self, part: Part, state: State | None = None) -> Iterator[Text]:
        number = part.where["number"]
        assert isinstance(number, int)
        self._place = state["place"] if state else 0
        for text in self.all_texts[number][self._place :]:
            self._place += 1
            self.read_again += 1
            yield text

    def state(self) -> State | None:
        return {"place": self._place} if self._stateful else None


def plan_for(source: Source, *, splits: Sequence[str] = SPLITS, tokens_per_shard: int = 50, **fields: Any) -> Plan:
    manifest = Manifest(
        dataset="mine",
        description="",
        revision="1",
        options={},
        tokenizer="byte",
        tokenizer_fingerprint=BYTE.fingerprint,
        vocab_size=BYTE.vocab_size,
        eot_id=BYTE.eot_id,
        dtype="uint16",
        tokens_per_shard=tokens_per_shard,
        splits={split: Counts() for split in splits},
    )
    values = {"rule": SplitRule(below=2**62), "max_documents": None, "max_tokens": None, **fields}
    return Plan(manifest=manifest, parts=tuple(source.parts()), **values)


def make(folder: Path, source: Source, plan: Plan, *, dedup: bool = False) -> Manifest:
    files = Unfinished(folder)
    for index in range(len(plan.parts)):
        tokenise_part(index, source, BYTE, plan, files, lambda *_: None)
    return packing.pack(plan, files, dedup=dedup, show=lambda *_: None)


def tokens_of(folder: Path, manifest: Manifest, split: str) -> list[int]:
    shards = [shard for shard in manifest.shards if shard.split == split]
    return [int(id_) for shard in shards for id_ in np.load(folder / shard.file)]


def reference(texts: Sequence[str], plan: Plan, *, dedup: bool) -> tuple[dict[str, list[str]], int, int]:
    """The documents of each split, the duplicates that were dropped, validation documents that are in train too."""
    kept: list[tuple[Split, str]] = []
    tokens = 0
    for text in texts:
        if not text or text.isspace():
            continue
        if plan.max_documents is not None and len(kept) >= plan.max_documents:
            break
        if plan.max_tokens is not None and tokens >= plan.max_tokens:
            break
        first_bits = hashlib.blake2b(text.encode(), digest_size=16).digest()[:8]
        split: Split = "validation" if int.from_bytes(first_bits, "big") < 2**62 else "train"
        kept.append((split, text))
        tokens += len(text.encode()) + 1
    dropped = len(kept) - len({text for _, text in kept}) if dedup else 0
    if dedup:
        kept = [(split, text) for place, (split, text) in enumerate(kept) if text not in {t for _, t in kept[:place]}]
    train = {text for split, text in kept if split == "train"}
    both = sum(split == "validation" and text in train for split, text in kept)
    return {split: [text for where, text in kept if where == split] for split in SPLITS}, dropped, both


def ids_of(texts: Sequence[str]) -> list[int]:
    return [id_ for text in texts for id_ in (BYTE.eot_id, *text.encode())]


@settings(deadline=None, max_examples=60)
@given(
    parts=st.lists(st.lists(st.text("ab \n", max_size=6), max_size=12), min_size=1, max_size=5),
    tokens_per_shard=st.integers(1, 40),
    chunk_tokens=st.integers(1, 40),
    bucket=st.integers(1, 8),
    max_documents=st.none() | st.integers(1, 30),
    batch=st.sampled_from([1, 8, 2**18]),
    max_tokens=st.none() | st.integers(1, 80),
    dedup=st.booleans(),
    stateful=st.booleans(),
)
def test_the_set_is_what_a_plain_loop_makes(
    parts: list[list[str]],
    tokens_per_shard: int,
    chunk_tokens: int,
    bucket: int,
    batch: int,
    max_documents: int | None,
    max_tokens: int | None,
    dedup: bool,
    stateful: bool,
) -> None:
    source = Memory(parts, stateful=stateful)
    plan = plan_for(source, tokens_per_shard=tokens_per_shard, max_documents=max_documents, max_tokens=max_tokens)
    expected, dropped, both = reference([text for part in parts for text in part], plan, dedup=dedup)
    with (
        tempfile.TemporaryDirectory() as name,
        patch.object(tokenizing, "CHUNK_TOKENS", chunk_tokens),
        patch.object(packing, "BUCKET_DOCUMENTS", bucket),
        patch.object(tokenizing, "_BATCH_CHARACTERS", batch),
    ):
        folder = Path(name)
        manifest = make(folder, source, plan, dedup=dedup)
        for split in SPLITS:
            counts, texts = manifest.splits[split], expected[split]
            shards = [shard for shard in manifest.shards if shard.split == split]
            assert tokens_of(folder, manifest, split) == ids_of(texts)
            assert (counts.documents, counts.tokens) == (len(texts), len(ids_of(texts)))
            assert counts.bytes == sum(len(text.encode()) for text in texts)
            assert sum(counts.lengths) == len(texts)
            powers = Counter((len(text.encode()) + 1).bit_length() - 1 for text in texts)
            assert all(counts.lengths[power] == number for power, number in powers.items())
            assert [shard.tokens for shard in shards[:-1]] == [tokens_per_shard] * (len(shards) - 1)
            for shard in shards:
                assert shard.documents == int((np.load(folder / shard.file) == BYTE.eot_id).sum())
        assert (manifest.duplicates_dropped, manifest.validation_in_train) == (dropped, both)
        if not (dedup or max_documents or max_tokens):
            assert not list((folder / "unfinished").glob("*.tokens"))  # the set is not on disk twice


def test_validation_documents_that_are_in_train_too_are_counted(tmp_path: Path) -> None:
    """Where the source says the split, nothing keeps a text from being in both."""
    source = Memory([["a", "b", "b"], ["b", "c", "b", "d"]])
    parts = (Part(where={"number": 0}, split="train"), Part(where={"number": 1}, split="validation"))
    plan = plan_for(source).model_copy(update={"parts": parts})
    assert make(tmp_path / "kept", source, plan).validation_in_train == 2
    dropped = make(tmp_path / "dropped", source, plan, dedup=True)
    assert (dropped.duplicates_dropped, dropped.validation_in_train) == (3, 0)
    assert {split: counts.documents for split, counts in dropped.splits.items()} == {"train": 2, "validation": 2}


def test_limits_are_about_text_to_train_on_not_about_a_validation_split_that_is_there(tmp_path: Path) -> None:
    source = Memory([[f"train {number}" for number in range(9)], ["v1", "v2", "v3"]])
    parts = (Part(where={"number": 0}, split="train"), Part(where={"number": 1}, split="validation"))
    for number, limits in enumerate(({"max_documents": 2}, {"max_tokens": 9})):
        plan = plan_for(source, rule=SplitRule(), **limits).model_copy(update={"parts": parts})
        manifest = make(tmp_path / str(number), source, plan)
        assert {split: counts.documents for split, counts in manifest.splits.items()} == {"train": 2, "validation": 3}


def test_a_split_that_is_not_wanted_is_left_out(tmp_path: Path) -> None:
    texts = [f"document {number}" for number in range(40)]
    source = Memory([texts])
    manifest = make(tmp_path, source, plan_for(source, splits=["validation"]))
    expected = reference(texts, plan_for(source), dedup=False)[0]["validation"]
    assert set(manifest.splits) == {"validation"} and expected
    assert tokens_of(tmp_path, manifest, "validation") == ids_of(expected)


@pytest.mark.parametrize("stateful", [True, False])
def test_a_part_that_was_stopped_goes_on_where_it_was(
    tmp_path: Path, stateful: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizing, "_BATCH_CHARACTERS", 1)  # a document at a time
    texts = [f"document {number}" for number in range(100)]
    source = Memory([texts], stateful=stateful)
    plan, files = plan_for(source), Unfinished(tmp_path)
    seen: list[int] = []
    for limit in (30, 70, 1000):
        record = tokenise_part(
            0, source, BYTE, plan, files, lambda *more: seen.append(more[1]), lambda limit=limit: len(seen) >= limit
        )
        assert (record.consumed, record.done) == (min(limit, 100), limit == 1000)
    assert len(seen) == 100  # no document was tokenised twice
    assert source.read_again == (100 if stateful else 30 + 70 + 100)
    manifest = packing.pack(plan, files, dedup=False, show=lambda *_: None)
    expected = reference(texts, plan, dedup=False)[0]
    assert all(tokens_of(tmp_path, manifest, split) == ids_of(expected[split]) for split in SPLITS)


def test_packing_that_was_stopped_goes_on(tmp_path: Path) -> None:
    texts = [f"document {number}" for number in range(60)]
    source = Memory([texts])
    plan, files = plan_for(source), Unfinished(tmp_path)
    tokenise_part(0, source, BYTE, plan, files, lambda *_: None)
    written: list[Path] = []

    def until_the_fifth(path: Path, *arguments: Any) -> Any:
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(path)
        return write(path, *arguments)

    write = packing.write_shard
    with patch.object(packing, "write_shard", until_the_fifth), pytest.raises(KeyboardInterrupt):
        packing.pack(plan, files, dedup=False, show=lambda *_: None)
    written.append(Path("none"))  # from here on no limit
    manifest = packing.pack(plan, files, dedup=False, show=lambda *_: None)
    expected = reference(texts, plan, dedup=False)[0]
    assert all(tokens_of(tmp_path, manifest, split) == ids_of(expected[split]) for split in SPLITS)
    assert manifest == make(tmp_path / "at_once", Memory([texts]), plan)


@pytest.mark.parametrize("part", [0, 2])  # before and after other parts are packed, and their chunks gone
@pytest.mark.parametrize("kind", ["train.tokens", "validation.tokens", "documents.npy"])
@pytest.mark.parametrize("gone", [False, True])
def test_what_was_damaged_since_it_was_written_is_made_again(
    part: int, kind: str, gone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizing, "CHUNK_DOCUMENTS", 8)
    source = Memory([[f"document {number} of part {part}" for number in range(30)] for part in range(3)])
    plan, files = plan_for(source), Unfinished(tmp_path)
    for index in range(3):
        tokenise_part(index, source, BYTE, plan, files, lambda *_: None)
    file = max((tmp_path / "unfinished").glob(f"part_{part:06d}_*.{kind}"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    if gone:
        file.unlink()
    with pytest.raises(DataError, match="is gone" if gone else "is damaged: its checksum differs") as caught:
        packing.pack(plan, files, dedup=False, show=lambda *_: None)
    assert caught.value.message.startswith(str(file)) and "the same command again" in (caught.value.hint or "")
    assert [files.part(index).done for index in range(3)] == [index != part for index in range(3)]
    source.read_again = 0
    again = make(tmp_path, source, plan)
    assert source.read_again == 30  # the others are not tokenised again
    assert again == make(tmp_path / "at_once", source, plan)
    for shard in again.shards:
        assert (tmp_path / shard.file).read_bytes() == (tmp_path / "at_once" / shard.file).read_bytes()


def test_an_id_that_is_none_of_the_tokenizers_is_an_error(tmp_path: Path) -> None:
    source = Memory([["abc"]])
    strange = patch.object(type(BYTE), "encode_to_numpy", lambda *_: np.array([300], np.uint32))
    with strange, pytest.raises(DataError, match="gave id 300 and has 257 ids"):
        make(tmp_path, source, plan_for(source))
    assert not Unfinished(tmp_path).part(0).chunks
    assert not list((tmp_path / "unfinished").glob("*.tokens"))  # nor half of one
