"""What runs recorded, read back: from metrics.jsonl, samples.jsonl or a text log.

events = read_events(Path("runs/a"))
steps, losses = series(events, "val", "loss")
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nano_gpt.errors import CheckpointError

Record = dict[str, Any]  # a line of metrics.jsonl
Floats = npt.NDArray[np.float64]
XAxis = Literal["step", "tokens", "time"]

_LOG_LINE = re.compile(r"(train|val|hellaswag|sample|checkpoint)(?: (\d+))?: (.*)")
_LOG_PAIR = re.compile(r"([\w/]+): (\S+)")
_LOG_NAMES = {"norm": "grad_norm", "tok/sec": "tokens_per_second", "dt": "dt_ms"}


def read_events(source: Path) -> list[Record]:
    """The events of a run's folder (its metrics.jsonl), of a .jsonl or of a text log, in order, each of them once.

    A last line that a kill cut short is left out. Raises CheckpointError for what is missing, empty or damaged.
    """
    path = source / "metrics.jsonl" if source.is_dir() else source
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        if source.is_dir():
            raise CheckpointError(f"{source} is not a run folder: it has no metrics.jsonl") from None
        raise CheckpointError(f"there is no run {source}", "a run's folder, metrics.jsonl or train.log") from None
    except (OSError, UnicodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    is_json = path.suffix == ".jsonl"
    events = _as_it_went(_parse_json(path, lines) if is_json else _parse_log(lines))
    if not events:
        hint = None if is_json else "its lines do not look like `train: step: 3 | loss: 10.8080 | ...`"
        raise CheckpointError(f"there are no metrics in {path} yet", hint)
    return events


def _parse_json(path: Path, lines: list[str]) -> list[Record]:
    events: list[Record] = []
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
            _moment(event)
        except (ValueError, LookupError, TypeError):
            if number < len(lines):  # the last one has no line break: it is empty, or was cut short
                raise CheckpointError(f"{path} is damaged: line {number} is no event: {line[:60]!r}") from None
        else:
            events.append(event)
    return events


def _parse_log(lines: list[str]) -> list[Record]:
    """`train: step: 3 | loss: 10.8080 | norm: 5.5525 | dt: 388.20ms | ...`, with the names of metrics.jsonl.

    HellaSwag and samples come without a step: theirs is that of the evaluation.
    """
    events: list[Record] = []
    state = tokens_per_step = 0
    for line in lines:
        match = _LOG_LINE.fullmatch(line.rstrip("\r"))
        if match is None:
            if events and events[-1]["kind"] == "sample":  # it has as many lines as it likes
                events[-1]["text"] += f"\n{line}"
            continue
        kind, index, rest = match.groups()
        if kind == "sample":
            events.append({"kind": kind, "step": state, "index": int(index or 0), "text": rest})
            continue
        fields = {_LOG_NAMES.get(name, name): _number(value) for name, value in _LOG_PAIR.findall(rest)}
        step = fields.pop("step", None)
        state = state if step is None else round(step)
        if kind == "train":
            tokens_per_step = round((fields.get("dt_ms") or 0) / 1000 * (fields.get("tokens_per_second") or 0))
        tokens = state * tokens_per_step if tokens_per_step or state == 0 else None
        events.append({"kind": kind, "step": state, "tokens": tokens, **fields})
        state += kind == "train"
    return events


def _number(text: str) -> float | None:
    """Of `388.20ms` or `47.1%`; None for anything else, such as `-`."""
    try:
        value = float(text.removesuffix("ms").removesuffix("%"))
    except ValueError:
        return None
    return (value / 100 if text.endswith("%") else value) if math.isfinite(value) else None


def _as_it_went(events: Iterable[Record]) -> list[Record]:
    """Without what a run told twice because it was resumed from an earlier step: a text log still has that."""
    kept: list[Record] = []
    latest = (-1, False)
    told: set[tuple[str, int | None]] = set()  # at that moment
    for event in events:
        moment, what = _moment(event), (event["kind"], event.get("index"))
        if event["kind"] != "checkpoint":  # one is told of when it is written, some steps later
            if moment < latest or (moment == latest and what in told):
                kept = [past for past in kept if _moment(past) < moment]
                told.clear()
            elif moment > latest:
                told.clear()
            told.add(what)
            latest = moment
        kept.append(event)
    return kept


def _moment(event: Record) -> tuple[int, bool]:
    """Training step s makes the state s + 1; everything else at s is about the state s."""
    trains = event["kind"] == "train"
    return event["step"] + trains, not trains


def series(events: Sequence[Record], kind: str, field: str, x: XAxis = "step") -> tuple[Floats, Floats]:
    """x and values of one field, where both are known. Time is in hours of training."""
    at = _hours(events) if x == "time" else lambda event: event.get(x)
    points = [(at(event), event.get(field)) for event in events if event["kind"] == kind]
    known = [(here, value) for here, value in points if here is not None and value is not None]
    table = np.array(known, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _hours(events: Sequence[Record]) -> Callable[[Record], float | None]:
    """Steps times their `dt_ms`: without evaluations, checkpoints and pauses."""
    steps, milliseconds = series(events, "train", "dt_ms")
    if not len(steps):
        return lambda event: None
    ends = np.concatenate(([0.0], steps + 1))
    hours = np.concatenate(([0.0], np.cumsum(milliseconds * np.diff(ends)))) / 3.6e6
    return lambda event: float(np.interp(event["step"], ends, hours))


def smoothed(values: Floats, window: int) -> Floats:
    """Centred moving mean; over less at the beginning, where the loss is steep, and over the last half at the end."""
    index = np.arange(len(values))
    before = np.minimum(index // 4, window // 2)
    after = np.minimum(before, len(values) - 1 - index)
    sums = np.concatenate(([0.0], np.cumsum(values)))
    mean: Floats = (sums[index + after + 1] - sums[index - before]) / (before + after + 1)
    return mean
