"""`train --lora-rank`: a run of adapters, from its first step to an export that is whole again."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from running import command, events, train

from nano_gpt.checkpoint.adapter import ADAPTER_WEIGHTS, read_adapter
from nano_gpt.checkpoint.source import load_model
from nano_gpt.cli.main import run

TUNE = ["--files", "bear.txt", "--total-batch-size", "128", "--device", "cpu", "--dtype", "fp32", "--log-steps", "1"]
TUNE += ["--sample-num-sequences", "0", "--set", "data.num_procs=1", "--eval-steps", "10", "--learning-rate", "0.02"]
TUNE += ["--validation-steps", "4", "--set", "model.dropout=0.1"]
BEAR = "\n".join(f"zz {number % 7} the slow bear sleeps under the old oak" for number in range(400))


@pytest.fixture
def base(workplace: Path) -> Path:
    assert train("runs/base", "--max-steps", "40") == 0
    Path("bear.txt").write_text(BEAR)
    return Path("runs/base")


def tune(run_dir: str, *arguments: str) -> list[str]:
    return ["train", "--pretrained", "runs/base", "--lora-rank", "4", "--run-dir", run_dir, *TUNE, *arguments]


def validation(run_dir: str) -> list[float]:
    return [event["loss"] for event in events(run_dir) if event["kind"] == "val"]


def test_from_adapters_to_a_whole_export(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (base / "checkpoints/step_000040/model.safetensors").read_bytes()
    assert run(tune("runs/lora", "--max-steps", "30", "--set", "training.lora.dropout=0.1")) == 0
    assert "adapters of rank 4; " in capsys.readouterr().err
    losses = validation("runs/lora")
    assert losses[-1] < losses[0] - 0.1
    assert (base / "checkpoints/step_000040/model.safetensors").read_bytes() == before

    folder = Path("runs/lora/checkpoints/step_000030")
    assert not (folder / "model.safetensors").exists()
    assert read_adapter(folder).base == str((base / "checkpoints/step_000040").absolute())
    merged, plain = load_model(checkpoint="runs/lora").model, load_model(checkpoint="runs/base").model
    changed = {
        name for name, tensor in merged.state_dict().items() if not torch.equal(tensor, plain.state_dict()[name])
    }
    assert changed == {name.replace("lora_A", "weight") for name in read_adapter(folder).state if "lora_A" in name}

    assert run(["export", "--checkpoint", "runs/lora", "--export-dir", "whole"]) == 1
    assert "--merge" in capsys.readouterr().err
    assert run(["export", "--checkpoint", "runs/lora", "--export-dir", "whole", "--merge"]) == 0
    ids = torch.arange(32).view(2, 16)
    with torch.inference_mode():
        loaded = load_model(checkpoint="runs/lora").model(ids)
        for other in (load_model("whole"), load_model("runs/base", adapter="runs/lora")):
            assert torch.equal(other.model(ids), loaded)
    capsys.readouterr()
    assert run(["eval", "--checkpoint", "runs/lora", "--validation-steps", "4", "--device", "cpu", "--json"]) == 0
    assert abs(json.loads(capsys.readouterr().out)["val"]["loss"] - losses[-1]) < 1e-4
    (own,) = Path("dataset_cache").glob("bear-*")  # a set by the name of its folder
    assert run(["eval", "--pretrained", "whole", "--dataset", own.name, "--device", "cpu", "--json"]) == 0
    assert abs(json.loads(capsys.readouterr().out)["val"]["loss"] - losses[-1]) < 0.1
    named = ["--pretrained", "runs/base", "--adapter", "runs/lora"]
    assert run(["sample", *named, "--max-length", "12", "--num-sequences", "1", "zz"]) == 0


def test_stopped_and_resumed_is_the_same(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also when the run that is adapted has gone on meanwhile."""
    assert run(tune("runs/lora", "--max-steps", "6", "--checkpoint-steps", "3")) == 0
    assert run(["train", "--resume", "runs/base", "--max-steps", "44"]) == 0
    assert run(["verify-resume", "runs/lora", "--steps", "2"]) == 0
    assert run(["train", "--resume", "runs/lora", "--max-steps", "8"]) == 0
    capsys.readouterr()
    assert run(["train", "--resume", "runs/lora", "--max-steps", "9", "--lora-rank", "2"]) == 1
    assert "training.lora.rank was 4" in capsys.readouterr().err


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_make_the_same(base: Path, strategy: str) -> None:
    plain = ["--max-steps", "5", "--set", "model.dropout=0"]
    assert run(tune("runs/one", *plain)) == 0
    arguments = tune("runs/two", *plain, "--strategy", strategy)[1:]
    subprocess.run(command(*arguments, ranks=2), check=True, capture_output=True, timeout=120)
    one, two = (load_model(checkpoint=name).model.state_dict() for name in ("runs/one", "runs/two"))
    assert all(torch.allclose(tensor, two[name], atol=1e-5) for name, tensor in one.items())
    assert Path("runs/two/checkpoints/step_000005", ADAPTER_WEIGHTS).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--freeze", "wte"], "so freeze has nothing to do"),
        (["--ema-decay", "0.9"], "so ema_decay has nothing to do"),
        (["--optimizer", "muon"], "muon is for whole matrices"),
        (["--lora-targets", "attn,head"], "training.lora.targets"),
    ],
)
def test_what_does_not_go_with_adapters(
    workplace: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "--pretrained", "x", "--files", "fox.txt", "--lora-rank", "2", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert run(["train", "--files", "fox.txt", "--lora-rank", "2"]) == 1
    assert "lora.rank needs weights to adapt" in capsys.readouterr().err


def test_other_architectures_have_no_adapters_yet(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("runs/base", "--max-steps", "1", "--positions", "rope") == 0
    Path("bear.txt").write_text(BEAR)
    assert run(tune("runs/lora", "--max-steps", "1")) == 1
    assert "GPT-2's own architecture" in capsys.readouterr().err
