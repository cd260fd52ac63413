"""Preparing: what comes out, what stops it, and that stopping anywhere loses and changes nothing."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from nano_gpt.config import DataConfig
from nano_gpt.data.catalog import MANIFEST
from nano_gpt.data.manifest import PreparedSet, open_prepared
from nano_gpt.data.preparing import prepare, tokenizing, workers
from nano_gpt.data.preparing.estimate import estimate
from nano_gpt.data.preparing.unfinished import PartRecord, Unfinished
from nano_gpt.data.sources import local_files
from nano_gpt.errors import ConfigError, DataError
from nano_gpt.runtime import files
from nano_gpt.runtime.distributed import Ranks
from nano_gpt.tokenizer import load_tokenizer, train_tokenizer


def write_corpus(path: Path, documents: int = 150) -> list[str]:
    texts = [f"Document {number}. " + "lorem ipsum dolor sit amet " * (number * 7 % 23) for number in range(documents)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return texts


def config_for(tmp_path: Path, out: str = "cache", **settings: Any) -> DataConfig:
    path = tmp_path / "corpus.jsonl"
    if not path.exists():
        write_corpus(path)
    values = {"tokenizer": "byte", "tokens_per_shard": 2000, "num_procs": 1, **settings}
    return DataConfig.model_validate({"dataset": "mine", "files": [path], "dataset_dir": tmp_path / out, **values})


def contents(prepared: PreparedSet) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in prepared.folder.iterdir() if not path.name.startswith(".")}


def documents_of(prepared: PreparedSet, split: str) -> list[str]:
    ids = prepared.reader(split).read(0, prepared.tokens(split)).astype(np.int64)
    starts = np.flatnonzero(ids == prepared.manifest.eot_id)
    assert starts[0] == 0
    return [prepared.tokenizer().decode(part[1:].tolist()) for part in np.split(ids, starts[1:])]


@pytest.fixture(autouse=True)
def small_parts_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizing, "CHUNK_DOCUMENTS", 8)
    monkeypatch.setattr(tokenizing, "_BATCH_CHARACTERS", 1)  # a document at a time
    monkeypatch.setattr(local_files, "PART_BYTES", 10_000)
    monkeypatch.setattr(workers, "SMALL_BYTES", 0)


def test_every_document_is_there_once_in_order_after_its_eot(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    texts = write_corpus(tmp_path / "corpus.jsonl")
    prepared = prepare.prepare(config)
    train, kept = documents_of(prepared, "train"), documents_of(prepared, "validation")
    assert sorted(train + kept) == sorted(texts)
    assert train == [text for text in texts if text in set(train)]
    manifest = prepared.manifest
    assert {split: counts.documents for split, counts in manifest.splits.items()} == {
        "train": len(train),
        "validation": len(kept),
    }
    assert manifest.splits["train"].bytes == sum(len(text) for text in train)
    assert prepared.bytes_per_token("train") == manifest.splits["train"].bytes / manifest.splits["train"].tokens
    full = [shard for shard in manifest.shards if shard.tokens == 2000]
    assert len(full) > 5  # so that documents do span shards
    for shard in manifest.shards:
        assert files.sha256(prepared.folder / shard.file) == shard.sha256
    assert open_prepared(prepared.folder).manifest == manifest


def test_hostile_text_survives(tmp_path: Path) -> None:
    texts = [
        "<|endoftext|> is ordinary text here <|endoftext|>",
        " " * 100_000 + "x",
        "nul \0 and bell \a",
        "漢字 🙂 e\u0301 \u202e",
        "\r\n\r\n  x",
        "x" * 50_000,
    ]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, "\ud83d", "", " \n "]))
    for tokenizer in ("byte", "char", "bpe:300"):
        prepared = prepare.prepare(config_for(tmp_path, tokenizer=tokenizer))
        found = documents_of(prepared, "train") + documents_of(prepared, "validation")
        assert sorted(found) == sorted([*texts, "\ufffd"])


def test_a_trained_tokenizer_travels_with_the_set(tmp_path: Path) -> None:
    char = prepare.prepare(config_for(tmp_path, tokenizer="char"))
    assert char.folder.name == "mine-char"
    assert char.tokenizer().fingerprint == char.manifest.tokenizer_fingerprint
    bpe = prepare.prepare(config_for(tmp_path, tokenizer="bpe:300"))
    assert bpe.manifest.tokenizer == "bpe:300"
    again = prepare.prepare(config_for(tmp_path, tokenizer=str(bpe.folder)))  # the same ids from its files
    assert again.manifest.tokenizer_fingerprint == bpe.manifest.tokenizer_fingerprint
    assert prepare.prepare(config_for(tmp_path, tokenizer=str(bpe.folder))).manifest == again.manifest


def test_the_vocabulary_has_not_seen_the_validation_text(tmp_path: Path) -> None:
    config = config_for(tmp_path, tokenizer="bpe:300")
    made = prepare.prepare(config)
    everything = write_corpus(tmp_path / "corpus.jsonl")
    held_out = set(documents_of(made, "validation"))
    train = [text for text in everything if text not in held_out]
    assert made.manifest.tokenizer_fingerprint == train_tokenizer("bpe:300", train).fingerprint
    assert made.manifest.tokenizer_fingerprint != train_tokenizer("bpe:300", everything).fingerprint


def test_a_finished_set_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare.prepare(config_for(tmp_path))
    monkeypatch.setattr(prepare, "tokenise_parts", None)  # would raise if it were called
    assert prepare.prepare(config_for(tmp_path)).manifest == first.manifest
    assert prepare.prepare(config_for(tmp_path), ["train"]).manifest == first.manifest


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"validation_fraction": 0.2}, "validation_fraction 0.1 there, 0.2 asked for"),
        ({"text_column": "body"}, "text_column 'text' there, 'body' asked for"),
        ({"tokens_per_shard": 2001}, "tokens_per_shard 2000 there, 2001 asked for"),
        ({"encoding_errors": "replace"}, "encoding_errors 'strict' there, 'replace' asked for"),
        ({"max_documents": 20}, "max_documents None there, 20 asked for"),
        ({"max_tokens": 9}, "max_tokens None there, 9 asked for"),
        ({"dedup": "exact"}, "dedup None there, 'exact' asked for"),
    ],
)
def test_another_option_in_the_same_folder_is_refused_by_name(
    settings: dict[str, Any], field: str, tmp_path: Path
) -> None:
    prepare.prepare(config_for(tmp_path))
    with pytest.raises(DataError) as caught:
        prepare.prepare(config_for(tmp_path, **settings))
    assert field in caught.value.message
    assert "--overwrite" in (caught.value.hint or "")


def test_another_text_or_more_splits_are_refused_and_overwrite_replaces(tmp_path: Path) -> None:
    first = prepare.prepare(config_for(tmp_path), ["train"])
    assert set(first.manifest.splits) == {"train"}
    with pytest.raises(DataError, match="splits train there, train,validation asked for"):
        prepare.prepare(config_for(tmp_path))
    write_corpus(tmp_path / "corpus.jsonl", 20)
    with pytest.raises(DataError, match=r"revision '.*' there, '.*' asked for"):
        prepare.prepare(config_for(tmp_path), ["train"])
    second = prepare.prepare(config_for(tmp_path), overwrite=True)
    shards = {path.name for path in second.folder.glob("*.npy")}
    assert shards == {shard.file for shard in second.manifest.shards}  # none of the first is left
    assert len(shards) < len(first.manifest.shards)
    fresh = prepare.prepare(config_for(tmp_path, "elsewhere"))
    assert contents(fresh) == contents(second)


def test_token_files_of_nobody_knows_whom_are_neither_deleted_nor_mixed_in(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "mine-byte"
    folder.mkdir(parents=True)
    for name in ("train_000000.npy", "train_000099.npy", ".tmp-train_000007.npy", "edufineweb_train_000001.npy"):
        (folder / name).write_bytes(b"stale")
    with pytest.raises(DataError, match="holds token files") as caught:
        prepare.prepare(config_for(tmp_path))
    assert "--import" in (caught.value.hint or "") and (folder / "train_000099.npy").exists()
    prepared = prepare.prepare(config_for(tmp_path), overwrite=True)
    left = {path.name for path in folder.iterdir() if path.suffix == ".npy"}
    assert left == {shard.file for shard in prepared.manifest.shards} | {"edufineweb_train_000001.npy"}


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("settings", [{}, {"max_tokens": 18_000}])
@pytest.mark.parametrize("moment", range(0, 40, 3))
def test_interrupted_and_run_again_it_is_byte_identical(
    moment: int, settings: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(prepare.prepare(config_for(tmp_path, "whole", **settings)))
    calls = 0
    replace = os.replace

    def replace_until(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > moment:
            raise StoppedError
        replace(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", replace_until)  # the instant at which a file becomes visible
        try:
            prepare.prepare(config_for(tmp_path, "stopped", **settings))
        except StoppedError:
            assert not (tmp_path / "stopped" / "mine-byte" / MANIFEST).exists()
            with pytest.raises(DataError, match=r"is not finished|no prepared set"):
                open_prepared(tmp_path / "stopped" / "mine-byte")
    assert contents(prepare.prepare(config_for(tmp_path, "stopped", **settings))) == whole


def test_what_is_in_chunks_is_not_tokenised_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    write = tokenizing._ChunkWriter.write

    def recorded(self: Any, documents: Any) -> Any:
        if len(encoded) >= 100 and not (tmp_path / "again").exists():
            raise StoppedError
        encoded.extend(document.text for document in documents)
        return write(self, documents)

    monkeypatch.setattr(tokenizing._ChunkWriter, "write", recorded)
    with pytest.raises(StoppedError):
        prepare.prepare(config_for(tmp_path))
    files_there = Unfinished(tmp_path / "cache" / "mine-byte")
    plan = files_there.plan()
    assert plan is not None and len(plan.parts) > 2
    done = sum(files_there.part(index).documents for index in range(len(plan.parts)))
    assert 90 <= done <= 100
    encoded.clear()
    (tmp_path / "again").touch()
    prepare.prepare(config_for(tmp_path))
    assert len(encoded) == 150 - done


def test_the_number_of_processes_changes_nothing(tmp_path: Path) -> None:
    alone = prepare.prepare(config_for(tmp_path, "alone", tokenizer="bpe:300"))
    several = prepare.prepare(config_for(tmp_path, "several", tokenizer="bpe:300", num_procs=2))
    assert contents(alone) == contents(several)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_ranks_that_do_not_meet_make_the_same_set(order: tuple[int, ...], tmp_path: Path) -> None:
    """As the tasks of a SLURM array do: each comes when it comes, and the last one finishes."""
    whole = prepare.prepare(config_for(tmp_path, "whole"))
    config = config_for(tmp_path, "shared")
    outcomes = [prepare.prepare_share(config, ranks=Ranks(rank, 3)) for rank in order]
    assert outcomes[:2] == [None, None] and outcomes[2] is not None
    assert contents(outcomes[2]) == contents(whole)
    assert prepare.prepare_share(config, ranks=Ranks(0, 3)) is not None  # finished: at once


def test_a_share_that_is_missing_can_be_made_up_by_anyone(tmp_path: Path) -> None:
    config = config_for(tmp_path, "shared")
    assert prepare.prepare_share(config, ranks=Ranks(1, 2)) is None
    whole = contents(prepare.prepare(config_for(tmp_path, "whole")))
    assert contents(prepare.prepare(config)) == whole  # rank 0 was lost: the same command without ranks
    with pytest.raises(ConfigError, match="2 ranks cannot replace a set"):
        prepare.prepare_share(config, ranks=Ranks(1, 2), overwrite=True)


def test_a_sample_is_made_by_rank_0(tmp_path: Path) -> None:
    """The others cannot know how much of their parts it needs: they neither wait nor read for nothing."""
    config = config_for(tmp_path, max_tokens=9000)
    assert prepare.prepare_share(config, ranks=Ranks(1, 2)) is None
    sample = prepare.prepare_share(config, ranks=Ranks(0, 2))
    assert sample is not None
    assert contents(sample) == contents(prepare.prepare(config_for(tmp_path, "alone", max_tokens=9000)))


def test_a_rank_that_comes_to_its_end_after_the_last_one_has_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not take records that are gone for work that is left."""
    config = config_for(tmp_path)
    assert prepare.prepare_share(config, ranks=Ranks(0, 2)) is None
    tokenise = prepare.tokenise_parts

    def and_then_another_finishes(*arguments: Any, **keywords: Any) -> None:
        tokenise(*arguments, **keywords)
        monkeypatch.setattr(prepare, "tokenise_parts", tokenise)
        assert prepare.prepare_share(config, ranks=Ranks(0, 2)) is not None

    monkeypatch.setattr(prepare, "tokenise_parts", and_then_another_finishes)
    assert prepare.prepare_share(config, ranks=Ranks(1, 2)) is None
    assert not (tmp_path / "cache" / "mine-byte" / "unfinished").exists()
    assert contents(prepare.prepare(config)) == contents(prepare.prepare(config_for(tmp_path, "alone")))


