"""Metrics to wandb, tensorboard or trackio, for those who watch runs there; metrics.jsonl has them in any case.

    metrics.add(make_tracker("wandb", run_dir=Path("runs/a"), config={...}))

Scalars are called `train/loss`, `val/loss`, `hellaswag/acc_norm`; samples are texts. A resumed run goes on in the same
place. A tracker never ends a run: whatever goes wrong with it is told once, and then it is off.
"""

from __future__ import annotations

import html
import json
import math
import os
import secrets
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Protocol

from nano_gpt.registry import unknown_name
from nano_gpt.runtime import files
from nano_gpt.runtime.logs import logger
from nano_gpt.training.metrics import Event, Listener

PROJECT = "nano-gpt"
PATIENCE = 20.0
"""Seconds that wandb may take to start, and to send what is left when the run ends; trackio has its own limit, 30."""
_NO_CURVES = ("checkpoint",)  # and told of late, when trackers that want rising steps are past it
_NO_SCALARS = ("eta",)


class Service(Protocol):
    """What a tracker is written for. Its package is imported when it is made; all of it may raise anything."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None: ...

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def text(self, step: int, name: str, text: str) -> None: ...

    def close(self) -> None: ...


def make_tracker(name: str, *, run_dir: Path, config: Mapping[str, Any]) -> Listener:
    """`config` are the settings to show beside the curves. Raises ConfigError for an unknown name, nothing else."""
    if name not in SERVICES:
        raise unknown_name("tracker", name, SERVICES)
    return Tracker(name, run_dir, config)


class Tracker:
    """A Listener that keeps the run from its service's trouble."""

    def __init__(self, name: str, run_dir: Path, config: Mapping[str, Any]) -> None:
        self._name = name
        self._service: Service | None = None
        try:
            self._service = SERVICES[name](run_dir, config)
        except ImportError as error:
            logger.warning(f"{name}: off, since {error}; pip install {name}; in a clone: script/setup track")
        except Exception as error:
            self._switch_off(error)

    def __call__(self, event: Event) -> None:
        if self._service is None or event.kind in _NO_CURVES:
            return
        try:
            if event.kind == "sample":
                self._service.text(event.step, f"sample/{event.fields['index']}", event.fields["text"])
            else:
                self._service.scalars(event.step, scalars(event))
        except Exception as error:
            self._switch_off(error)

    def close(self) -> None:
        if self._service is not None:
            try:
                self._service.close()
            except Exception as error:
                self._switch_off(error)

    def _switch_off(self, error: Exception) -> None:
        self._service = None
        reason = " ".join(str(error).split()) or type(error).__name__
        logger.warning(f"{self._name}: off from here on, since it failed: {reason}")


def scalars(event: Event) -> dict[str, float]:
    """The fields that make curves: finite numbers, `train/loss` and so on."""
    fields = {"tokens": event.tokens, **event.fields}
    return {
        f"{event.kind}/{name}": value
        for name, value in fields.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
        if math.isfinite(value) and name not in _NO_SCALARS
    }


def run_id(run_dir: Path) -> str:
    """The same whenever the run is resumed; no other run has it, also where its folder has the same name."""
    path = run_dir / "tracker_id"
    if not path.exists():
        files.write_text(path, f"{secrets.token_hex(4)}\n")
    return path.read_text(encoding="utf-8").strip()


class Wandb:
    """Weights & Biases. Without a login or a network the run is kept in its folder, for `wandb sync`."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        import wandb

        self._wandb = wandb
        options = {
            "project": os.environ.get("WANDB_PROJECT", PROJECT),
            "dir": run_dir,
            "id": run_id(run_dir),
            "name": run_dir.name,
            "config": dict(config),
            # Its capture of the console would send the live lines, over and over.
            "settings": wandb.Settings(
                init_timeout=PATIENCE, login_timeout=PATIENCE, finish_timeout=PATIENCE, console="off"
            ),
        }
        try:
            self._run = wandb.init(**options, resume="allow")
        except wandb.errors.Error as error:
            logger.warning(f"wandb: kept in {run_dir / 'wandb'} for `wandb sync`, since {str(error).splitlines()[0]}")
            wandb.teardown()  # it holds the id of what it could not begin
            self._run = wandb.init(**options, mode="offline")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._log(step, values)

    def text(self, step: int, name: str, text: str) -> None:
        self._log(step, {name: self._wandb.Html(f"<pre>{html.escape(text)}</pre>", inject=False)})

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        if step >= self._run.starting_step:  # what it has cannot be told again, and is the same
            self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class TensorBoard:
    """Event files in the run's folder: tensorboard --logdir runs"""

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._new_writer = SummaryWriter
        self._folder = run_dir / "tensorboard"
        self._config = json.dumps(config, indent=2)
        self._writer: SummaryWriter | None = None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._at(step).add_scalar(name, value, step)

    def text(self, step: int, name: str, text: str) -> None:
        self._at(step).add_text(name, _verbatim(text), step)

    def _at(self, step: int) -> Any:
        """The writer. Made when the first step is known: what an earlier start wrote after that step is hidden.

        Not of that step itself: its validation, which is not repeated, may be from before.
        """
        if self._writer is None:
            self._writer = self._new_writer(str(self._folder), purge_step=step + 1)
            self._writer.add_text("config", _verbatim(self._config), step)
        return self._writer

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Trackio:
    """Hugging Face's, on this machine unless TRACKIO_SPACE_ID names a Space: trackio show --project nano-gpt"""

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        import trackio

        self._trackio = trackio
        name = f"{run_dir.name}-{run_id(run_dir)}"
        with redirect_stdout(sys.stderr):  # it prints, and stdout is for results
            self._run = trackio.init(PROJECT, name=name, config=dict(config), resume="allow", embed=False)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        self._run.log({name: self._trackio.Markdown(_verbatim(text))}, step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._trackio.finish()


SERVICES: dict[str, type[Service]] = {"wandb": Wandb, "tensorboard": TensorBoard, "trackio": Trackio}


def _verbatim(text: str) -> str:
    """As a code block of Markdown."""
    return "".join(f"    {line}\n" for line in text.splitlines())
