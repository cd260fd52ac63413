"""Scores beside a model: merged by task, the larger measurement stays, and only where the model is one's own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import pytest

from nano_gpt.checkpoint.evaluations import EVALUATIONS, read_evaluations, save_evaluation
from nano_gpt.checkpoint.source import LoadedModel
from nano_gpt.tokenizer import load_tokenizer


def loaded(folder: Path | None, **values: Any) -> LoadedModel:
    return LoadedModel(cast(Any, None), load_tokenizer("byte"), "a test", folder, **values)


def test_merged_by_task_and_a_part_does_not_replace_the_whole(tmp_path: Path) -> None:
    model = loaded(tmp_path)
    assert read_evaluations(model) == {}
    save_evaluation(model, "hellaswag", {"total": 10, "acc": 0.3})
    save_evaluation(model, "val a", {"tokens_evaluated": 5, "loss": 2.0})
    save_evaluation(model, "hellaswag", {"total": 9, "acc": 0.9})
    save_evaluation(model, "val a", {"tokens_evaluated": 5, "loss": 2.1})
    assert read_evaluations(model) == {
        "hellaswag": {"total": 10, "acc": 0.3}, "val a": {"tokens_evaluated": 5, "loss": 2.1}
    }  # fmt: skip


def test_not_for_models_of_others(tmp_path: Path) -> None:
    for model in (loaded(tmp_path, repo_id="user/name"), loaded(None)):
        save_evaluation(model, "hellaswag", {"total": 1})
        assert read_evaluations(model) == {}
    assert not (tmp_path / EVALUATIONS).exists()
    adapters = loaded(tmp_path, repo_id="user/name", adapter=True)  # one's own, on a model of the hub
    save_evaluation(adapters, "hellaswag", {"total": 1})
    assert read_evaluations(adapters) == {"hellaswag": {"total": 1}}


@pytest.mark.parametrize("content", [b"not json", b"[1]", b'{"hellaswag": 3}', b"\xff"])
def test_a_file_that_is_damaged_is_not_used(content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / EVALUATIONS).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert read_evaluations(loaded(tmp_path)) == {}
    save_evaluation(loaded(tmp_path), "val a", {"tokens_evaluated": 5})
    assert set(read_evaluations(loaded(tmp_path))) == {"val a"}
