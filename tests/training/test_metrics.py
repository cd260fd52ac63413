"""One event, three readers: the predecessor's text form, JSON lines, and what a resumed run keeps."""

from __future__ import annotations

import json
from pathlib import Path

from nano_gpt.config import resolve
from nano_gpt.training.metrics import Event, JsonLines, Metrics, text_form
from nano_gpt.training.run_folder import RunFolder
from nano_gpt.training.state import RunState

TRAIN = {"loss": 10.80801, "grad_norm": 5.55249, "dt_ms": 388.2, "tokens_per_second": 1350554.78, "lr": 3.36e-6}


def test_text_forms_are_the_predecessors() -> None:
    train = text_form(Event("train", 3, 0, {**TRAIN, "mfu": None, "eta": 3723.0}))
    old, new = train.split(" | mfu")
    assert old == ("train: step: 3 | loss: 10.8080 | norm: 5.5525 | dt: 388.20ms | tok/sec: 1350554.78 | lr: 0.000003")
    assert new == ": - | eta: 1:02:03"
    assert text_form(Event("val", 0, 0, {"loss": 10.92461})) == "val: step: 0 | loss: 10.9246"
    hellaswag = text_form(Event("hellaswag", 250, 0, {"accuracy": 0.356, "total": 2000, "correct": 712}))
    assert hellaswag == "hellaswag: accuracy: 0.3560 | total: 2000 | correct: 712"


def test_json_lines_never_hold_nan(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "m.jsonl", lambda kind: kind != "sample")
    metrics = Metrics(lambda step: 512 * step)
    metrics.add(lines)
    metrics.record("train", 2, loss=float("nan"), grad_norm=float("inf"))
    metrics.record("sample", 2, text="not here")
    metrics.close()
    (line,) = (tmp_path / "m.jsonl").read_text().splitlines()
    assert json.loads(line) == {"kind": "train", "step": 2, "tokens": 1024, "loss": None, "grad_norm": None}


def test_a_resumed_run_keeps_only_what_happened_before(tmp_path: Path) -> None:
    """After 10 updates: training steps 0 to 9 and the validation at 10 stay; a line cut short by a kill goes.

    A run that a signal stopped before the validation at 10 makes it again, so then that goes too.
    """
    folder = RunFolder(tmp_path, resolve())
    events = [{"kind": "train", "step": step} for step in range(13)] + [
        {"kind": "val", "step": step} for step in (0, 10, 12)
    ]
    folder.metrics_file.write_text("".join(json.dumps(event) + "\n" for event in events) + '{"kind": "tra')
    folder.begin(resolve(), RunState(step=10, evaluated=True))
    kept = [json.loads(line) for line in folder.metrics_file.read_text().splitlines()]
    assert [event["step"] for event in kept if event["kind"] == "train"] == list(range(10))
    assert [event["step"] for event in kept if event["kind"] == "val"] == [0, 10]
    assert len(kept) == 12
    folder.begin(resolve(), RunState(step=10, evaluated=False))
    assert folder.metrics_file.read_text() == "".join(json.dumps(event) + "\n" for event in kept[:-1])
