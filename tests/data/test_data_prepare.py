"""Preparing: what comes out, what stops it, and that stopping anywhere loses and changes nothing."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nano_gpt.config import DataConfig
from nano_gpt.data import journal, prepare, tokenizing
from nano_gpt.data.catalog import MANIFEST
from nano_gpt.data.manifest import PreparedSet, open_prepared
from nano_gpt.data.sources import LocalFiles, State
from nano_gpt.errors import ConfigError, DataError
from nano_gpt.runtime import files
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
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "BATCH_DOCUMENTS", 8)


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
    train = [text for split, text in prepare.make_source(config).documents() if split == "train"]
    everything = [text for _, text in prepare.make_source(config).documents()]
    assert made.manifest.tokenizer_fingerprint == train_tokenizer("bpe:300", train).fingerprint
    assert made.manifest.tokenizer_fingerprint != train_tokenizer("bpe:300", everything).fingerprint


def test_a_finished_set_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare.prepare(config_for(tmp_path))
    monkeypatch.setattr(prepare, "tokenise", None)  # would raise if it were called
    assert prepare.prepare(config_for(tmp_path)).manifest == first.manifest
    assert prepare.prepare(config_for(tmp_path), ["train"]).manifest == first.manifest


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"validation_fraction": 0.2}, "validation_fraction 0.1 there, 0.2 asked for"),
        ({"text_column": "body"}, "text_column 'text' there, 'body' asked for"),
        ({"document_separator": "--"}, "document_separator None there, '--' asked for"),
        ({"tokens_per_shard": 2001}, "tokens_per_shard 2000 there, 2001 asked for"),
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


def test_shards_of_nothing_known_are_removed_before_they_can_mix_in(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "mine-byte"
    folder.mkdir(parents=True)
    for name in ("train_000000.npy", "train_000099.npy", ".tmp-train_000007.npy", "edufineweb_train_000001.npy"):
        (folder / name).write_bytes(b"stale")
    prepared = prepare.prepare(config_for(tmp_path))
    left = {path.name for path in folder.iterdir() if path.suffix == ".npy"}
    assert left == {shard.file for shard in prepared.manifest.shards} | {"edufineweb_train_000001.npy"}


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("moment", range(0, 40, 3))
def test_interrupted_and_run_again_it_is_byte_identical(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(prepare.prepare(config_for(tmp_path, "whole")))
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
            prepare.prepare(config_for(tmp_path, "stopped"))
        except StoppedError:
            assert not (tmp_path / "stopped" / "mine-byte" / MANIFEST).exists()
            with pytest.raises(DataError, match=r"is not finished|no prepared set"):
                open_prepared(tmp_path / "stopped" / "mine-byte")
    assert contents(prepare.prepare(config_for(tmp_path, "stopped"))) == whole


def test_what_is_in_full_shards_is_not_tokenised_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    encode = tokenizing.encode

    def recorded(tokenizer: Any, texts: list[str]) -> Any:
        if len(encoded) >= 100 and not (tmp_path / "again").exists():
            raise StoppedError
        encoded.extend(texts)
        return encode(tokenizer, texts)

    monkeypatch.setattr(tokenizing, "encode", recorded)
    with pytest.raises(StoppedError):
        prepare.prepare(config_for(tmp_path))
    done = journal.read_journal(tmp_path / "cache" / "mine-byte")
    assert done is not None and done.document > 80
    encoded.clear()
    (tmp_path / "again").touch()
    prepare.prepare(config_for(tmp_path))
    assert encoded[0].startswith(f"Document {done.document}. ")
    assert len(encoded) == 150 - done.document


def test_a_source_that_knows_its_place_is_started_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As hub streams do: the state before a batch and the number of documents before it belong together."""
    started: list[State | None] = []

    class Placed(LocalFiles):
        place = 0

        def texts(self, state: State | None = None) -> Iterator[str]:
            started.append(state)
            self.place = state["place"] if state else 0
            for text in list(super().texts())[self.place :]:
                self.place += 1
                yield text

        def state(self) -> State | None:
            return {"place": self.place}

    monkeypatch.setattr("nano_gpt.data.sources.LocalFiles", Placed)
    whole = contents(prepare.prepare(config_for(tmp_path, "whole")))
    for limit in (40, 90):  # interrupted twice, the second time after having gone on
        with monkeypatch.context() as patch:
            patch.setattr(tokenizing, "encode", _encode_until(limit))
            with pytest.raises(StoppedError):
                prepare.prepare(config_for(tmp_path, "stopped"))
    started.clear()
    assert contents(prepare.prepare(config_for(tmp_path, "stopped"))) == whole
    assert started[-1] is not None and started[-1]["place"] > 60


