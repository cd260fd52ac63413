"""The same commands on a GPU: compiled, in bf16, against the CPU in fp32. Skipped where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nano_gpt.cli.main import run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

SETTINGS: dict[str, Any] = {
    "model": {"n_layer": 2, "n_head": 2, "n_embd": 64, "n_positions": 64},
    "data": {"dataset": "count", "files": ["count.txt"], "tokenizer": "byte", "num_procs": 1},
    "training": {
        "max_steps": 20, "total_batch_size": 8 * 64, "micro_batch_size": 4, "checkpoint_steps": 10, "log_steps": 1,
        "optimizer": {"learning_rate": 0.003},
    },
    "evaluation": {"eval_steps": 10, "validation_steps": 2},
    "sampling": {"prompt": "1", "num_sequences": 2, "max_length": 100},
}  # fmt: skip


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("count.txt").write_text("\n".join(str(number) for number in range(4000)))
    Path("count.yaml").write_text(yaml.safe_dump(SETTINGS))


def losses(run_dir: str) -> list[float]:
    events = [json.loads(line) for line in Path(run_dir, "metrics.jsonl").read_text().splitlines()]
    return [event["loss"] for event in events if event["kind"] in ("train", "val")]


def train(run_dir: str, *arguments: str) -> list[float]:
    assert run(["train", "--config", "count.yaml", "--run-dir", run_dir, *arguments]) == 0
    return losses(run_dir)


def test_cuda_follows_the_cpu(workplace: None) -> None:
    """The same weights and tokens: fp32 to fp32's noise, compiled bf16 to bf16's."""
    cpu = train("cpu", "--device", "cpu", "--dtype", "fp32")
    assert train("cuda", "--device", "cuda", "--dtype", "fp32", "--no-compile") == pytest.approx(cpu, rel=2e-3)
    assert train("compiled", "--device", "cuda", "--dtype", "bf16", "--compile") == pytest.approx(cpu, rel=2e-2)


def test_resume_on_the_gpu_equals_straight_on(workplace: None) -> None:
    straight = train("straight", "--device", "cuda")
    train("halves", "--device", "cuda")
    assert run(["train", "--resume", "halves/checkpoints/step_000010"]) == 0
    assert losses("halves") == pytest.approx(straight, rel=1e-4)


def test_a_model_is_used_on_the_gpu(workplace: None, capsys: pytest.CaptureFixture[str]) -> None:
    train("cuda", "--device", "cuda")
    capsys.readouterr()
    greedy = ["sample", "--checkpoint", "cuda", "--temperature", "0", "--num-sequences", "1", "--max-length", "80", "1"]
    texts = []
    for device in ("cpu", "cuda"):
        assert run([*greedy, "--device", device]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0][:10] == texts[1][:10]  # near-ties may part later
    assert run(["eval", "--checkpoint", "cuda", "--device", "cuda", "--hellaswag-samples", "0"]) == 0
    assert run(["export", "--checkpoint", "cuda", "--device", "cuda", "--export-dir", "export"]) == 0