def test_a_tokenizer_from_files_is_not_the_one_that_the_corpus_would_give(tmp_path: Path) -> None:
    train_tokenizer("bpe:300", ["some other text entirely, some other text"] * 9).save(tmp_path / "bpe-300")
    prepare.prepare(config_for(tmp_path, tokenizer=str(tmp_path / "bpe-300")))
    with pytest.raises(DataError, match="tokenizer"):
        prepare.prepare(config_for(tmp_path, tokenizer="bpe:300"))  # the same folder, by name


def test_a_sample_is_the_first_documents(tmp_path: Path) -> None:
    texts = write_corpus(tmp_path / "corpus.jsonl")
    for procs in (1, 2):
        config = config_for(tmp_path, f"documents-{procs}", max_documents=40, num_procs=procs)
        prepared = prepare.prepare(config)
        found = documents_of(prepared, "train") + documents_of(prepared, "validation")
        assert sorted(found) == sorted(texts[:40])
        assert prepared.manifest.options["max_documents"] == 40
        config = config_for(tmp_path, f"tokens-{procs}", max_tokens=9000, num_procs=procs)
        prepared = prepare.prepare(config)
        found = documents_of(prepared, "train") + documents_of(prepared, "validation")
        assert sorted(found) == sorted(texts[: len(found)])
        total = sum(len(text) + 1 for text in texts[: len(found)])
        assert total - len(texts[len(found) - 1]) - 1 < 9000 <= total


