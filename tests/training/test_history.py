"""What runs recorded is read back: both forms, whole, damaged and resumed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nano_gpt.errors import CheckpointError
from nano_gpt.training.history import Record, read_events, series, smoothed
from nano_gpt.training.metrics import Event, text_form

ROOT = Path(__file__).resolve().parents[2]
LOG = """\
model: 124M parameters
val: step: 0 | loss: 10.9246
hellaswag: accuracy: 0.2500 | total: 2000 | correct: 500
train: step: 0 | loss: 10.9184 | norm: 5.6690 | dt: 400.00ms | tok/sec: 1310720.00 | lr: 0.000001
train: step: 1 | loss: 10.8080 | norm: 5.5525 | dt: 400.00ms | tok/sec: 1310720.00 | lr: 0.000003 | mfu: 47.1%
val: step: 2 | loss: 9.5000
sample 0: First line
| second: line
sample 1: other
train: step: 2 | loss: nan | norm: - | dt: 400.00ms | tok/sec: 1310720.00 | lr: 0.000005
hellaswag: accuracy: 0.2600 | total: 2000 | correct: 520
"""


def lines(path: Path, *events: Record | str) -> Path:
    path.write_text("".join((event if isinstance(event, str) else json.dumps(event)) + "\n" for event in events))
    return path


def train(step: int, loss: float = 1.0) -> Record:
    return {"kind": "train", "step": step, "loss": loss}


def val(step: int, loss: float = 1.0) -> Record:
    return {"kind": "val", "step": step, "loss": loss}


def test_the_predecessors_text_form(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text(LOG)
    events = read_events(path)
    assert [(event["kind"], event["step"]) for event in events] == [
        ("val", 0), ("hellaswag", 0), ("train", 0), ("train", 1), ("val", 2), ("sample", 2), ("sample", 2),
        ("train", 2), ("hellaswag", 3),
    ]  # fmt: skip
    assert events[3] == {
        "kind": "train", "step": 1, "tokens": 2**19, "loss": 10.808, "grad_norm": 5.5525, "dt_ms": 400.0,
        "tokens_per_second": 1310720.0, "lr": 3e-6, "mfu": pytest.approx(0.471),
    }  # fmt: skip
    assert events[5]["text"] == "First line\n| second: line"
    assert events[7]["loss"] is None


def test_a_log_and_its_metrics_tell_the_same() -> None:
    folder = ROOT / "artifacts" / "shakespeare_char"
    exact, rounded = read_events(folder), read_events(folder / "train.log")
    for kind, field in (("train", "loss"), ("train", "grad_norm"), ("val", "loss"), ("train", "tokens_per_second")):
        steps, values = series(exact, kind, field)
        assert len(steps) > 8
        assert steps.tolist() == series(rounded, kind, field)[0].tolist()
        np.testing.assert_allclose(series(rounded, kind, field)[1], values, rtol=1e-4)
    np.testing.assert_allclose(
        series(rounded, "train", "loss", "tokens")[0], series(exact, "train", "loss", "tokens")[0], rtol=2e-3
    )


def test_our_text_form_is_read_back(tmp_path: Path) -> None:
    """Whatever `text_form` appends in time must not break the reading of it."""
    fields = {"loss": 2.5, "grad_norm": 0.5, "dt_ms": 10.0, "tokens_per_second": 51200.0, "lr": 1e-3, "mfu": None}
    path = tmp_path / "a.log"
    path.write_text(text_form(Event("train", 7, 0, {**fields, "eta": 1.0, "skipped": 3})) + "\n")
    (event,) = read_events(path)
    assert {key: event[key] for key in fields} == fields
    assert (event["step"], event["tokens"], event["skipped"]) == (7, 7 * 512, 3)


def test_what_a_resumed_run_repeats_counts_once(tmp_path: Path) -> None:
    """Killed after step 5, resumed from step 3, which was evaluated before: its validation is not repeated."""
    first = [train(s, loss=9.0) for s in range(3)] + [val(3, 9.0)] + [train(s, loss=9.0) for s in range(3, 6)]
    again = [train(s) for s in range(3, 5)] + [{"kind": "checkpoint", "step": 3}, val(5)]
    events = read_events(lines(tmp_path / "m.jsonl", *first, *again))
    assert [event["step"] for event in events if event["kind"] == "train"] == [0, 1, 2, 3, 4]
    assert series(events, "train", "loss")[1].tolist() == [9, 9, 9, 1, 1]
    assert series(events, "val", "loss")[0].tolist() == [3, 5]
    # Stopped by a signal before the evaluation at 3, which is then the first thing that is told again.
    events = read_events(lines(tmp_path / "n.jsonl", *first, val(3), train(3)))
    assert [(event["kind"], event["step"], event["loss"]) for event in events[2:]] == [
        ("train", 2, 9.0), ("val", 3, 1.0), ("train", 3, 1.0)
    ]  # fmt: skip
    # Killed right behind the evaluation: nothing goes back, but it is told twice.
    assert len(read_events(lines(tmp_path / "o.jsonl", train(0), val(1, 9.0), val(1)))) == 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.jsonl", "", "no metrics in .* yet"),
        ("metrics.jsonl", '{"kind": "tra', "no metrics in .* yet"),
        ("metrics.jsonl", '{"kind": "train", "step": 0}\n{"kind": "tr\n{"kind": "train", "step": 1}\n', "line 2 is no"),
        ("metrics.jsonl", '{"step": 0}\n\n', "line 1 is no event"),
        ("metrics.jsonl", "[1]\n\n", "line 1 is no event"),
        ("notes.txt", "nothing of ours\n", "no metrics in .* yet"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_events(tmp_path if name == "metrics.jsonl" else tmp_path / name)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no run"):
        read_events(tmp_path / "runs" / "typo")
    with pytest.raises(CheckpointError, match=r"no metrics\.jsonl"):
        read_events(tmp_path)
    (tmp_path / "binary.log").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_events(tmp_path / "binary.log")


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    path = lines(tmp_path / "m.jsonl", train(0))
    path.write_text(path.read_text() + '{"kind": "train", "step": 1, "lo')
    assert [event["step"] for event in read_events(path)] == [0]


def test_hours_are_those_of_training_steps() -> None:
    """Every tenth step is logged, with the mean time of the ten: an hour each."""
    events = [{**train(9), "dt_ms": 3.6e5}, {**train(19), "dt_ms": 3.6e5}, val(15), val(20)]
    assert series(events, "val", "loss", "time")[0].tolist() == [1.5, 2.0]
    assert series(events, "train", "loss", "time")[0].tolist() == pytest.approx([0.9, 1.9])
    assert not len(series([train(0)], "train", "loss", "time")[0])


def test_smoothing_keeps_a_line_and_lessens_noise() -> None:
    line = np.linspace(5.0, 1.0, 100)
    assert smoothed(line, 20)[:90] == pytest.approx(line[:90])
    noise = np.random.default_rng(0).normal(size=1000)
    assert smoothed(noise, 50)[200:].std() < 0.25 * noise.std()
    assert smoothed(noise, 1).tolist() == pytest.approx(noise.tolist())
    assert not len(smoothed(np.array([]), 5))
