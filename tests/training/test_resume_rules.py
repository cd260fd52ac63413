"""Which run `--resume` means, and which settings may change on the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nano_gpt.config import resolve, to_yaml
from nano_gpt.errors import CheckpointError, ConfigError
from nano_gpt.training.resume import changed_settings, find_run, starting_point


def make_run(path: Path) -> Path:
    (path / "checkpoints" / "step_000010").mkdir(parents=True)
    (path / "checkpoints" / "latest").write_text("step_000010\n")
    (path / "config.yaml").write_text(to_yaml(resolve()))
    return path


def test_find_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no run"):
        find_run("auto", None)
    run = make_run(Path("runs/a"))
    assert find_run("auto", None) == (run, None)
    assert find_run("auto", run) == (run, None)
    assert find_run("runs/a", None) == (run, None)
    assert find_run("runs/a/checkpoints/step_000010", None) == (run, run / "checkpoints" / "step_000010")
    started = Path("runs/started_later")  # and killed before its first checkpoint
    started.mkdir()
    (started / "config.yaml").write_text("")
    os.utime(started / "config.yaml", (2**31, 2**31))
    assert find_run("auto", None) == (started, None)
    with pytest.raises(CheckpointError, match="neither"):
        find_run("runs/b", None)
    with pytest.raises(CheckpointError, match="not a run folder"):
        find_run("auto", Path("runs/b"))


def test_where_a_run_starts_again(tmp_path: Path) -> None:
    run, disk = tmp_path / "run", tmp_path / "disk"
    run.mkdir()
    (run / "config.yaml").write_text("")
    (run / "checkpoints" / ".tmp-step_000010").mkdir(parents=True)
    assert starting_point(run) is None
    assert not list((run / "checkpoints").iterdir())
    (run / "checkpoints" / "step_000010").mkdir()
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        starting_point(run)
    disk.mkdir()
    (run / "config.yaml").write_text(f"training: {{checkpoint_dir: {disk}}}")
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        starting_point(run)  # not what the run wrote to: it is not mounted
    (disk / "run").write_text(f"{run}\n")
    assert starting_point(run) is None
    (disk / "latest").write_text("step_000010\n")
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        starting_point(run)  # there were some


def test_harmless_changes_are_told_and_others_refused() -> None:
    old = resolve()
    longer = resolve(flags={"training.max_steps": 5000, "training.micro_batch_size": 2})
    assert changed_settings(old, longer) == [
        f"training.max_steps: {old.training.max_steps} -> 5000",
        "training.micro_batch_size: None -> 2",
    ]
    assert changed_settings(old, resolve(flags={"data.dataset_dir": "elsewhere"})) == [
        "data.dataset_dir: dataset_cache -> elsewhere"
    ]
    for other in ({"data.dataset": "mine"}, {"model.n_layer": 9}, {"training.seed": 1}, {"data.tokenizer": "char"}):
        with pytest.raises(ConfigError, match=next(iter(other))):
            changed_settings(old, resolve(recipe="python_docs", flags=other))
