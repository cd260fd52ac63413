"""Who may be at a folder, and what a start that fails leaves in it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nano_gpt.config import DataConfig
from nano_gpt.data.preparing.prepare import prepare
from nano_gpt.data.preparing.unfinished import exclusive, taking_turns
from nano_gpt.errors import DataError
from nano_gpt.runtime.distributed import Ranks


def test_a_start_that_fails_leaves_no_empty_set(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"body": "a text"}')
    config = DataConfig(
        dataset="rows", files=(tmp_path / "rows.jsonl",), tokenizer="byte", dataset_dir=tmp_path / "cache"
    )
    with pytest.raises(DataError, match="'text'"):
        prepare(config)
    assert not list((tmp_path / "cache").glob("rows*"))
    assert prepare(config.model_copy(update={"text_column": "body"})).tokens("train")


def test_what_is_in_a_folder_is_never_removed(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "unfinished/plan.json", ".lock-1-of-2"):  # of another rank
        folder = tmp_path / name.replace("/", "-")
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
        with pytest.raises(KeyboardInterrupt), exclusive(folder, Ranks()), taking_turns(folder):
            raise KeyboardInterrupt
        assert (folder / name).is_file()
        with exclusive(folder, Ranks()):
            pass


def test_a_folder_that_comes_and_goes_is_still_one_process_s(tmp_path: Path) -> None:
    """Each of them removes it behind itself, while others are about to lock it."""
    folder = tmp_path / "set"
    inside: list[int] = []
    entered: list[list[int]] = []

    def work(number: int) -> None:
        while len(entered) < 40:
            try:
                with exclusive(folder, Ranks()):
                    inside.append(number)
                    time.sleep(0.001)
                    entered.append(list(inside))
                    inside.remove(number)
            except DataError:  # it is another's, or was removed at this moment
                pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert all(len(together) == 1 for together in entered)
    assert not folder.exists()