def test_a_sample_does_not_read_the_whole_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    tokenise = workers.tokenise_part
    monkeypatch.setattr(workers, "tokenise_part", lambda index, *rest: read.append(index) or tokenise(index, *rest))
    prepare.prepare(config_for(tmp_path, max_documents=10))
    assert read == [0]
    prepare.prepare(config_for(tmp_path, "one document", max_documents=1, validation_fraction=0.5))
    one = prepare.prepare(config_for(tmp_path, "one split", max_documents=1), ["train"])
    assert one.manifest.splits["train"].documents == 1


def test_a_sample_ends_at_the_document_that_reaches_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the last of several parts, which alone is far from it."""
    written: list[str] = []
    write = tokenizing._ChunkWriter.write

    def recorded(self: Any, documents: Any) -> Any:
        written.extend(document.text for document in documents)
        return write(self, documents)

    monkeypatch.setattr(tokenizing._ChunkWriter, "write", recorded)
    for limit in ({"max_documents": 91}, {"max_tokens": 22_000}):
        written.clear()
        prepared = prepare.prepare(config_for(tmp_path, next(iter(limit)), **limit))
        kept = sum(counts.documents for counts in prepared.manifest.splits.values())
        assert len(written) == kept > 70


def share_of(config: DataConfig, sizes: Callable[[int | None], int | None] = lambda size: size) -> prepare._Share:
    """What one process does, before it has begun, with other sizes told of the parts."""
    folder = prepare.prepared_folder(config)
    folder.mkdir(parents=True)
    plan = prepare.make_plan(config, folder, tokenizing.SPLITS)
    parts = tuple(part.model_copy(update={"size": sizes(part.size)}) for part in plan.parts)
    plan = plan.model_copy(update={"parts": parts})
    Unfinished(folder).write_plan(plan)
    return prepare._Share(config, folder, plan, Ranks())


def tokenise(share: prepare._Share, part: int, documents: int | None = None) -> PartRecord:
    """In this process, as far as to so many documents."""
    source, tokenizer, plan = share._work.source(), share._work.tokenizer(), share._plan
    done: list[int] = []
    return tokenizing.tokenise_part(
        part, source, tokenizer, plan, share._files, lambda *more: done.append(1), lambda: len(done) == documents
    )


def test_a_part_of_a_sample_ends_when_those_before_it_are_sure_to_hold_the_rest(tmp_path: Path) -> None:
    """Whoever is at work on them at the time, they will not hold less than they do now."""
    config = config_for(tmp_path, max_documents=45)
    whole = contents(prepare.prepare(config_for(tmp_path, "whole", max_documents=45)))
    share = share_of(config)
    assert tokenise(share, 0, 20).documents == 20 and not share._record(0).done
    last = tokenise(share, 1)
    assert (last.documents, last.done) == (25, True)
    assert not share._is_enough() and share._wanted(0)  # the part before is not done: it may hold more
    assert contents(prepare.prepare(config)) == whole


def test_chunks_of_a_sample_are_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process does not have on disk no other one knows of."""
    monkeypatch.setattr(tokenizing, "CHUNK_DOCUMENTS", 2**17)
    monkeypatch.setattr(tokenizing, "_LEAST_DOCUMENTS", 2)
    for limit, chunks in ({"max_documents": 64}, [4, 4, 2]), ({"max_documents": 16}, [2] * 5), ({}, [10]):
        share = share_of(config_for(tmp_path, f"{limit}", **limit))
        assert [chunk.documents for chunk in tokenise(share, 0, 10).chunks] == chunks


