"""What is known of the run that made a checkpoint: from its training/state.json, and the run folder around it.

    RUN/config.yaml  RUN/metrics.jsonl  RUN/checkpoints/step_N/training/state.json

All of it is optional: an imported model has none, a checkpoint that was moved away has its state only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from nano_gpt.checkpoint.evaluations import read_evaluations
from nano_gpt.checkpoint.source import LoadedModel
from nano_gpt.checkpoint.store import run_of
from nano_gpt.config import RunConfig, build
from nano_gpt.config.loading import read_yaml
from nano_gpt.errors import ConfigError
from nano_gpt.runtime.logs import logger

Event = dict[str, Any]  # one line of metrics.jsonl


@dataclass(frozen=True)
class TrainingRecord:
    """What is known of the run that made a checkpoint; everything but the step may be missing."""

    step: int
    tokens: int | None = None
    validation_loss: float | None = None
    config: RunConfig | None = None
    validation: tuple[Event, ...] = ()
    """Validation losses up to this step, in order."""
    hellaswag: Event | None = None
    """The last HellaSwag score up to this step."""


def training_record(loaded: LoadedModel) -> TrainingRecord | None:
    """From the checkpoint's state and, where it lies in a run folder, from that run. None for an imported model."""
    state = loaded.trainer_state
    if state is None or loaded.folder is None or not isinstance(state.get("step"), int):
        return None
    step: int = state["step"]
    config, events = None, []
    run = run_of(loaded.folder)
    if run is not None:
        config = _run_config(run / "config.yaml")
        events = [event for event in _events(run / "metrics.jsonl") if event["step"] <= step]
    validation = [event for event in events if event["kind"] == "val" and is_number(event.get("loss"))]
    hellaswag = [event for event in events if event["kind"] == "hellaswag"]
    loss = state.get("validation_loss")
    if loss is None and validation:
        loss = validation[-1]["loss"]
    tokens = state.get("tokens")
    if tokens is None and config is not None:
        tokens = step * config.training.total_batch_size
    return TrainingRecord(
        step=step,
        tokens=tokens,
        validation_loss=float(loss) if is_number(loss) else None,
        config=config,
        validation=tuple(validation),
        hellaswag=hellaswag[-1] if hellaswag else None,
    )


def hellaswag_event(loaded: LoadedModel, record: TrainingRecord | None) -> Event | None:
    """The score on the most items: of `nano-gpt eval`, which is of these very weights, or of the run on its way."""
    saved = read_evaluations(loaded).get("hellaswag")
    own = record.hellaswag if record is not None else None
    sizes = [event["total"] if event and isinstance(event.get("total"), int) else 0 for event in (saved, own)]
    return saved if saved is not None and sizes[0] >= sizes[1] else own


def _run_config(path: Path) -> RunConfig | None:
    try:
        return build(RunConfig, read_yaml(path))
    except ConfigError as error:
        logger.warning(f"model card: {path} is not used: {error.message}")
        return None


def _events(path: Path) -> list[Event]:
    """The lines of metrics.jsonl that are whole; the last one of a killed run may not be."""
    if not path.is_file():
        return []
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("kind"), str) and isinstance(event.get("step"), int):
            events.append(event)
    return events


def is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
