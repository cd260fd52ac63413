"""A run that is killed again and again ends as the one that nobody touched: losses, weights, moments, bit for bit.

Every process gets a random time to live, from before it has read its settings to after its last checkpoint; checkpoints
are so frequent that many kills fall into the writing of one. Called by script/kill_test.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

STEPS = 400
SETTINGS = {
    "model": {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 32, "dropout": 0.1},
    "data": {"dataset": "killed", "files": ["text.txt"], "tokenizer": "byte", "num_procs": 1},
    "training": {
        "max_steps": STEPS, "total_batch_size": 8 * 32, "micro_batch_size": 4, "checkpoint_steps": 5, "device": "cpu",
        "dtype": "fp32", "ema_decay": 0.99, "optimizer": {"learning_rate": 0.01},
    },
    "evaluation": {"eval_steps": 50, "validation_steps": 2},
    "sampling": {"prompt": "line", "num_sequences": 1, "max_length": 12},
}  # fmt: skip
BY_THE_CLOCK = ("dt_ms", "tokens_per_second", "eta", "mfu", "memory_gb")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=None, help="of the moments; a new one every time without it")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10**6)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("text.txt").write_text("\n".join(f"line {number}: {number * 7919 % 997}" for number in range(2000)))
        Path("run.yaml").write_text(yaml.safe_dump(SETTINGS))
        begun = time.monotonic()
        complete("straight")
        whole = time.monotonic() - begun
        kills, in_writing = kill_until_done("killed", arguments.kills, random.Random(seed), whole)
        differences = compare("straight", "killed")
    print(f"seed {seed}: {kills} kills, {in_writing} of them while a checkpoint was written: ", end="")
    print("identical" if not differences else f"DIFFERENT: {differences}")
    sys.exit(bool(differences))


def complete(run: str) -> None:
    process = start(run)
    if process.wait() != 0:
        sys.exit(f"training {run} failed with code {process.returncode}: see {Path(run, 'train.log').absolute()}")


def start(run: str) -> subprocess.Popen[bytes]:
    there = Path(run, "config.yaml").is_file()
    what = ["--resume", "--run-dir", run] if there else ["--config", "run.yaml", "--run-dir", run]
    return subprocess.Popen(
        [sys.executable, "-m", "nano_gpt", "train", *what],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def kill_until_done(run: str, kills: int, moments: random.Random, whole: float) -> tuple[int, int]:
    """Until so many kills have hit a process that was alive; then the run may end. Returns those, and how many of them
    left a half-written checkpoint."""
    done = in_writing = 0
    while done < kills:
        process = start(run)
        alive = moments.uniform(0.0, whole)
        time.sleep(alive)
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            done += 1
            in_writing += any(Path(run, "checkpoints").glob(".tmp-*"))
            print(f"kill {done} of {kills} after {alive:.1f} s", file=sys.stderr, flush=True)
        elif process.returncode != 0:
            sys.exit(f"resuming {run} failed with code {process.returncode}")
        else:  # it was done: the same again, from the start
            if differences := compare("straight", run):
                sys.exit(f"after {done} kills: {differences}")
            Path(run).rename(f"{run}-{done}-{moments.random()}")
    complete(run)
    return done, in_writing


def compare(straight: str, killed: str) -> list[str]:
    """What differs."""
    differences = []
    if events(straight) != events(killed):
        differences.append("metrics.jsonl")
    last = Path("checkpoints", f"step_{STEPS:06d}")
    names = ("model.safetensors", "ema/model.safetensors", "training/optimizer.safetensors", "training/state.json")
    for name in names:
        if (straight / last / name).read_bytes() != (killed / last / name).read_bytes():
            differences.append(name)
    return differences


def events(run: str) -> list[dict[str, Any]]:
    """Without what a clock decides, and without checkpoints, which tell how long they took."""
    lines = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in event.items() if name not in BY_THE_CLOCK}
        for event in lines
        if event["kind"] != "checkpoint"
    ]


if __name__ == "__main__":
    main()
