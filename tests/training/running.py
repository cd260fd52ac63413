"""Small whole runs through the command, and what they leave behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from nano_gpt.cli.main import run

TEXT = "\n".join(
    f"line {number}: the quick brown fox jumps over the lazy dog {number * 7919 % 997}" for number in range(400)
)
SETTINGS = {
    "model": {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 16, "dropout": 0.1},
    "data": {"dataset": "fox", "tokenizer": "byte", "num_procs": 1},
    "training": {
        "max_steps": 24, "total_batch_size": 8 * 16, "micro_batch_size": 2, "checkpoint_steps": 5,
        "keep_checkpoints": 2,
        "device": "cpu", "dtype": "fp32", "log_steps": 1, "optimizer": {"learning_rate": 0.01},
    },
    "evaluation": {"eval_steps": 8, "validation_steps": 2},
    "sampling": {"prompt": "line", "num_sequences": 1, "max_length": 12},
}  # fmt: skip
LONGER = ("--max-steps", "60")  # so that a run is surely still on its way when it is stopped
TIMES = ("dt_ms", "tokens_per_second", "eta", "mfu", "memory_gb")


def train(run_dir: str, *arguments: str) -> int:
    return run(["train", "--config", "fox.yaml", "--run-dir", run_dir, *arguments])


def command(*arguments: str, ranks: int = 1) -> list[str]:
    launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m"] if ranks > 1 else []
    return [sys.executable, "-m", *launcher, "nano_gpt", "train", *arguments]


def events(run_dir: str) -> list[dict[str, Any]]:
    """What the run measured, without what a clock decides and without when it was saved."""
    recorded = [json.loads(line) for line in Path(run_dir, "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in event.items() if key not in TIMES}
        for event in recorded
        if event["kind"] != "checkpoint"
    ]


def weights(run_dir: str, step: int) -> bytes:
    return Path(run_dir, "checkpoints", f"step_{step:06d}", "model.safetensors").read_bytes()
