"""What a run can do besides training: tell its plan, stop by itself, start from weights, prove that it resumes."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from running import LONGER, command, events, train, weights
from safetensors.torch import load_file

from nano_gpt.checkpoint.source import load_model
from nano_gpt.cli.main import run
from nano_gpt.config import resolve
from nano_gpt.errors import NanoGPTError
from nano_gpt.model.gpt import GPT
from nano_gpt.runtime.seeding import derive_seed
from nano_gpt.training.memory import step_memory
from nano_gpt.training.replay import open_replay

CPU = torch.device("cpu")


def log(run_dir: str) -> str:
    return Path(run_dir, "train.log").read_text()


def test_dry_run_tells_all_and_writes_nothing(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--config", "fox.yaml", "--run-dir", "runs/a", "--dry-run", "--max-tokens", "1280"]
    assert run([*arguments, "--set", "training.seed=7"]) == 0
    output = capsys.readouterr().out
    for words in (
        "model: 10,960 parameters",
        "steps: 10 of 128 tokens = 2 x 16 x 4 accumulated x 1 ranks; 1,280 tokens = 0.",
        "memory: ", "activations ", "checkpoints: ", "time: 0:0", "tokens/s",
        "training.max_steps                10  (--max-tokens)", "training.seed                     7  (--set)",
        "training.optimizer.learning_rate  0.01  (fox.yaml)",
    ):  # fmt: skip
        assert words in output, words
    assert not Path("runs").exists()
    assert run([*arguments, "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["fits"] and fields["tokens"] == 1280 and fields["seconds"] > 0
    assert fields["checkpoint"] == 3 * 4 * 10_960
    assert fields["settings"]["model.n_embd"] == {"value": 16, "from": "fox.yaml"}
    assert run(["train", "--resume", "--dry-run"]) == 1


def test_dry_run_of_what_cannot_fit(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nano_gpt.training.overview.memory_free", lambda device: 1_000_000)
    assert run(["train", "--config", "fox.yaml", "--dry-run"]) == 1
    output = capsys.readouterr()
    assert "time: not measured, since it does not fit" in output.out
    assert "error: it does not fit: memory: " in output.err and "1.0 MB are free: a smaller --micro-batch" in output.err


@pytest.mark.parametrize("recompute", [False, True])
def test_the_memory_estimate_is_what_autograd_keeps(recompute: bool) -> None:
    config = resolve(
        flags={
            "model.vocab_size": 64, "model.n_layer": 3, "model.n_head": 2, "model.n_embd": 32, "model.n_positions": 16,
            "training.total_batch_size": 64, "training.gradient_checkpointing": recompute,
        },
    )  # fmt: skip
    memory = step_memory(config, CPU, torch.float32)
    T, C, layers = 16, 32, 3
    stream = 4 * T * C  # bytes of one residual stream
    activations = memory.per_row["activations"]
    if recompute:  # a block's input each, and what lies around the blocks
        assert layers * stream <= activations <= (layers + 8) * stream + 8 * 64 * T
    else:  # Korthikanti et al. 2022: 34 streams of 2 bytes a block and the attention's squares; here of 4, no dropout
        assert 10 * layers * stream < activations < 34 * layers * stream
    assert memory.fixed["optimizer"] == 2 * memory.fixed["weights"] == 2 * 4 * config.model.num_parameters()
    assert memory.largest([1, 2, 4], memory.estimate(2).total) == 2
    assert memory.largest([1, 2, 4], 0) == 1 and memory.largest([1, 2, 4], None) == 4
    assert step_memory(config, CPU, torch.float32, shards=2).fixed["optimizer"] == memory.fixed["weights"]


def test_micro_batch_auto_is_the_same_run(workplace: Path) -> None:
    assert train("runs/a", "--set", "model.dropout=0", "--micro-batch-size", "8") == 0
    assert train("runs/b", "--set", "model.dropout=0", "--micro-batch-size", "auto") == 0
    assert "= 8 x 16 x 1 accumulated" in log("runs/b")
    assert weights("runs/a", 24) == weights("runs/b", 24)


def test_a_time_limit_saves_and_resume_equals_straight_on(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("runs/straight") == 0
    assert train("runs/stopped", "--max-time", "0.001s", "--json") == 0
    ended = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert ended["stopped"] == "time" and ended["step"] == 1
    assert run(["train", "--resume", "--run-dir", "runs/stopped", "--max-time", "1h"]) == 0
    assert "changed: training.max_time: 0.001 -> 3600.0" in capsys.readouterr().err
    assert events("runs/stopped") == events("runs/straight")
    assert weights("runs/stopped", 24) == weights("runs/straight", 24)


def test_sigusr1_saves(workplace: Path) -> None:
    process = subprocess.Popen(
        command("--config", "fox.yaml", "--run-dir", "runs/a", *LONGER), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr
    for line in process.stderr:
        if line.startswith("train: step: 6"):
            process.send_signal(signal.SIGUSR1)
            break
    rest = process.stderr.read()
    assert process.wait() == 128 + signal.SIGUSR1, rest
    assert "SIGUSR1: saving after this step" in rest
    assert Path("runs/a/checkpoints/latest").is_file()


def test_an_early_stop(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("runs/a", "--learning-rate", "5", "--early-stop", "1", "--eval-steps", "2", "--json") == 0
    ended = json.loads(capsys.readouterr().out)
    assert ended["stopped"] == "no_progress" and ended["step"] < 24
    validation = [event["loss"] for event in events("runs/a") if event["kind"] == "val"]
    assert validation[-1] > validation[-2]


@pytest.mark.parametrize(
    "settings",
    [
        ["--optimizer", "muon", "--lr-schedule", "wsd"],
        ["--ema-decay", "0.9", "--gradient-checkpointing"],
        ["--set", "training.batch_ramp_start=32", "--set", "training.batch_ramp_steps=9", "--lr-schedule", "linear"],
        ["--set", "training.spike_threshold=2.0", "--lr-schedule", "constant"],
    ],
    ids=["muon", "average", "ramp", "spikes"],
)
def test_every_kind_of_run_resumes_exactly(settings: list[str], workplace: Path) -> None:
    assert train("runs/straight", *settings) == 0
    assert train("runs/stopped", *settings, "--max-time", "0.001s") == 0
    assert run(["train", "--resume", "--run-dir", "runs/stopped", "--max-time", "0.3s"]) == 0
    assert run(["train", "--resume", "--run-dir", "runs/stopped", "--max-time", "1h"]) == 0
    assert events("runs/stopped") == events("runs/straight")
    assert weights("runs/stopped", 24) == weights("runs/straight", 24)
    last = "checkpoints/step_000024"
    for name in ("training/optimizer.safetensors", "training/state.json", "ema/model.safetensors"):
        if Path("runs/straight", last, name).exists():
            assert Path("runs/straight", last, name).read_bytes() == Path("runs/stopped", last, name).read_bytes()


def test_a_batch_that_grows_sees_the_same_text_in_the_same_order(workplace: Path) -> None:
    assert train("runs/a", "--set", "training.batch_ramp_start=32", "--set", "training.batch_ramp_steps=8") == 0
    tokens = [event["tokens"] for event in events("runs/a") if event["kind"] == "train"]
    sizes = [after - before for before, after in itertools.pairwise(tokens)]
    assert sizes[:10] == [32, 32, 32, 32, 64, 64, 64, 64, 128, 128]


def test_the_average_is_measured_and_saved_beside_the_weights(workplace: Path) -> None:
    assert train("runs/a", "--ema-decay", "0.9") == 0
    plain, averaged = (
        [event[key] for event in events("runs/a") if event["kind"] == "val"] for key in ("loss", "ema_loss")
    )
    assert plain[0] == averaged[0] and plain[-1] != averaged[-1] and abs(plain[-1] - averaged[-1]) < 0.5
    checkpoint = Path("runs/a/checkpoints/step_000024")
    assert load_file(checkpoint / "ema/model.safetensors").keys() == load_file(checkpoint / "model.safetensors").keys()
    assert run(["sample", "--checkpoint", str(checkpoint / "ema"), "--max-length", "8", "--device", "cpu", "line"]) == 0
    assert run(["train", "--resume", "--ema-decay", "0.5", "--max-steps", "25"]) == 0


def test_fine_tuning_starts_from_the_weights(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("runs/a") == 0
    start = load_model(checkpoint=Path("runs/a"))
    short = ["--device", "cpu", "--dtype", "fp32", "--total-batch-size", "128", "--max-steps", "2", "--eval-steps", "2"]
    short += ["--sample-num-sequences", "0", "--set", "data.num_procs=1"]
    assert run(["train", "--pretrained", "runs/a", "--files", "fox.txt", "--run-dir", "runs/b", *short]) == 0
    first = next(event for event in events("runs/b") if event["kind"] == "train")
    last = [event for event in events("runs/a") if event["kind"] == "train"][-1]
    assert abs(first["loss"] - last["loss"]) < 0.3
    config = resolve(file=Path("runs/b/config.yaml"))
    assert (config.model.n_positions, config.training.optimizer.learning_rate, config.model.dropout) == (16, 3e-5, 0.1)
    tuned = load_model(checkpoint=Path("runs/b")).model
    assert tuned.config.n_layer == start.model.config.n_layer
    assert run(["train", "--resume", "runs/b", "--max-steps", "3"]) == 0, "without the weights that it started from"

    capsys.readouterr()
    half = ["--pretrained", "runs/a", "--files", "fox.txt", "--sequence-length", "8", "--run-dir", "runs/c", *short]
    assert run(["train", *half]) == 0
    assert load_model(checkpoint=Path("runs/c")).model.config.n_positions == 8
    mistakes = {
        ("--sequence-length", "32"): "more than the model's 16 positions",
        ("--tokenizer", "char"): "was trained with",
        ("--model", "gpt2"): "both give the shape",
    }
    for arguments, words in mistakes.items():
        mistaken = ["--pretrained", "runs/a", "--files", "fox.txt", "--run-dir", "runs/d", *arguments, *short]
        assert run(["train", *mistaken]) == 1, arguments
        assert words in capsys.readouterr().err, arguments
    assert run(["train", "--pretrained", "nowhere", "--files", "fox.txt", *short]) == 1
    assert "there is no folder nowhere" in capsys.readouterr().err


def test_verify_resume(workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert train("runs/a", "--max-steps", "6") == 0
    before = {path: path.stat().st_mtime_ns for path in Path("runs/a").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run(["verify-resume", "runs/a", "--steps", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["identical"] and (told["first_step"], told["stopped_at"], told["last_step"]) == (6, 9, 12)
    assert told["events"] >= 6
    assert before == {path: path.stat().st_mtime_ns for path in Path("runs/a").rglob("*") if path.is_file()}
    assert run(["verify-resume", "runs/none"]) == 1


def test_verify_resume_finds_what_differs(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second stretch with other dropout, as if its random numbers went on from somewhere else."""
    from nano_gpt.training import verify

    stretch = verify._in_own_process

    def other(config: Any, folder: Path, until: int) -> None:
        if folder.name == "stopped" and until == 4:
            training = config.training.model_copy(update={"gradient_clip": None})
            optimizer = training.optimizer.model_copy(update={"learning_rate": 0.02})
            config = config.model_copy(update={"training": training.model_copy(update={"optimizer": optimizer})})
        stretch(config, folder, until)

    monkeypatch.setattr(verify, "_in_own_process", other)
    assert train("runs/a", "--checkpoint-steps", "24", "--max-steps", "24", "--max-time", "1h") == 0
    Path("runs/a/checkpoints/latest").unlink()
    for checkpoint in Path("runs/a/checkpoints").glob("step_*"):
        for file in sorted(checkpoint.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        checkpoint.rmdir()
    capsys.readouterr()
    assert run(["verify-resume", "runs/a", "--steps", "2"]) == 1
    error = capsys.readouterr().err
    assert "stopped at step 2 and resumed, the run is another one: train of step 2: lr" in error
    assert "model.safetensors" in error


def test_verify_resume_says_when_a_process_dies(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word: there is no message to wait for."""
    from nano_gpt.training import verify

    monkeypatch.setattr(verify, "_go_on", os.abort)  # which takes no arguments, and so fails at once
    with pytest.raises(NanoGPTError, match="could not be trained to step 3: its process ended with code 1"):
        verify._in_own_process(resolve(), workplace, 3)


def test_strategies_and_ranks_make_the_same_run(workplace: Path) -> None:
    """Started by one process, gone on by two with split weights, ended by one: token for token the same."""
    plain = ["--config", "fox.yaml", "--set", "model.dropout=0", "--set", "data.num_procs=1"]
    assert run(["train", *plain, "--run-dir", "runs/one"]) == 0
    assert run(["train", *plain, "--run-dir", "runs/moved", "--max-time", "0.001s"]) == 0
    middle = subprocess.run(
        command("--resume", "--run-dir", "runs/moved", "--strategy", "fsdp", "--max-time", "1.5s", ranks=2),
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert middle.returncode == 0, middle.stderr
    assert "changed: training.strategy: auto -> fsdp" in middle.stderr
    assert run(["train", "--resume", "--run-dir", "runs/moved", "--strategy", "single", "--max-time", "1h"]) == 0
    one, moved = events("runs/one"), events("runs/moved")
    assert [(event["kind"], event["step"]) for event in one] == [(event["kind"], event["step"]) for event in moved]
    for single, other in zip(one, moved, strict=True):
        if single["kind"] == "train":
            assert other["loss"] == pytest.approx(single["loss"], rel=1e-5)
            assert other["grad_norm"] == pytest.approx(single["grad_norm"], rel=1e-4)


def test_a_full_disk_costs_checkpoints_and_not_the_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("runs/straight") == 0
    disk = workplace / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        assert train("runs/a", "--checkpoint-dir", "disk/checkpoints") == 1  # room for two, and never for a third
        error = capsys.readouterr().err
        assert "no checkpoint of step 15: the disk is full" in error and "train: step: 23 | " in error
        assert error.count("error: ") == 1 and "error: the disk is full" in error
        assert Path("disk/checkpoints/latest").read_text() == "step_000010\n"
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert run(["train", "--resume", "--run-dir", "runs/a"]) == 0
        assert "resumed: " in capsys.readouterr().err
        assert events("runs/a") == events("runs/straight")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_with_document_masking_a_window_is_what_its_documents_are(workplace: Path) -> None:
    """The loss of the first step is that of the documents by themselves, at the places that they have in the window."""
    Path("fox.txt").write_text("<|endoftext|>\n".join(f"{number} lazy dogs\n" for number in range(2000)))
    short = ["--max-steps", "2", "--validation-steps", "1", "--set", "model.dropout=0"]
    assert train("runs/masked", "--document-masking", *short) == 0
    assert train("runs/plain", *short) == 0
    masked, plain = events("runs/masked"), events("runs/plain")
    assert masked[0]["kind"] == "val" and masked[0]["loss"] != plain[0]["loss"]
    first = next(event["loss"] for event in masked if event["kind"] == "train")

    replay = open_replay(Path("runs/masked"))
    torch.manual_seed(derive_seed(replay.config.training.seed, "weights"))
    model = GPT(replay.config.model).eval()
    total, count, eot = 0.0, 0, replay.prepared.manifest.eot_id
    for window in replay.windows(0):
        ids, targets = torch.tensor(window.ids), torch.tensor(window.targets)
        starts = [0, *(int(place) for place in (ids == eot).nonzero() if place), len(ids)]
        for start, end in itertools.pairwise(starts):
            x = model.wte(ids[start:end]) + model.wpe(torch.arange(start, end))
            for layer, block in enumerate(model.h):
                x = block(x.view(1, end - start, -1), None, layer)
            logits = model.head(model.ln_f(x)).view(end - start, -1)
            loss = torch.nn.functional.cross_entropy(logits, targets[start:end], reduction="sum")
            total += float(loss.detach())
            count += end - start
    assert first == pytest.approx(total / count, rel=1e-5)
    assert run(["train", "--resume", "--run-dir", "runs/masked", "--no-document-masking"]) == 1


def test_ranks_with_unequal_memory_take_the_same_micro_batch(workplace: Path, tmp_path: Path) -> None:
    """Each rank would estimate another one, and tries must be made together."""
    script = tmp_path / "unequal.py"
    script.write_text(
        "import os, sys\n"
        "from nano_gpt.cli.main import main\n"
        "from nano_gpt.training import fitting, memory\n"
        "memory.StepMemory.largest = lambda *_: [8, 2][int(os.environ['RANK'])]\n"
        "main()\n"
    )
    arguments = ["--config", "fox.yaml", "--set", "data.num_procs=1", "--set", "model.dropout=0", "--max-steps", "2"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    result = subprocess.run(
        [*launcher, "train", *arguments, "--total-batch-size", "256", "--micro-batch-size", "auto", "--run-dir", "a"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "= 2 x 16 x 4 accumulated x 2 ranks" in log("a")
