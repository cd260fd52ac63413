"""What is written is what is read, over any shard size; what is damaged is refused, at the latest when it is read."""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_gpt.data import shards as module
from nano_gpt.data.shards import Shard, TokenReader, raw, read_raw, token_dtype, write_shard
from nano_gpt.errors import DataError


def write(folder: Path, ids: list[int], dtype: str, tokens_per_shard: int) -> list[Shard]:
    shards = []
    for number, start in enumerate(range(0, len(ids), tokens_per_shard)):
        part = np.array(ids[start : start + tokens_per_shard], np.uint32)
        path = folder / f"train_{number:06d}.npy"
        shards.append(write_shard(path, "train", dtype, len(part), 0, [part[:3], part[3:3], part[3:]]))
    return shards


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 2**16 - 1), max_size=200),
    st.integers(1, 40),
    st.sampled_from(["uint16", "uint32"]),
    st.data(),
)
def test_any_slice_of_what_was_written_is_read(
    ids: list[int], tokens_per_shard: int, dtype: str, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as name:
        shards = write(Path(name), ids, dtype, tokens_per_shard)
        reader = TokenReader(Path(name), shards, dtype, 2**16, "prepare it again")  # type: ignore[arg-type]
        assert len(reader) == len(ids)
        start = data.draw(st.integers(0, len(ids)))
        stop = data.draw(st.integers(start, len(ids) + 5))
        assert reader.read(start, stop).tolist() == ids[start:stop]
        assert reader.read(start, stop).dtype == dtype


def test_shards_are_plain_npy_files(tmp_path: Path) -> None:
    path = tmp_path / "train_000000.npy"
    stretches = [np.arange(3, dtype=np.uint32), np.arange(3, 7, dtype=np.uint16)]
    shard = write_shard(path, "train", "uint16", 7, 2, stretches)
    array = np.load(path, allow_pickle=False)
    assert array.tolist() == list(range(7)) and array.dtype == np.uint16
    assert shard == Shard(
        file="train_000000.npy",
        split="train",
        tokens=7,
        documents=2,
        offset=128,
        bytes=128 + 14,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        max_id=6,
    )


def test_long_stretches_are_written_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_TOKENS", 10)
    ids = np.arange(47, dtype=np.uint32)
    shard = write_shard(tmp_path / "a.npy", "train", "uint32", 47, 0, [ids])
    assert np.load(tmp_path / "a.npy").tolist() == ids.tolist()
    assert shard.sha256 == hashlib.sha256((tmp_path / "a.npy").read_bytes()).hexdigest()


def test_the_dtype_follows_the_vocabulary() -> None:
    assert [token_dtype(size) for size in (257, 65536, 65537)] == ["uint16", "uint16", "uint32"]


def test_an_exception_leaves_no_shard_behind(tmp_path: Path) -> None:
    def stretches() -> object:
        yield np.arange(10, dtype=np.uint32)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "a.npy", "train", "uint16", 20, 0, stretches())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_bugs_of_the_caller_write_nothing(tmp_path: Path) -> None:
    ids = np.arange(10, dtype=np.uint32)
    with pytest.raises(AssertionError, match="10 tokens came, 11 were promised"):
        write_shard(tmp_path / "a.npy", "train", "uint16", 11, 0, [ids])
    with pytest.raises(AssertionError, match="65546 is too large for uint16"):  # it would wrap around
        write_shard(tmp_path / "a.npy", "train", "uint16", 10, 0, [ids + 65537])
    assert list(tmp_path.iterdir()) == []


