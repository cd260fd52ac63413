"""What is appended is what is read, over any shard size; what is damaged is refused when it is opened."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_gpt.data.shards import Shard, ShardWriter, TokenReader, token_dtype
from nano_gpt.errors import DataError


def write(folder: Path, parts: list[np.ndarray], dtype: str, tokens_per_shard: int) -> list[Shard]:
    shards = []
    with ShardWriter(folder, "train", dtype, tokens_per_shard, 0) as writer:
        for part in parts:
            while len(part):
                part = part[writer.append(part) :]
                if writer.full:
                    shards.append(writer.close())
        shards.append(writer.close())
    return [shard for shard in shards if shard is not None]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 2**16 - 1), max_size=30), max_size=12),
    st.integers(1, 40),
    st.sampled_from(["uint16", "uint32"]),
    st.data(),
)
def test_any_slice_of_what_was_written_is_read(
    documents: list[list[int]], tokens_per_shard: int, dtype: str, data: st.DataObject
) -> None:
    everything = [token for document in documents for token in document]
    with tempfile.TemporaryDirectory() as name:
        shards = write(Path(name), [np.array(d, np.uint32) for d in documents], dtype, tokens_per_shard)
        assert all(shard.tokens == tokens_per_shard for shard in shards[:-1])
        assert sorted(shard.file for shard in shards) == sorted(path.name for path in Path(name).iterdir())
        reader = TokenReader(Path(name), shards, dtype, 2**16, "prepare it again")
        assert len(reader) == len(everything)
        start = data.draw(st.integers(0, len(everything)))
        stop = data.draw(st.integers(start, len(everything) + 5))
        assert reader.read(start, stop).tolist() == everything[start:stop]
        assert reader.read(start, stop).dtype == dtype


def test_shards_are_plain_npy_files(tmp_path: Path) -> None:
    (shard,) = write(tmp_path, [np.arange(7, dtype=np.uint32)], "uint16", 100)
    array = np.load(tmp_path / "train_000000.npy", allow_pickle=False)
    assert array.tolist() == list(range(7)) and array.dtype == np.uint16
    assert (shard.tokens, shard.bytes, shard.max_id) == (7, 128 + 14, 6)


def test_the_dtype_follows_the_vocabulary() -> None:
    assert [token_dtype(size) for size in (257, 65536, 65537)] == ["uint16", "uint16", "uint32"]


def test_an_exception_leaves_no_shard_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path, "train", "uint16", 100, 0) as writer:
        writer.append(np.arange(10, dtype=np.uint32))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    (shard,) = write(tmp_path, [np.arange(1000, dtype=np.uint32)], "uint16", 1000)
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
    assert "is int16; the manifest promises uint16" in opened(tmp_path, shard).message
    np.save(path, np.zeros((10, 100), np.uint16))
    assert "is of shape (10, 100)" in opened(tmp_path, shard).message
    path.write_bytes(b"x" * shard.bytes)
    assert "is not a .npy file" in opened(tmp_path, shard).message


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
