"""A run's checkpoints: whole or not there, damage found and named, old ones pruned."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nano_gpt.checkpoint import store as store_module
from nano_gpt.checkpoint.store import (
    MANIFEST,
    OPTIMIZER,
    RUN_POINTER,
    STATE,
    Checkpoint,
    CheckpointStore,
    checkpoints_of,
    load,
    run_folder_of,
    run_of,
    verify,
)
from nano_gpt.config import GPTConfig
from nano_gpt.errors import CheckpointError
from nano_gpt.model.gpt import GPT
from nano_gpt.runtime.files import DiskFullError
from nano_gpt.tokenizer import load_tokenizer

TINY = GPTConfig(vocab_size=257, n_positions=8, n_embd=16, n_layer=1, n_head=2)


def make(step: int, config: GPTConfig = TINY) -> Checkpoint:
    torch.manual_seed(step)
    model = GPT(config)
    moments = {f"exp_avg/{name}": torch.randn_like(tensor) for name, tensor in model.named_parameters()}
    return Checkpoint(dict(model.state_dict()), moments, {"step": step, "validation_loss": 1.5})


def save(store: CheckpointStore, step: int, *, best: bool = False, config: GPTConfig = TINY) -> Path:
    return store.save(make(step, config), config, load_tokenizer("byte"), best=best)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    path = save(CheckpointStore(tmp_path, keep=3), 7)
    saved, loaded = make(7), load(path)
    assert loaded.state == saved.state
    for written, read in ((saved.model, loaded.model), (saved.optimizer, loaded.optimizer)):
        assert written.keys() == read.keys()
        assert all(torch.equal(written[name], read[name]) for name in written)


def test_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (10, 20, 30, 40):
        save(store, step, best=step == 10)
    assert store.steps() == [10, 30, 40]
    assert (tmp_path / "latest").read_text() == "step_000040\n"
    assert (tmp_path / "best").read_text() == "step_000010\n"


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", str(OPTIMIZER), str(STATE)])
@pytest.mark.parametrize("damage", [flip_a_byte, truncate, Path.unlink])
def test_damage_is_named_and_the_one_before_is_used(tmp_path: Path, name: str, damage: Any, caplog: Any) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    good, bad = save(store, 10), save(store, 20)
    damage(bad / name)
    with pytest.raises(CheckpointError, match=name.rsplit("/", 1)[-1]):
        verify(bad)
    assert store.newest_valid() == good


def test_no_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    (save(store, 10) / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        store.newest_valid()


def test_a_crash_while_writing_leaves_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    good = save(store, 10)

    def crash(*_: object) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "save_file", crash)
        with pytest.raises(RuntimeError):
            save(store, 20)
    assert store.steps() == [10]
    assert (tmp_path / "latest").read_text() == "step_000010\n"
    verify(good)
    save(store, 20)  # and the leftovers are not in the way
    assert store.steps() == [20]


def test_what_a_kill_left_is_cleared_and_what_it_had_moved_is_put_back(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    save(store, 10).rename(tmp_path / ".old-step_000010")  # killed between the two renames of a second step 10
    for name in (".tmp-step_000010", ".tmp-step_000020", ".old-step_000030", "step_000030", ".tmp-mine", ".old-step_x"):
        (tmp_path / name).mkdir()
    save(store, 40)
    left = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert left == [".old-step_x", ".tmp-mine", "step_000010", "step_000030", "step_000040"]
    verify(store.path(10))


def test_the_settings_are_found_wherever_the_checkpoint_lies(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    path = save(CheckpointStore(elsewhere, keep=3), 10)
    assert run_of(path) is None
    (path / "training" / "config.yaml").write_text("training: {}\n")
    assert run_of(path) == path / "training" and run_folder_of(path) is None
    run.mkdir()
    (elsewhere / RUN_POINTER).write_text(f"{run}\n")
    (run / "config.yaml").write_text("training: {}\n")
    assert run_folder_of(path) is None, "another run has taken the name"
    (run / "config.yaml").write_text(f"training: {{checkpoint_dir: {elsewhere}}}\n")
    assert run_folder_of(path) == run_of(path) == run
    (run / "config.yaml").write_text("training: [")
    assert checkpoints_of(run) == run / "checkpoints"


def test_going_on_from_an_older_one_sets_later_ones_aside(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    for step in (10, 20, 30):
        save(store, step, best=step < 30)
    store.abandon_after(20)
    assert store.steps() == [10, 20]
    assert (tmp_path / "abandoned_step_000030").is_dir()
    assert (tmp_path / "latest").read_text() == "step_000020\n"  # it named what was no longer there
    assert (tmp_path / "best").read_text() == "step_000020\n"
    store.abandon_after(10)
    assert (tmp_path / "latest").read_text() == "step_000010\n"
    assert not (tmp_path / "best").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)]
    if os.name != "posix" or os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root on Linux only")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk_leaves_the_checkpoint_before_it_whole(small_disk: Path) -> None:
    store = CheckpointStore(small_disk / "checkpoints", keep=1)
    wide = TINY.model_copy(update={"n_embd": 64, "n_head": 2})  # about 0.5 MB with its moments: there is room for one
    good = save(store, 10, config=wide)
    with pytest.raises(DiskFullError, match="disk is full"):
        save(store, 20, config=wide)
    assert store.steps() == [10]
    assert store.newest_valid() == good