def test_parts_that_are_under_way_end_when_the_others_hold_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(tmp_path, max_documents=45)
    share = share_of(config)
    stopped: list[bool] = []

    def out_of_order(*_: Any, stopping: Callable[[], bool], **__: Any) -> None:
        for part, documents in ((2, 5), (1, None), (0, None)):
            tokenise(share, part, documents)
            share._look_at = 0.0
            stopped.append(stopping())

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "tokenise_parts", out_of_order)
        share.tokenise()
    assert stopped == [False, False, True] and not share._record(2).done
    assert share.is_complete()
    assert contents(prepare.prepare(config)) == contents(prepare.prepare(config_for(tmp_path, "b", max_documents=45)))


def test_a_sample_has_as_many_parts_begun_as_it_may_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": f"{number} " + "word " * 100, "other": "x" * 500} for number in range(400)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    limit = {"max_tokens": 30_000}  # a part of 10,000 bytes has 5,000
    monkeypatch.setattr(prepare, "_PAGE", (1, 150, 200))

    def begun(share: prepare._Share) -> list[int]:
        share._saturated = False
        return [part for part in range(len(share._plan.parts)) if not share._record(part).done and share._wanted(part)]

    share = share_of(config_for(tmp_path, "known", **limit))
    assert len(share._plan.parts) > 20
    assert begun(share) == [0, 1, 2, 3]  # text is taken for denser than this is
    tokenise(share, 0)
    assert begun(share) == [1, 2, 3, 4, 5]  # and by now that is known
    for part in range(1, 6):
        tokenise(share, part)
    assert begun(share) == [] and share._is_enough()
    unknown = share_of(config_for(tmp_path, "unknown", **limit), lambda size: None)
    assert begun(unknown) == list(range(len(unknown._plan.parts)))  # each of those before may be tiny


