"""What `nano-gpt eval` has found of a model, kept beside it for the model card: DIR/evaluations.json.

{"hellaswag": {"total": 10042, "acc_norm": 0.3114, ..., "model": ..., "precision": "fp32", "date": "2026-11-21"}}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nano_gpt.checkpoint.source import LoadedModel
from nano_gpt.runtime.files import DiskFullError, write_text
from nano_gpt.runtime.logs import logger

EVALUATIONS = "evaluations.json"
_SIZES = ("total", "tokens_evaluated")  # fields that say on how much a score was measured


def home(loaded: LoadedModel) -> Path | None:
    """The folder that keeps them; None for a model of the hub's cache, or in a file of another trainer."""
    return loaded.folder if loaded.adapter or loaded.repo_id is None else None


def read_evaluations(loaded: LoadedModel) -> dict[str, dict[str, Any]]:
    """By task; empty where nothing was measured."""
    folder = home(loaded)
    if folder is None or not (folder / EVALUATIONS).is_file():
        return {}
    try:
        found = json.loads((folder / EVALUATIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        logger.warning(f"{folder / EVALUATIONS} is not used: {error}")
        return {}
    entries = found.items() if isinstance(found, dict) else ()
    return {task: entry for task, entry in entries if isinstance(entry, dict)}


def save_evaluation(loaded: LoadedModel, task: str, entry: dict[str, Any]) -> None:
    """Add it, or put it in place of what there was of this task, unless that was measured on more.

    A folder that cannot be written to is told in one line: the score is known all the same.
    """
    folder = home(loaded)
    if folder is None:
        return
    before = read_evaluations(loaded)
    if _size(before.get(task, {})) > _size(entry):
        return
    try:
        write_text(folder / EVALUATIONS, json.dumps({**before, task: entry}, indent=2, allow_nan=False) + "\n")
    except (OSError, DiskFullError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.message
        logger.warning(f"the scores are not kept beside the model: {folder / EVALUATIONS}: {reason}")


def _size(entry: dict[str, Any]) -> int:
    return next((entry[name] for name in _SIZES if isinstance(entry.get(name), int)), 0)
