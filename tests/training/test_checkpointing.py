"""Checkpoints that are written while training goes on: what is in them, and what happens when that fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nano_gpt.checkpoint import store as checkpoints
from nano_gpt.checkpoint.store import CheckpointStore
from nano_gpt.config import GPTConfig, RunConfig, build
from nano_gpt.config.training import OptimizerConfig
from nano_gpt.errors import CheckpointError
from nano_gpt.model.gpt import GPT
from nano_gpt.runtime.distributed import Ranks
from nano_gpt.runtime.files import DiskFullError
from nano_gpt.tokenizer import load_tokenizer
from nano_gpt.training import checkpointing
from nano_gpt.training.checkpointing import Checkpointer
from nano_gpt.training.ema import WeightAverage
from nano_gpt.training.metrics import Event, Metrics
from nano_gpt.training.optim import build_optimizer
from nano_gpt.training.state import RunState
from nano_gpt.training.strategies import Strategy

CONFIG = build(RunConfig, {"model": {"vocab_size": 257, "n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2}})


class Listening:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None: ...


class Part:
    """Something that remembers a number."""

    number = 1

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        self.number = values["number"]


def checkpointer(folder: Path, *, averaged: bool = True, seed: int = 0) -> tuple[Checkpointer, Listening]:
    torch.manual_seed(seed)
    model = GPT(CONFIG.model)
    optimizer = build_optimizer(model, OptimizerConfig())
    model(torch.zeros(1, 8, dtype=torch.int64)).sum().backward()
    optimizer.step()
    metrics, listening = Metrics(lambda step: 8 * step), Listening()
    metrics.add(listening)
    made = Checkpointer(
        config=CONFIG,
        store=CheckpointStore(folder, keep=3),
        strategy=Strategy(model, model, Ranks(), torch.device("cpu")),
        optimizer=optimizer,
        average=WeightAverage(model, 0.9) if averaged else None,
        parts={"part": Part()},
        tokenizer=load_tokenizer("byte"),
        metrics=metrics,
        ranks=Ranks(),
        tokens_before=lambda step: 8 * step,
    )
    return made, listening


def weights(made: Checkpointer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in made.strategy.model.state_dict().items()}


def test_what_is_saved_is_the_moment_of_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on, and changes the weights, before the thread has written the first byte."""
    made, listening = checkpointer(tmp_path)
    go, write = threading.Event(), CheckpointStore.save

    def late(self: CheckpointStore, *arguments: Any, **named: Any) -> Path:
        assert go.wait(20)
        return write(self, *arguments, **named)

    monkeypatch.setattr(CheckpointStore, "save", late)
    expected = weights(made)
    state = RunState(step=5, data_fingerprint="x", validation_loss=2.0, validation_step=5)
    made.save(state)
    made.poll()
    assert listening.events == [], "it is not written yet"
    with torch.no_grad():
        for tensor in made.strategy.model.state_dict().values():
            tensor.zero_()
    state.advance()
    go.set()
    made.finish()
    (event,) = listening.events
    assert (event.step, event.tokens, event.fields["best"]) == (5, 40, True)
    assert event.fields["stall_ms"] >= 0 and event.fields["path"] == str(tmp_path / "step_000005")

    saved = checkpoints.load(tmp_path / "step_000005")
    assert saved.state["step"] == 5 and saved.state["tokens"] == 40
    assert all(torch.equal(tensor, saved.model[name]) for name, tensor in expected.items())
    assert saved.average is not None

    other, _ = checkpointer(tmp_path, seed=1)
    part = other.parts["part"]
    assert isinstance(part, Part)
    part.number = 7
    resumed = RunState(data_fingerprint="x")
    other.restore(resumed, tmp_path / "step_000005")
    assert resumed.step == 5 and part.number == 1
    assert all(torch.equal(tensor, weights(other)[name]) for name, tensor in expected.items())
    assert other.average is not None
    assert all(torch.equal(tensor, saved.average[name]) for name, tensor in other.average.tensors().items())


def test_no_thread_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one that has written all and gives its memory back: it could abort a process that ends meanwhile."""

    class Held:
        def __del__(self) -> None:
            time.sleep(0.3)

    made, _ = checkpointer(tmp_path)
    in_background = checkpointing._in_background

    def holding(work: Callable[[], Any]) -> Any:
        held = Held()
        return in_background(lambda: (work(), held)[0])

    monkeypatch.setattr(checkpointing, "_in_background", holding)
    made.save(RunState(step=5, data_fingerprint="x"))
    made.finish()
    assert not [thread for thread in threading.enumerate() if thread.name == "checkpoint"]


def test_a_full_disk_is_told_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, listening = checkpointer(tmp_path)

    def full(*_: Any, **named: Any) -> Path:
        raise DiskFullError("the disk is full: step_000005 was not written", "free some space")

    state = RunState(step=4, validation_loss=3.0, validation_step=4)
    made.save(state)
    with monkeypatch.context() as patched:
        patched.setattr(CheckpointStore, "save", full)
        state.advance()
        state.record_validation(2.5)
        made.save(state)
        assert state.best_validation_loss == 2.5
        state.advance()
        made.save(state)  # the one before has failed, which must not end the run
        assert [event.step for event in listening.events] == [4]
        assert state.best_validation_loss == 3.0, "what was not written is no mark to beat"
        with pytest.raises(DiskFullError):
            made.finish()  # the last one has failed too, and there will be no further one
    state.record_validation(2.9)
    made.save(state)
    made.finish()
    assert listening.events[-1].fields["best"] is True


def test_what_belongs_to_another_run_is_refused(tmp_path: Path) -> None:
    made, _ = checkpointer(tmp_path, averaged=False)
    made.save(RunState(step=1, data_fingerprint="x"))
    made.finish()
    before = weights(made)
    other, _ = checkpointer(tmp_path, seed=1)
    with pytest.raises(CheckpointError, match="is not the one that"):
        other.restore(RunState(data_fingerprint="y"), tmp_path / "step_000001")
    assert any(not torch.equal(before[name], tensor) for name, tensor in weights(other).items())
    other.restore(RunState(data_fingerprint="x"), tmp_path / "step_000001")  # without an average: it begins here
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(other).items())


def test_the_average_is_a_model_folder_of_its_own(tmp_path: Path) -> None:
    from nano_gpt.checkpoint.source import load_model

    made, _ = checkpointer(tmp_path)
    made.save(RunState(step=1))
    made.finish()
    averaged = load_model(checkpoint=tmp_path / "step_000001" / "ema").model
    assert isinstance(averaged.config, GPTConfig)
    assert made.average is not None
    assert all(torch.equal(averaged.state_dict()[name], tensor) for name, tensor in made.average.tensors().items())