def test_raw_ids_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_TOKENS", 4)
    path = tmp_path / "chunk"
    path.write_bytes(b"abc" + bytes(raw(np.arange(10, dtype=np.uint32), "uint16")))
    assert [part.tolist() for part in read_raw(path, "uint16", 3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [part.tolist() for part in read_raw(path, "uint16", 7, 3)] == [[2, 3, 4]]
    with pytest.raises(DataError, match="ends 1 tokens too early"):
        list(read_raw(path, "uint16", 3, 11))


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    (shard,) = write(tmp_path, list(range(1000)), "uint16", 1000)
    return shard


def opened(folder: Path, shard: Shard, vocab_size: int = 1000) -> DataError:
    with pytest.raises(DataError) as caught:
        TokenReader(folder, [shard], "uint16", vocab_size, "prepare it again")
    assert caught.value.hint == "prepare it again"
    return caught.value


def test_a_truncated_shard_is_refused_with_both_sizes(tmp_path: Path, shard: Shard) -> None:
    path = tmp_path / shard.file
    for size in (1000, 50, 0):
        path.write_bytes(path.read_bytes()[:size])
        assert opened(tmp_path, shard).message == f"shard {path} holds {size:,} of 2,128 bytes"
    path.unlink()
    assert "No such file" in opened(tmp_path, shard).message


def test_a_shard_of_another_type_is_refused(tmp_path: Path, shard: Shard) -> None:
    path = tmp_path / shard.file
    np.save(path, np.arange(1000, dtype=np.int16))
    assert "is int16; tokens are uint16 or uint32" in opened(tmp_path, shard).message
    np.save(path, np.arange(500, dtype=np.uint32))
    assert "is uint32; the manifest promises uint16" in opened(tmp_path, shard).message
    np.save(path, np.zeros((10, 100), np.uint16))
    assert "is of shape (10, 100)" in opened(tmp_path, shard).message
    path.write_bytes(b"x" * shard.bytes)
    assert "is not a .npy file" in opened(tmp_path, shard).message
    np.save(path, np.arange(1000, dtype=">u2"))
    assert "is >u2; tokens are" in opened(tmp_path, shard).message


def test_a_shard_that_lies_otherwise_than_the_manifest_says_is_refused(tmp_path: Path, shard: Shard) -> None:
    moved = shard.model_copy(update={"offset": 0, "tokens": 1064})  # as if it had no header
    assert (
        "holds 1,000 tokens from byte 128 on; the manifest promises 1,064 from byte 0"
        in opened(tmp_path, moved).message
    )


class _Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle was loaded",))


def test_a_pickle_is_never_loaded(tmp_path: Path, shard: Shard) -> None:
    path = tmp_path / shard.file
    np.save(path, np.array([_Harmful()], object), allow_pickle=True)
    path.write_bytes(path.read_bytes().ljust(shard.bytes, b"\0"))
    assert "pickled objects" in opened(tmp_path, shard).message
    path.write_bytes(pickle.dumps(_Harmful()).ljust(shard.bytes, b"\0"))
    assert "is not a .npy file" in opened(tmp_path, shard).message


def test_ids_beyond_the_vocabulary_are_refused(tmp_path: Path, shard: Shard) -> None:
    assert "holds id 999, but its tokenizer has 999 ids" in opened(tmp_path, shard, vocab_size=999).message


def reads(reader: TokenReader, start: int, stop: int) -> DataError:
    with pytest.raises(DataError) as caught:
        reader.read(start, stop)
    assert caught.value.hint == "prepare it again"
    return caught.value


def test_an_id_beyond_the_vocabulary_never_leaves_the_reader(tmp_path: Path, shard: Shard) -> None:
    """The manifest says that there is none, and somebody has changed the file since."""
    lying = shard.model_copy(update={"max_id": 5})
    reader = TokenReader(tmp_path, [lying], "uint16", 900, "prepare it again")
    assert reader.read(0, 900).max() == 899
    assert "holds id 950 at token 950, but its tokenizer has 900 ids" in reads(reader, 890, 951).message


def test_damage_during_a_run_is_an_error_and_no_crash(tmp_path: Path) -> None:
    """Behind a memory map, reading a truncated file ends the process by SIGBUS."""
    shards = write(tmp_path, list(range(3000)), "uint16", 1000)
    reader = TokenReader(tmp_path, shards, "uint16", 3000, "prepare it again")
    assert reader.read(0, 10).tolist() == list(range(10))  # the first is open, the others are not
    os.truncate(tmp_path / shards[0].file, 1000)
    os.truncate(tmp_path / shards[1].file, 1000)
    (tmp_path / shards[2].file).unlink()
    assert "train_000000.npy: it holds 1,000 of 2,128 bytes" in reads(reader, 900, 910).message
    assert "train_000001.npy: it holds 1,000 of 2,128 bytes" in reads(reader, 1000, 1010).message
    assert "train_000002.npy: No such file" in reads(reader, 2000, 2010).message
    assert reader.read(0, 10).tolist() == list(range(10))


def open_files(folder: Path) -> int:
    """Descriptors of this process that lead there."""
    names = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
    return sum(name.startswith(str(folder.resolve())) for name in names)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts file descriptors in /proc")
def test_few_files_are_open_at_a_time_and_none_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OPEN_FILES", 8)
    shards = write(tmp_path, list(range(300)), "uint16", 10)
    reader = TokenReader(tmp_path, shards, "uint16", 300, "")
    for start in [*range(0, 300, 7), 0, 150]:
        assert reader.read(start, start + 3).tolist() == list(range(start, min(start + 3, 300)))
        assert open_files(tmp_path) <= 8
    assert open_files(tmp_path) == 8
    del reader
    assert open_files(tmp_path) == 0


def test_threads_may_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OPEN_FILES", 2)
    shards = write(tmp_path, list(range(2000)), "uint16", 100)
    reader = TokenReader(tmp_path, shards, "uint16", 2000, "")
    wrong: list[object] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for start in rng.integers(0, 1900, 300).tolist():
            try:
                if reader.read(start, start + 50).tolist() != list(range(start, start + 50)):
                    wrong.append(start)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_reads_that_the_system_cuts_short_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shard,) = write(tmp_path, list(range(1000)), "uint16", 1000)
    reader = TokenReader(tmp_path, [shard], "uint16", 1000, "")
    whole = module._pread
    monkeypatch.setattr(module, "_pread", lambda descriptor, count, offset: whole(descriptor, min(count, 7), offset))
    assert reader.read(10, 100).tolist() == list(range(10, 100))


def test_a_system_without_pread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = write(tmp_path, list(range(1000)), "uint16", 300)
    reader = TokenReader(tmp_path, shards, "uint16", 1000, "")
    monkeypatch.delattr(os, "pread")
    assert reader.read(290, 610).tolist() == list(range(290, 610))
    assert reader.read(0, 5).tolist() == list(range(5))


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="measures resident memory in /proc")
def test_resident_memory_does_not_grow_with_what_is_read(tmp_path: Path) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    count = 20_000_000
    block = np.zeros(1_000_000, np.uint16)
    shard = write_shard(tmp_path / "a.npy", "train", "uint16", count, 0, (block for _ in range(20)))
    reader = TokenReader(tmp_path, [shard], "uint16", 10, "")
    reader.read(0, 100_000)
    before = resident()
    for start in range(0, count, 100_000):
        reader.read(start, start + 100_000)
    assert resident() - before < 10_000_000  # a map would add all 40 MB