@pytest.mark.parametrize(
    ("limit", "sizes"),
    [
        ({"max_documents": 45}, lambda size: size),
        ({"max_tokens": 22_000}, lambda size: None),
        ({"max_tokens": 22_000}, lambda size: 100 * size),
        ({"max_documents": 91}, lambda size: 1),
    ],
)
def test_a_sample_is_the_same_whatever_its_parts_are_taken_for(
    limit: dict[str, int], sizes: Callable[[int | None], int | None], tmp_path: Path
) -> None:
    whole = contents(prepare.prepare(config_for(tmp_path, "whole", **limit)))
    config = config_for(tmp_path, num_procs=3, **limit)
    share_of(config, sizes)
    assert contents(prepare.prepare(config)) == whole


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.parquet"])
def test_rows_without_text_are_left_out_and_counted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    texts = write_corpus(tmp_path / "corpus.jsonl")
    whole = prepare.prepare(config_for(tmp_path, "whole"))
    rows = [None, *texts[:60], "", *texts[60:], None, " \n"]
    if name == "corpus.jsonl":
        (tmp_path / name).write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pyarrow.table({"text": rows}), tmp_path / name, row_group_size=10)
    settings = {"files": [tmp_path / name]}

    def told() -> list[str]:
        lines = [record.getMessage() for record in caplog.records if "no text" in record.getMessage()]
        caplog.clear()
        return lines

    caplog.set_level("INFO", "nano_gpt")
    line = "prepare: 4 of 154 rows had no text (null, empty or white space): left out"
    for procs in (1, 2):
        prepared = prepare.prepare(config_for(tmp_path, f"procs-{procs}", num_procs=procs, **settings))
        assert told() == [line]  # once, at the end
        assert prepared.manifest.splits == whole.manifest.splits
        assert [shard.sha256 for shard in prepared.manifest.shards] == [s.sha256 for s in whole.manifest.shards]
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "pack", None)
        with pytest.raises(TypeError):
            prepare.prepare(config_for(tmp_path, "stopped", **settings))
    prepare.prepare(config_for(tmp_path, "stopped", **settings))
    assert told() == [line]  # of all runs together
    prepare.prepare(config_for(tmp_path, "stopped", **settings))
    assert told() == []


