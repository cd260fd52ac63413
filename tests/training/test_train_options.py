"""A run of another architecture than GPT-2's: trained, resumed, and a start for the next one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import events, train

from nano_gpt.checkpoint.source import load_model
from nano_gpt.cli.main import run

OPTIONS = {"positions": "rope", "rope_theta": 500.0, "norm": "rmsnorm", "activation": "relu2"}
OPTIONS |= {"bias": False, "tied": False}
FLAGS = [word for name, value in OPTIONS.items() for word in ("--set", f"model.{name}={json.dumps(value)}")]


def test_options_last_through_runs(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("runs/first", *FLAGS, "--max-steps", "10") == 0
    assert run(["train", "--resume", "runs/first", "--max-steps", "12"]) == 0

    short = ["--device", "cpu", "--dtype", "fp32", "--total-batch-size", "128", "--max-steps", "1"]
    short += ["--sample-num-sequences", "0", "--set", "data.num_procs=1"]
    assert run(["train", "--pretrained", "runs/first", "--files", "fox.txt", "--run-dir", "runs/tuned", *short]) == 0
    tuned = load_model(checkpoint="runs/tuned").model.config
    assert {name: getattr(tuned, name) for name in OPTIONS} == OPTIONS
    first = next(event for event in events("runs/tuned") if event["kind"] == "train")
    last = [event for event in events("runs/first") if event["kind"] == "train"][-1]
    assert abs(first["loss"] - last["loss"]) < 0.5

    capsys.readouterr()
    assert train("runs/homeless", "--set", "model.norm=rmsnorm") == 1
    assert "norm layernorm (GPT-2), or positions rope (Arcee), would do" in capsys.readouterr().err
    assert not Path("runs/homeless").exists()
