"""What a run reports, once, to everyone who listens: the log, metrics.jsonl, the live line.

An event is a kind, a step and fields. The text form is the predecessor's, which notebooks parse:
`train: step: 3 | loss: 10.8080 | norm: 5.5525 | dt: 388.20ms | tok/sec: 1350554.78 | lr: 0.000003`; new fields are
appended, never put in between. A figure that is not known is `-` there, and null in JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nano_gpt.runtime.logs import logger
from nano_gpt.runtime.progress import clock


@dataclass(frozen=True)
class Event:
    """`fields` are JSON values; floats may be NaN or infinite here and become null in files."""

    kind: str
    step: int
    tokens: int
    fields: Mapping[str, Any]


class Listener(Protocol):
    def __call__(self, event: Event) -> None: ...

    def close(self) -> None: ...


class Metrics:
    """Hands every event to every listener. Ranks other than 0 have no listeners."""

    def __init__(self, tokens_before: Callable[[int], int]) -> None:
        """`tokens_before` tells how many tokens a run has trained on when it has made so many steps."""
        self._listeners: list[Listener] = []
        self._tokens_before = tokens_before

    def add(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def record(self, kind: str, step: int, **fields: Any) -> None:
        event = Event(kind, step, self._tokens_before(step), fields)
        for listener in self._listeners:
            listener(event)

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()


class JsonLines:
    """One object per line, flushed at once, so that a kill loses nothing that was told."""

    def __init__(self, path: Path, accepts: Callable[[str], bool]) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._accepts = accepts

    def __call__(self, event: Event) -> None:
        if self._accepts(event.kind):
            values = {"kind": event.kind, "step": event.step, "tokens": event.tokens, **event.fields}
            self._file.write(json.dumps({key: _finite(value) for key, value in values.items()}, allow_nan=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()


class LogLines:
    """The text form, through the logger. `train` lines can be left to the file when a live line shows them."""

    def __init__(self, *, train_on_console: bool) -> None:
        self._train_on_console = train_on_console

    def __call__(self, event: Event) -> None:
        file_only = event.kind == "train" and not self._train_on_console
        logger.info(text_form(event), extra={"file_only": file_only})

    def close(self) -> None: ...


_FORMS: dict[str, str] = {
    "loss": "{:.4f}", "norm": "{:.4f}", "dt": "{:.2f}ms", "tok/sec": "{:.2f}", "lr": "{:.6f}", "mfu": "{:.1%}",
    "accuracy": "{:.4f}", "bits_per_byte": "{:.4f}", "seconds": "{:.1f}",
    "stall_ms": "{:.0f}",
}  # fmt: skip
_UNSAID = {"memory_gb"}  # a line is long enough
_NAMES = {"tokens_per_second": "tok/sec", "dt_ms": "dt", "grad_norm": "norm"}


def text_form(event: Event) -> str:
    """The line of an event. HellaSwag's has no step, as ever."""
    if event.kind == "sample":
        return f"sample {event.fields['index']}: {event.fields['text']}"
    shown = {_NAMES.get(key, key): value for key, value in event.fields.items() if key not in _UNSAID}
    if event.kind != "hellaswag":
        shown = {"step": event.step, **shown}
    return f"{event.kind}: " + " | ".join(f"{name}: {_show(name, value)}" for name, value in shown.items())


def _show(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "eta":
        return clock(value)
    return _FORMS.get(name, "{:.4f}" if isinstance(value, float) else "{}").format(value)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