def test_a_single_document_is_no_row_without_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "nano_gpt")
    write_corpus(tmp_path / "corpus.jsonl", 1)
    prepare.prepare(config_for(tmp_path))
    assert "no text" not in caplog.text
    with (tmp_path / "corpus.jsonl").open("a") as file:
        file.write('{"text": null}\n')
    prepare.prepare(config_for(tmp_path, "null"))
    assert "1 of 2 rows had no text" in caplog.text


def test_the_time_of_a_sample_is_that_of_the_parts_that_it_needs(tmp_path: Path) -> None:
    whole = estimate(config_for(tmp_path, num_procs=3))
    sample = estimate(config_for(tmp_path, num_procs=3, max_documents=10))
    assert (whole.num_procs, sample.num_procs) == (3, 1)


def test_duplicates(tmp_path: Path) -> None:
    texts = write_corpus(tmp_path / "corpus.jsonl", 60)
    path = tmp_path / "corpus.jsonl"
    path.write_text(path.read_text() * 3)
    kept = prepare.prepare(config_for(tmp_path))
    assert (kept.manifest.duplicates_dropped, kept.manifest.validation_in_train) == (0, 0)
    assert sum(counts.documents for counts in kept.manifest.splits.values()) == 180
    train = set(documents_of(kept, "train"))
    for procs in (1, 2):
        once = prepare.prepare(config_for(tmp_path, f"once-{procs}", dedup="exact", num_procs=procs))
        assert once.manifest.duplicates_dropped == 120 + 60 - len(set(texts))
        assert documents_of(once, "train") == [text for text in dict.fromkeys(texts) if text in train]


def test_ctrl_c_saves_what_is_done(tmp_path: Path) -> None:
    """The real command, in processes: it ends soon, says how to go on, and loses nothing."""
    texts = "".join(json.dumps({"text": f"{number} " + "word " * 2000}) + "\n" for number in range(3000))
    (tmp_path / "corpus.jsonl").write_text(texts)
    command = [sys.executable, "-m", "nano_gpt", "prepare_dataset", "--files", "corpus.jsonl", "--num-procs", "2"]
    command += ["--tokenizer", "bpe:400", "--dataset", "mine"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    folder = tmp_path / "dataset_cache" / "mine-bpe-400"
    deadline = time.monotonic() + 60
    while not list((folder / "unfinished").glob("**/.tmp-*.tokens")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "SIGINT: saving what is done" in errors and "the same command goes on from there" in errors
    plan = Unfinished(folder).plan()
    assert plan is not None
    done = sum(Unfinished(folder).part(index).documents for index in range(len(plan.parts)))
    assert 0 < done < 3000
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"{done:,} documents are done" in again.stderr
    assert "3,000 documents" in again.stderr


def test_text_that_changes_while_it_is_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(tmp_path)
    tokenise = prepare.tokenise_parts

    def and_then_somebody_writes(*arguments: Any, **keywords: Any) -> None:
        tokenise(*arguments, **keywords)
        path = tmp_path / "corpus.jsonl"
        path.write_text(path.read_text().replace("lorem", "merol"))

    monkeypatch.setattr(prepare, "tokenise_parts", and_then_somebody_writes)
    with pytest.raises(DataError, match="has changed while it was read"):
        prepare.prepare(config)
    assert not (tmp_path / "cache" / "mine-byte" / MANIFEST).exists()


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("part_000000_000.train.tokens", "the same command again"),
        ("part_000000_000.documents.npy", "the same command again"),
        ("part_000000.json", "--overwrite"),
    ],
)
def test_damage_in_what_is_unfinished_is_told(
    name: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "pack", stopped)
        with pytest.raises(StoppedError):
            prepare.prepare(config_for(tmp_path))
    file = tmp_path / "cache" / "mine-byte" / "unfinished" / name
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged") as caught:
        prepare.prepare(config_for(tmp_path))
    assert remedy in (caught.value.hint or "")
    made = prepare.prepare(config_for(tmp_path), overwrite=remedy == "--overwrite")
    assert contents(made) == contents(prepare.prepare(config_for(tmp_path, out="whole")))


