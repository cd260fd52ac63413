"""The loop by itself, with a step that trains nothing: when it evaluates, saves and stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from nano_gpt.config import TrainingConfig, build
from nano_gpt.errors import Interrupted, NanoGPTError
from nano_gpt.runtime.signals import StopRequest
from nano_gpt.training.metrics import Metrics
from nano_gpt.training.state import RunState
from nano_gpt.training.step import StepResult
from nano_gpt.training.trainer import Trainer

Saved = list[tuple[int, bool, bool]]  # step, evaluated, best


class Loader:
    def batches(self, step: int) -> list[Any]:
        return []

    def num_targets(self, step: int) -> int:
        return 1


class Step:
    """`broken` is the step whose gradient is not a number."""

    device = torch.device("cpu")

    def __init__(self, broken: int | None) -> None:
        self._broken = broken

    def __call__(self, step: int, *_: Any) -> StepResult:
        return StepResult(torch.tensor(1.0), torch.tensor(float("nan") if step == self._broken else 1.0))


def trainer(
    state: RunState, saved: Saved, loss: Callable[[int], float] = lambda step: 9.0 - step, broken: int | None = None
) -> Trainer:
    """Eight steps, evaluated every 2nd and saved every 4th."""
    return Trainer(
        config=build(TrainingConfig, {"max_steps": 8, "checkpoint_steps": 4}),
        state=state,
        loader=Loader(),  # type: ignore[arg-type]
        train_step=Step(broken),  # type: ignore[arg-type]
        evaluations=[lambda state: state.record_validation(loss(state.step))],
        eval_steps=2,
        save=lambda state: saved.append((state.step, state.evaluated, state.claim_best())),
        metrics=Metrics(1),
        flops_per_token=1,
        peak_flops=None,
    )


def test_evaluates_then_saves() -> None:
    saved: Saved = []
    trainer(RunState(), saved).run()
    assert saved == [(4, True, True), (8, True, True)]


@pytest.mark.parametrize("stop_at", [4, 6, 7, 8])
def test_stopped_and_resumed_it_ends_in_the_same_state(stop_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop saves without evaluating. The checkpoint that was due then was never measured, nor marked as the best."""
    straight, state = RunState(), RunState()
    expected: Saved = []
    trainer(straight, expected).run()
    saved: Saved = []
    monkeypatch.setattr(StopRequest, "agreed", lambda self: state.step == stop_at)
    with pytest.raises(Interrupted, match=f"stopped after step {stop_at}, saved"):
        trainer(state, saved).run()
    assert saved.pop() == (stop_at, False, False)
    monkeypatch.setattr(StopRequest, "agreed", lambda self: False)
    trainer(state, saved).run()
    assert saved == expected
    assert state == straight


def test_a_model_that_has_diverged_is_not_saved() -> None:
    """The loss of a step is that before its update: what the update spoilt shows in the gradient and the validation."""
    saved: Saved = []
    with pytest.raises(NanoGPTError, match="gradient norm is nan at step 3: the run has diverged"):
        trainer(RunState(), saved, broken=3).run()
    with pytest.raises(NanoGPTError, match="validation loss is nan at step 4: the run has diverged"):
        trainer(RunState(), saved, loss=lambda step: float("nan") if step == 4 else 5.0).run()
    assert saved == []
