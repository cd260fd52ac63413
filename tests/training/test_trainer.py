"""The loop by itself, with a step that trains nothing: when it evaluates, saves and stops."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any

import pytest
import torch

from nano_gpt.config import TrainingConfig, build
from nano_gpt.data.loader import Batch
from nano_gpt.errors import NanoGPTError
from nano_gpt.runtime.distributed import Ranks
from nano_gpt.runtime.signals import Stop, StopRequest
from nano_gpt.training.guard import StepGuard
from nano_gpt.training.hooks import EarlyStop, Hook, StepLimit, TimeLimit
from nano_gpt.training.metrics import Metrics
from nano_gpt.training.state import RunState
from nano_gpt.training.step import OutOfMemory, StepResult
from nano_gpt.training.trainer import Trainer

Saved = list[tuple[int, bool, bool]]  # step, evaluated, best
CPU = torch.device("cpu")


class Loader:
    rows = 4

    def batches(self, step: int) -> list[Any]:
        return [Batch(torch.zeros(self.rows, 1), torch.zeros(self.rows, 1))]

    def num_targets(self, step: int) -> int:
        return 1

    def num_tokens(self, step: int) -> int:
        return 1

    def with_micro_batch_size(self, rows: int) -> Loader:
        loader = Loader()
        loader.rows = rows
        return loader


class Step:
    """`broken` are the steps whose gradient is not a number; more rows than `room` do not fit."""

    device = CPU

    def __init__(self, broken: Collection[int], room: int, ranks: int) -> None:
        self.guard = StepGuard(CPU)
        self.ranks = Ranks(world_size=ranks)
        self._broken = broken
        self._room = room

    def __call__(self, step: int, batches: list[Batch], *_: Any) -> StepResult:
        if len(batches[0].ids) > self._room:
            raise OutOfMemory(CPU, len(batches[0].ids), again=True)
        loss, norm = torch.tensor(1.0), torch.tensor(float("nan") if step in self._broken else 1.0)
        return StepResult(loss, norm, self.guard.judge(loss, norm))


class Checkpoints:
    def __init__(self, saved: Saved) -> None:
        self._saved = saved
        self.finished = 0

    def save(self, state: RunState) -> None:
        self._saved.append((state.step, state.evaluated, state.claim_best()))

    def poll(self) -> None: ...

    def finish(self) -> None:
        self.finished += 1


def trainer(
    state: RunState,
    saved: Saved,
    loss: Callable[[int], float] = lambda step: 9.0 - step,
    broken: Collection[int] = (),
    room: int = 4,
    ranks: int = 1,
    hooks: Callable[[StopRequest], list[Hook]] = lambda stop: [],
    **settings: Any,
) -> Trainer:
    """Eight steps, evaluated every 2nd and saved every 4th."""
    stop = StopRequest()
    return Trainer(
        config=build(TrainingConfig, {"max_steps": 8, "checkpoint_steps": 4, **settings}),
        state=state,
        loader=Loader(),  # type: ignore[arg-type]
        train_step=Step(broken, room, ranks),  # type: ignore[arg-type]
        evaluations=[lambda state: state.record_validation(loss(state.step))],
        eval_steps=2,
        hooks=hooks(stop),
        checkpointer=Checkpoints(saved),
        stop=stop,
        metrics=Metrics(lambda step: step),
        flops_per_token=1,
        peak_flops=None,
    )


def test_evaluates_then_saves() -> None:
    saved: Saved = []
    run = trainer(RunState(), saved)
    assert run.run() is None
    assert saved == [(4, True, True), (8, True, True)]
    assert run.checkpointer.finished == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("stop_at", [4, 6, 7, 8])
def test_stopped_and_resumed_it_ends_in_the_same_state(stop_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop saves without evaluating. The checkpoint that was due then was never measured, nor marked as the best."""
    straight, state = RunState(), RunState()
    expected: Saved = []
    trainer(straight, expected).run()
    saved: Saved = []
    monkeypatch.setattr(StopRequest, "agreed", lambda self: Stop.TERM if state.step == stop_at else None)
    assert trainer(state, saved).run() == Stop.TERM
    assert saved.pop() == (stop_at, False, False)
    monkeypatch.setattr(StopRequest, "agreed", lambda self: None)
    trainer(state, saved).run()
    assert saved == expected
    assert state == straight


def test_a_hook_stops_the_run_after_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: Saved = []
    assert trainer(RunState(), saved, hooks=lambda stop: [StepLimit(3, stop)]).run() == Stop.STEPS
    assert saved == [(3, False, False)]
    times = iter(range(100))
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    saved.clear()
    assert trainer(RunState(), saved, hooks=lambda stop: [TimeLimit(5.0, stop)]).run() == Stop.TIME
    assert saved[-1][0] == 5


def test_an_early_stop_is_at_the_evaluation_that_shows_it() -> None:
    saved: Saved = []
    losses = {0: 5.0, 2: 4.0, 4: 4.5, 6: 4.2, 8: 1.0}
    hooks: list[Hook] = []

    def early(stop: StopRequest) -> list[Hook]:
        hooks[:] = [EarlyStop(2, stop)]
        return hooks

    assert trainer(RunState(), saved, losses.__getitem__, hooks=early).run() == Stop.NO_PROGRESS
    assert saved == [(4, True, True), (6, True, True)]
    assert hooks[0].state_dict() == {"best": 4.0, "worse": 2}
    resumed = EarlyStop(2, StopRequest())
    resumed.load_state_dict(hooks[0].state_dict())
    assert resumed.state_dict() == hooks[0].state_dict()
    assert trainer(RunState(), saved, hooks=early).run() is None


def test_bad_steps_are_told_and_too_many_in_a_row_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("nano_gpt").propagate = True
    saved: Saved = []
    state = RunState()
    trainer(state, saved, broken=(1, 5, 6), max_skipped_steps=3).run()
    assert state.skipped_told == 3 and state.step == 8
    assert "1 step up to 1 skipped" in caplog.text
    with pytest.raises(NanoGPTError, match="the last 3 steps up to 7 had no good loss or gradient"):
        trainer(RunState(), saved, broken=(5, 6, 7), max_skipped_steps=3).run()
    with pytest.raises(NanoGPTError, match="the last 4 steps up to 4"):  # it looks every other step only
        trainer(RunState(), saved, broken=(1, 2, 3, 4), max_skipped_steps=3, log_steps=2).run()


def test_a_model_that_gives_no_number_is_not_saved() -> None:
    saved: Saved = []
    with pytest.raises(NanoGPTError, match="validation loss is nan at step 4: the run has diverged"):
        trainer(RunState(), saved, loss=lambda step: float("nan") if step == 4 else 5.0).run()
    assert saved == []


def test_too_little_memory_halves_the_micro_batch_and_repeats_the_step(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("nano_gpt").propagate = True
    saved: Saved = []
    run = trainer(RunState(), saved, room=1)
    run.run()
    assert run.state.step == 8 and run.loader.rows == 1  # type: ignore[attr-defined]
    assert "going on with 2" in caplog.text and "going on with 1" in caplog.text
    with pytest.raises(OutOfMemory, match="micro-batches of 1 windows"):
        trainer(RunState(), saved, room=0).run()
    with pytest.raises(OutOfMemory, match="micro-batches of 4 windows"):  # the other ranks could not follow
        trainer(RunState(), saved, room=1, ranks=2).run()
