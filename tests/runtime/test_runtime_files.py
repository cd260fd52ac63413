"""Files that appear whole or not at all, also when the disk is full."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nano_gpt.runtime.files import DiskFullError, atomic_directory, atomic_file, sha256, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "old")
    with atomic_file(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert names(path.parent) == ["a.txt"]


def test_a_failure_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "set"
    for text in ("old", "new"):
        with atomic_directory(path) as temporary:
            (temporary / "deep").mkdir()
            (temporary / "deep" / text).write_text(text)
            assert not (path / "deep" / text).exists()
    assert names(path / "deep") == ["new"]
    assert names(tmp_path) == ["set"]


def test_a_failure_keeps_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "set"
    with atomic_directory(path) as temporary:
        (temporary / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_directory(path) as temporary:
        (temporary / "a").write_text("half")
        raise ZeroDivisionError
    assert (path / "a").read_text() == "old"
    assert names(tmp_path) == ["set"]


def test_a_rename_that_fails_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "set"
    with atomic_directory(path) as temporary:
        (temporary / "a").write_text("old")
    rename = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if self.name.startswith(".tmp-"):
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OSError, match="no"), atomic_directory(path):
        pass
    assert (path / "a").read_text() == "old"
    assert names(tmp_path) == ["set"]


def test_a_kill_between_the_renames_is_mended_by_the_next_writer(tmp_path: Path) -> None:
    path = tmp_path / "set"
    with atomic_directory(path) as temporary:
        (temporary / "a").write_text("old")
    path.rename(tmp_path / ".old-set")  # as a kill leaves it: moved aside, the new one not yet in place
    with pytest.raises(ZeroDivisionError), atomic_directory(path):
        raise ZeroDivisionError
    assert (path / "a").read_text() == "old"


def test_leftovers_of_a_kill_do_not_mix_in(tmp_path: Path) -> None:
    (tmp_path / ".tmp-set").mkdir()
    (tmp_path / ".tmp-set" / "stale").write_text("stale")
    with atomic_directory(tmp_path / "set") as temporary:
        (temporary / "a").write_text("new")
    assert names(tmp_path / "set") == ["a"]


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 10**6)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 10**6).hexdigest()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of one megabyte."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # torch.save, when it failed, holds its file open


def write_bytes(path: Path) -> None:
    path.write_bytes(b"x" * (1 << 21))


def write_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(1 << 20, dtype=np.uint16))


def write_weights(path: Path) -> None:
    save_file({"w": torch.zeros(1 << 19)}, path)


def write_torch(path: Path) -> None:
    torch.save({"w": torch.zeros(1 << 19)}, path)


@pytest.mark.parametrize("write", [write_bytes, write_array, write_weights, write_torch])
def test_a_full_disk_is_one_error_and_keeps_the_old_file(write, tiny_disk: Path) -> None:  # type: ignore[no-untyped-def]
    """numpy, safetensors and torch each say it in their own words, torch not even with an OSError."""
    path = tiny_disk / "a.bin"
    write_text(path, "old")
    with (
        pytest.raises(DiskFullError, match=r"the disk is full: .*a\.bin was not written") as caught,
        atomic_file(path) as temporary,
    ):
        write(temporary)
    assert caught.value.hint
    assert path.read_text() == "old"
    assert names(tiny_disk) == ["a.bin"]


def test_a_full_disk_keeps_the_old_folder(tiny_disk: Path) -> None:
    path = tiny_disk / "checkpoint"
    with atomic_directory(path) as temporary:
        (temporary / "a").write_text("old")
    with pytest.raises(DiskFullError), atomic_directory(path) as temporary:
        (temporary / "a").write_text("new")
        write_weights(temporary / "model.safetensors")
    assert names(tiny_disk) == ["checkpoint"]
    assert (path / "a").read_text() == "old"
    write_text(tiny_disk / "b", "x" * 900_000)  # and the space is free again


def test_other_errors_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), atomic_file(tmp_path / "a"):
        raise RuntimeError("shapes differ")