def _encode_until(limit: int) -> Any:
    encode = tokenizing.encode

    def limited(tokenizer: Any, texts: list[str]) -> Any:
        if any(int(text.split()[1].rstrip(".")) >= limit for text in texts):
            raise StoppedError
        return encode(tokenizer, texts)

    return limited


def test_the_number_of_processes_changes_nothing(tmp_path: Path) -> None:
    alone = prepare.prepare(config_for(tmp_path, "alone", tokenizer="bpe:300"))
    several = prepare.prepare(config_for(tmp_path, "several", tokenizer="bpe:300", num_procs=2))
    assert contents(alone) == contents(several)


def _die(*_: Any) -> None:
    os._exit(1)


def test_a_dead_worker_is_an_error_and_not_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizing, "_begin_worker", _die)
    with pytest.raises(DataError, match="process died") as caught:
        prepare.prepare(config_for(tmp_path, num_procs=2))
    assert "--num-procs" in (caught.value.hint or "")
    monkeypatch.undo()
    assert contents(prepare.prepare(config_for(tmp_path))) == contents(prepare.prepare(config_for(tmp_path, "other")))


SLOW_PREPARE = """
import multiprocessing, sys, time
from nano_gpt.config import DataConfig
from nano_gpt.data import journal, prepare

prepare.BATCH_DOCUMENTS = 8
write_journal = prepare.write_journal

def slowly(*arguments):
    write_journal(*arguments)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(0.05)

prepare.write_journal = slowly
if __name__ == "__main__":
    prepare.prepare(DataConfig.model_validate_json(sys.argv[1]))
"""


def test_killed_outright_and_run_again_and_two_at_once(tmp_path: Path) -> None:
    """One launch for both: while the first is at it a second is refused; after kill -9 nothing is lost."""
    script = tmp_path / "slow_prepare.py"
    script.write_text(SLOW_PREPARE)
    config = config_for(tmp_path, "killed", num_procs=2)
    process = subprocess.Popen([sys.executable, str(script), config.model_dump_json()], stdout=subprocess.PIPE)
    assert process.stdout is not None
    workers = [[int(pid) for pid in process.stdout.readline().split()] for _ in range(3)][-1]
    assert len(workers) == 2
    with pytest.raises(DataError, match=f"being prepared by process {process.pid} on .* since 20"):
        prepare.prepare(config)
    process.send_signal(signal.SIGKILL)
    process.wait()
    begun = journal.read_journal(tmp_path / "killed" / "mine-byte")
    assert begun is not None and 0 < begun.document < 150
    assert contents(prepare.prepare(config)) == contents(prepare.prepare(config_for(tmp_path, "whole")))
    deadline = time.monotonic() + 20
    while any(map(_alive, workers)):  # no process is left waiting for a parent that is gone
        assert time.monotonic() < deadline
        time.sleep(0.1)


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


def test_a_damaged_journal_is_one_error(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "mine-byte"
    folder.mkdir(parents=True)
    (folder / "unfinished.json").write_text("{")
    with pytest.raises(DataError, match=r"unfinished\.json is damaged"):
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
