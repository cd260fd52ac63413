"""Whole runs through the command: what they leave behind, that they resume exactly, and that ranks do not matter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
import yaml
from running import LONGER, SETTINGS, TEXT, command, events, train, weights

from nano_gpt.cli.main import run


def test_a_run_leaves_all_that_it_promises(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("runs/a", "--json") == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["step"] == 24
    run_dir = Path("runs/a")
    for name in (
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "samples.jsonl",
        "train.log",
        "checkpoints/latest",
    ):
        assert (run_dir / name).is_file(), name
    log = (run_dir / "train.log").read_text()
    assert log.startswith("model: 10,960 parameters")
    assert "train: step: 3 | loss: " in log and "val: step: 24 | loss: " in log and "sample 0: line" in log

    recorded = events("runs/a")
    losses = [event["loss"] for event in recorded if event["kind"] == "train"]
    validation = {event["step"]: event["loss"] for event in recorded if event["kind"] == "val"}
    assert len(losses) == 24
    assert list(validation) == [0, 8, 16, 24]
    assert 5.3 < validation[0] < 5.8  # ln(257) = 5.55
    assert validation[24] < validation[0] - 0.5
    # The last update is in the last checkpoint (the predecessor saved before it).
    assert (run_dir / "checkpoints/latest").read_text() == "step_000024\n"
    state = json.loads((run_dir / "checkpoints/step_000024/training/state.json").read_text())
    about = json.loads((run_dir / "environment.json").read_text())
    assert about["torch"] == torch.__version__ and about["data_fingerprint"] == state["data_fingerprint"] != ""
    assert state["step"] == 24 and state["tokens"] == 24 * 128 and state["validation_loss"] == validation[24]


def test_a_run_is_repeatable_and_its_own_config_repeats_it(workplace: Path) -> None:
    assert train("runs/a") == 0
    assert run(["train", "--config", "runs/a/config.yaml", "--run-dir", "runs/b"]) == 0
    assert events("runs/a") == events("runs/b")
    assert weights("runs/a", 24) == weights("runs/b", 24)


def test_kill_9_and_resume_equals_straight_on(workplace: Path) -> None:
    assert train("runs/straight", *LONGER) == 0
    arguments = ["--config", "fox.yaml", "--run-dir", "runs/killed", *LONGER]
    process = subprocess.Popen(command(*arguments), stderr=subprocess.DEVNULL)
    latest = Path("runs/killed/checkpoints/latest")
    while process.poll() is None and not (latest.exists() and latest.read_text() >= "step_000010"):
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert run(["train", "--resume", "--run-dir", "runs/killed"]) == 0
    assert events("runs/killed") == events("runs/straight")
    assert weights("runs/killed", 60) == weights("runs/straight", 60)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_resume_equals_straight_on(workplace: Path, number: signal.Signals, code: int) -> None:
    assert train("runs/straight", *LONGER) == 0
    process = subprocess.Popen(
        command("--config", "fox.yaml", "--run-dir", "runs/stopped", *LONGER), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr
    for line in process.stderr:
        if line.startswith("train: step: 6"):
            process.send_signal(number)
            break
    rest = process.stderr.read()
    assert process.wait() == code, rest
    assert "stopped after step" in rest and "Traceback" not in rest
    assert run(["train", "--resume", "--run-dir", "runs/stopped"]) == 0
    assert events("runs/stopped") == events("runs/straight")
    assert weights("runs/stopped", 60) == weights("runs/straight", 60)


def test_two_ranks_equal_one_and_a_run_moves_between_them(workplace: Path) -> None:
    plain = ["--config", "fox.yaml", "--set", "model.dropout=0"]
    assert run(["train", *plain, "--run-dir", "runs/one"]) == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    half = subprocess.run(
        command(*plain, "--run-dir", "runs/two", "--set", "training.max_steps=24", ranks=2),
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert half.returncode == 0, half.stderr
    assert half.stderr.count("train: step: 0 |") == 1  # rank 0 alone speaks
    one, two = events("runs/one"), events("runs/two")
    assert len(one) == len(two)
    for single, double in zip(one, two, strict=True):
        assert single["kind"] == double["kind"] and single["step"] == double["step"]
        for key in ("loss", "grad_norm", "lr"):
            if key in single:
                assert double[key] == pytest.approx(single[key], rel=1e-4), (single, double)
    # Back to one rank from the middle of the run of two.
    assert run(["train", "--resume", "runs/two/checkpoints/step_000020"]) == 0
    assert events("runs/two")[-2]["loss"] == pytest.approx(one[-2]["loss"], rel=1e-4)


def test_a_damaged_checkpoint_is_passed_over(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("runs/a") == 0
    straight = events("runs/a")
    broken = Path("runs/a/checkpoints/step_000024/model.safetensors")
    broken.write_bytes(broken.read_bytes()[:-5])
    assert run(["train", "--resume"]) == 0
    assert "model.safetensors holds" in capsys.readouterr().err
    assert events("runs/a") == straight


def test_a_run_killed_before_its_first_checkpoint_starts_anew(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = ("--max-steps", "60", "--checkpoint-steps", "60")
    assert train("runs/straight", *late) == 0
    arguments = ["--config", "fox.yaml", "--run-dir", "runs/killed", *late]
    process = subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, text=True)
    assert process.stderr
    for line in process.stderr:
        if line.startswith("train: step: 3 "):
            break
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert events("runs/killed")
    capsys.readouterr()
    assert run(["sample", "--checkpoint", "runs/killed"]) == 1
    assert "has no checkpoint in" in capsys.readouterr().err
    assert run(["train", "--resume"]) == 0
    assert "runs/killed was stopped before its first checkpoint: starting at step 0" in capsys.readouterr().err
    assert events("runs/killed") == events("runs/straight")
    assert weights("runs/killed", 60) == weights("runs/straight", 60)


def test_checkpoints_in_another_folder(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("runs/straight") == 0
    assert train("runs/a", "--checkpoint-dir", "disk") == 0
    assert not Path("runs/a/checkpoints").exists()
    assert "next: nano-gpt sample --checkpoint runs/a" in capsys.readouterr().err
    short = ["--max-length", "12", "--num-sequences", "1", "--device", "cpu"]
    for named in (["--checkpoint", "runs/a"], ["--checkpoint", "disk/step_000020"], []):  # without a name the newest
        assert run(["sample", *named, *short]) == 0, named
        assert "line" in capsys.readouterr().out  # the run's prompt
    assert run(["eval", "--checkpoint", "runs/a", "--hellaswag-samples", "0", "--device", "cpu"]) == 0
    assert run(["export", "--checkpoint", "runs/a", "--export-dir", "exported"]) == 0

    assert run(["train", "--resume", "disk/step_000020"]) == 0
    assert Path("disk/abandoned_step_000024").is_dir()
    assert events("runs/a") == events("runs/straight")
    Path("runs/a").rename("runs/moved")
    capsys.readouterr()
    assert run(["sample", "--checkpoint", "disk/step_000024", *short]) == 0
    assert "line" in capsys.readouterr().out, "its own copy of the settings"
    assert run(["train", "--resume", "runs/moved", "--max-steps", "25"]) == 0
    assert Path("disk/run").read_text() == f"{workplace / 'runs' / 'moved'}\n"

    capsys.readouterr()
    assert train("runs/b", "--checkpoint-dir", "disk") == 1
    assert "disk already holds checkpoints" in capsys.readouterr().err
    assert run(["train", "--resume", "runs/moved", "--checkpoint-dir", "new", "--max-steps", "26"]) == 0
    assert Path("new/step_000026").is_dir() and Path("disk/step_000025").is_dir()
    assert run(["sample", "--checkpoint", "runs/moved", *short]) == 0


def test_a_run_goes_on_where_only_its_prepared_set_is_left(workplace: Path) -> None:
    assert train("runs/a", "--max-steps", "5") == 0
    Path("fox.txt").unlink()
    assert run(["train", "--resume", "--max-steps", "6"]) == 0
    assert run(["train", "--config", "fox.yaml", "--run-dir", "runs/b"]) == 1  # a new run wants its text


def test_mistakes_are_one_line(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("runs/a", "--max-steps", "2") == 0
    capsys.readouterr()
    mistakes = {
        ("--run-dir", "runs/a"): (1, "already holds a run"),
        ("--run-dir", "b", "--micro-batch-size", "3"): (1, "--micro-batch-size 2 or 4"),
        ("--run-dir", "b", "--total-batch-size", "100"): (1, "not a multiple"),
        ("--run-dir", "b", "--set", "model.n_head=3"): (1, "n_embd 16 is not divisible by n_head 3"),
        ("--run-dir", "b", "--set", "model.vocab_size=9"): (1, "has 257 ids"),
        ("--run-dir", "b", "--set", "training.max_stepz=9"): (1, "training.max_steps"),
        ("--run-dir", "b", "--hellaswag-samples", "2", "--hellaswag-file", "no.jsonl"): (1, "no.jsonl"),
        ("--max-stepz", "2"): (2, "--max-steps"),
        ("--device", "gpu"): (1, "unknown device 'gpu'"),
    }
    for arguments, (code, words) in mistakes.items():
        assert run(["train", "--config", "fox.yaml", *arguments]) == code, arguments
        error = capsys.readouterr().err
        assert words in error and "Traceback" not in error, error
    assert run(["train", "--dataset", "no_such"]) == 1
    assert "no_such" in capsys.readouterr().err
    assert run(["train", "--resume", "--config", "fox.yaml"]) == 1
    assert run(["train", "--resume", "runs/a", "--seed", "1"]) == 1
    assert "training.seed was 1337" in capsys.readouterr().err


def test_imported_shards_without_a_validation_split_are_trained_on(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As another program wrote them: raw 16-bit ids, one file."""
    Path("theirs").mkdir()
    Path("theirs/train.bin").write_bytes(b"".join(bytes([byte, 0]) for byte in TEXT.encode()))
    assert run(["prepare_dataset", "--import", "theirs", "--tokenizer", "byte"]) == 0
    settings = {**SETTINGS, "data": {"dataset": "theirs", "tokenizer": "byte"}}
    Path("fox.yaml").write_text(yaml.safe_dump(settings))
    assert train("run", "--max-steps", "3") == 0
    kinds = [event["kind"] for event in events("run")]
    assert kinds.count("train") == 3 and "val" not in kinds
    assert "val: skipped, since dataset_cache/theirs-byte has no validation split" in capsys.readouterr().err