@pytest.mark.parametrize("which", [0, -1])
def test_a_worker_that_is_killed_ends_the_others_too(which: int, tmp_path: Path) -> None:
    """The one that is killed may hold what the other waits for."""
    process = start(tmp_path / "slow_prepare.py", config_for(tmp_path, num_procs=2))
    assert process.stdout is not None
    for line in process.stdout:
        documents, *workers_there = map(int, line.split())
        if documents > 20:
            break
    os.kill(workers_there[which], signal.SIGKILL)
    _, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    deadline = time.monotonic() + 20
    while any(map(_alive, workers_there)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _die(*_: Any) -> None:
    os._exit(1)


def test_a_dead_worker_is_an_error_and_not_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_begin_worker", _die)
    with pytest.raises(DataError, match="process died") as caught:
        prepare.prepare(config_for(tmp_path, num_procs=2))
    assert "--num-procs" in (caught.value.hint or "")
    monkeypatch.undo()
    assert contents(prepare.prepare(config_for(tmp_path))) == contents(prepare.prepare(config_for(tmp_path, "other")))


SLOW_PREPARE = """
import multiprocessing, sys, time
from nano_gpt.config import DataConfig
from nano_gpt.data.preparing import prepare, tokenizing, workers
from nano_gpt.data.preparing.estimate import estimate
from nano_gpt.data.sources import local_files

tokenizing.CHUNK_DOCUMENTS, local_files.PART_BYTES = 8, 10_000  # in the workers too: they import this file
tokenizing._BATCH_CHARACTERS = 1
write = tokenizing._ChunkWriter.write

def slowly(*arguments):
    time.sleep(0.002)
    return write(*arguments)

tokenizing._ChunkWriter.write = slowly
if __name__ == "__main__":
    workers.POLL_SECONDS, workers.SMALL_BYTES = 0.02, 0
    show = prepare.Progress.show
    def telling(self, totals):
        print(totals[0], *(child.pid for child in multiprocessing.active_children()), flush=True)
        show(self, totals)
    prepare.Progress.show = telling
    prepare.prepare(DataConfig.model_validate_json(sys.argv[1]))
"""


def start(script: Path, config: DataConfig) -> subprocess.Popen[bytes]:
    script.write_text(SLOW_PREPARE)
    return subprocess.Popen([sys.executable, str(script), config.model_dump_json()], stdout=subprocess.PIPE)


def test_two_at_once_and_no_process_stays_behind(tmp_path: Path) -> None:
    """While the first is at it a second is refused; when it is killed outright its workers end too."""
    config = config_for(tmp_path, "killed", num_procs=2)
    process = start(tmp_path / "slow_prepare.py", config)
    assert process.stdout is not None
    for line in process.stdout:
        documents, *workers_there = map(int, line.split())
        if documents > 20:
            break
    assert len(workers_there) == 2
    with pytest.raises(DataError, match=f"being prepared by process {process.pid} on .* since 20"):
        prepare.prepare(config)
    with pytest.raises(DataError, match=f"being prepared by process {process.pid} on .* since 20"):
        prepare.prepare_share(config, ranks=Ranks(0, 2))  # also by one of several
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while any(map(_alive, workers_there)):  # no process is left waiting for a parent that is gone
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_killed_at_random_moments_the_set_is_the_same(tmp_path: Path) -> None:
    """kill -9 twenty times, each time at another moment of the work, through as many preparations as that takes."""
    whole = contents(prepare.prepare(config_for(tmp_path, "whole")))
    config = config_for(tmp_path, "killed", num_procs=2)
    chance, kills, finished = random.Random(0), 0, 0
    while kills < 20 or not finished:
        process = start(tmp_path / "slow_prepare.py", config)
        assert process.stdout is not None
        if kills < 20:
            process.stdout.readline()  # it has begun
            time.sleep(chance.uniform(0, 0.25))
            process.kill()
        process.communicate()
        if process.returncode == -signal.SIGKILL:
            kills += 1
            continue
        assert process.returncode == 0
        finished += 1
        prepared = open_prepared(tmp_path / "killed" / "mine-byte")
        assert contents(prepared) == whole
        if kills < 20:
            config = config_for(tmp_path, f"killed-{finished}", num_procs=2)
    assert finished < 20  # or the moments are all too late


def _alive(pid: int) -> bool:
    """A process that ended and was not yet waited for counts as gone; where there is no /proc it does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc/self").exists()


def test_tinyshakespeare_is_the_known_number_of_tokens(gpt2_bpe: None, shared_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / ".downloads" / "tinyshakespeare.txt"
    copy.parent.mkdir()
    copy.write_bytes((shared_dir / "data" / "tinyshakespeare.txt").read_bytes())
    prepared = prepare.prepare(DataConfig(dataset="tinyshakespeare", dataset_dir=tmp_path))
    assert prepared.tokens("train") == 301_966 + 1
    assert prepared.tokens("validation") == 36_059 + 1
    assert prepared.manifest.dtype == "uint16"
    assert prepared.reader("train").read(0, 4).tolist() == [50256, 5962, 22307, 25]  # First Citizen:
    assert prepared.manifest.tokenizer_fingerprint == load_tokenizer("gpt2").fingerprint


def test_ensure_prepared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError) as large:
        prepare.ensure_prepared(DataConfig(dataset="finewebedu", dataset_dir=tmp_path))
    assert "nano-gpt prepare_dataset --dataset finewebedu --dataset-dir" in (large.value.hint or "")
    with pytest.raises(ConfigError, match="unknown dataset 'mine'"):
        prepare.ensure_prepared(DataConfig(dataset="mine", dataset_dir=tmp_path / "cache"))
    caplog.set_level("INFO", "nano_gpt")
    logging.getLogger("nano_gpt").propagate = True
    made = prepare.ensure_prepared(config_for(tmp_path))
    assert made.manifest == prepare.ensure_prepared(config_for(tmp_path)).manifest
    assert "preparing mine (your own files)" in caplog.text
    by_name = DataConfig(dataset="mine", tokenizer="byte", dataset_dir=tmp_path / "cache")
    assert prepare.ensure_prepared(by_name).manifest == made.manifest  # the files are not needed any more
    with pytest.raises(DataError, match=r"validation_fraction 0.1 there, 0.3 asked for"):
        prepare.ensure_prepared(by_name.model_copy(update={"validation_fraction": 0.3}))


def test_unknown_split_and_empty_split(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown split 'val'"):
        prepare.prepare(config_for(tmp_path), ["train", "val"])
    with pytest.raises(DataError, match="the validation split got 0 documents"):
        prepare.prepare(config_for(tmp_path, validation_fraction=1e-9))
    assert prepare.prepare(config_for(tmp_path, validation_fraction=0.2))  # nothing of the first try is in the way


def test_a_damaged_plan_is_one_error(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "mine-byte"
    folder.mkdir(parents=True)
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "plan.json").write_text("{")
    with pytest.raises(DataError, match=r"plan\.json is damaged"):
        prepare.prepare(config_for(tmp_path))
    prepare.prepare(config_for(tmp_path), overwrite=True)


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match="cannot write to"):
        prepare.prepare(config_for(tmp_path))


def test_large_files_of_your_own_are_prepared_on_purpose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under torchrun the other ranks would wait for it until they give up."""
    file = tmp_path / "big.txt"
    file.write_text("word " * 1000)
    config = DataConfig(dataset="big", files=(file,), tokenizer="byte", dataset_dir=tmp_path / "cache")
    monkeypatch.setattr("nano_gpt.data.catalog.LARGE_BYTES", 100)
    with pytest.raises(DataError, match="is not prepared") as caught:
        prepare.ensure_prepared(config)
    assert caught.value.hint is not None and f"--files {file}" in caught.value.hint
    prepare.prepare(config)
    assert prepare.ensure_prepared(config).tokens("train") > 4000


def test_a_flipped_byte_is_found_by_whoever_opens_the_set(tmp_path: Path) -> None:
    """Training on a damaged shard gives a loss that nobody can explain; the manifest knows better."""
    config = config_for(tmp_path)
    made = prepare.prepare(config)
    shard = made.folder / made.manifest.shards[0].file
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    for use in (prepare.prepare, prepare.ensure_prepared):
        with pytest.raises(DataError, match="sha256 differs") as caught:
            use(config)
        assert caught.value.hint is not None
        assert f"--dataset-dir {config.dataset_dir}" in caught.value.hint and "--overwrite" in caught.value.hint
    prepare.prepare(config, overwrite=True)
    assert prepare.ensure_prepared(config).manifest == made.manifest


def test_ranks_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    cores = workers.usable_cores()
    assert cores >= 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(cores))
    assert workers.usable_cores() == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(10 * cores))
    assert workers.usable_cores() == 1
