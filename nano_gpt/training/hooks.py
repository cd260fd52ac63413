"""What hangs on the loop: each watches the run and may ask it to stop.

A hook that must remember something over a restart has `state_dict` and `load_state_dict`, as JSON.
"""

from __future__ import annotations

import math
import time
from typing import Any

from nano_gpt.runtime.signals import Stop, StopRequest
from nano_gpt.training.ema import WeightAverage
from nano_gpt.training.state import RunState
from nano_gpt.training.step import StepResult


class Hook:
    """Does nothing: override what is needed."""

    name: str

    def after_step(self, state: RunState, result: StepResult) -> None:
        """`state.step` counts the step already."""

    def after_evaluation(self, state: RunState) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, values: dict[str, Any]) -> None: ...


class StepLimit(Hook):
    """Stops the run when it has made `steps`, whatever it was planned for."""

    name = "step_limit"

    def __init__(self, steps: int, stop: StopRequest) -> None:
        self._steps = steps
        self._stop = stop

    def after_step(self, state: RunState, result: StepResult) -> None:
        if state.step >= self._steps:
            self._stop.ask(Stop.STEPS)


class TimeLimit(Hook):
    """Stops the run `seconds` after it was made."""

    name = "time_limit"

    def __init__(self, seconds: float, stop: StopRequest) -> None:
        self._end = time.monotonic() + seconds
        self._stop = stop

    def after_step(self, state: RunState, result: StepResult) -> None:
        if time.monotonic() >= self._end:
            self._stop.ask(Stop.TIME)


class EarlyStop(Hook):
    """Stops the run after `patience` evaluations without a lower validation loss."""

    name = "early_stop"

    def __init__(self, patience: int, stop: StopRequest) -> None:
        self._patience = patience
        self._stop = stop
        self._best = math.inf
        self._worse = 0

    def after_evaluation(self, state: RunState) -> None:
        if state.validation_loss is None:
            return
        self._worse = self._worse + 1 if state.validation_loss >= self._best else 0
        self._best = min(self._best, state.validation_loss)
        if self._worse >= self._patience:
            self._stop.ask(Stop.NO_PROGRESS)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best if math.isfinite(self._best) else None, "worse": self._worse}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        self._best = math.inf if values["best"] is None else values["best"]
        self._worse = values["worse"]


class Averaging(Hook):
    """Moves the average of the weights along. Its tensors are saved apart, as a model (checkpointing.py)."""

    name = "average"

    def __init__(self, average: WeightAverage) -> None:
        self._average = average

    def after_step(self, state: RunState, result: StepResult) -> None:
        self._average.update(result.skip)

    def state_dict(self) -> dict[str, Any]:
        return self._average.state_dict()

    def load_state_dict(self, values: dict[str, Any]) -> None:
        self._average.load_state_dict(values)
