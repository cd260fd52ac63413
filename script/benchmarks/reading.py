"""What reading batches costs: time beside a train step, and memory while a corpus is read from end to end.

    python script/benchmarks/reading.py FOLDER --gigabytes 2

writes shards of random ids to FOLDER, reads all of them in batches through `TokenLoader`, trains a few steps, and
prints the figures as JSON. A process of its own, so that nothing else is in its memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from nano_gpt.config import GPTConfig
from nano_gpt.config.presets import RECIPES
from nano_gpt.config.training import TrainingConfig
from nano_gpt.data.loader import TokenLoader
from nano_gpt.data.shards import Shard, TokenReader, write_shard
from nano_gpt.model.gpt import GPT
from nano_gpt.runtime.device import resolve_device, resolve_dtype, synchronize
from nano_gpt.runtime.distributed import Ranks
from nano_gpt.training.guard import StepGuard
from nano_gpt.training.optim import build_optimizer
from nano_gpt.training.step import TrainStep
from nano_gpt.training.strategies import make_strategy

VOCAB_SIZE = 50257
WINDOWS, T = 16, 1024  # of a batch
TOKENS_PER_SHARD = 100_000_000
_WARM_UP = 50  # batches before memory counts: Python and numpy take their own first


@dataclass(frozen=True)
class Reading:
    """The figures. Times are medians."""

    gigabytes: float
    batches: int
    batch_seconds: float
    rss_growth: int
    """Bytes of resident memory at the end of all batches, less those after the first few."""
    model: str
    device: str
    step_seconds: float
    """A train step of that model ..."""
    step_batch_seconds: float
    """... and reading its batch."""


def measure(folder: Path, gigabytes: float) -> Reading:
    reader = make_shards(folder, max(WINDOWS * T + 1, int(gigabytes * 1e9) // 2))
    loader = TokenLoader(reader, sequence_length=T, windows_per_step=WINDOWS, micro_batch_size=WINDOWS)
    process, times, before = psutil.Process(), [], 0
    steps = -(-loader.num_windows // WINDOWS)  # an epoch: every token
    for step in range(steps):
        start = time.perf_counter()
        batches = list(loader.batches(step))
        times.append(time.perf_counter() - start)
        if step == min(_WARM_UP, steps - 1):
            before = process.memory_info().rss
        del batches
    growth = process.memory_info().rss - before
    return Reading(len(reader) * 2 / 1e9, steps, statistics.median(times), growth, *train_steps(folder / "small"))


def make_shards(folder: Path, tokens: int, vocab_size: int = VOCAB_SIZE) -> TokenReader:
    """Random ids: what they are does not change what reading them costs."""
    folder.mkdir(parents=True, exist_ok=True)
    some = np.random.default_rng(0).integers(0, vocab_size, min(tokens, 2_000_000), np.uint16)
    shards: list[Shard] = []
    for start in range(0, tokens, TOKENS_PER_SHARD):
        count = min(TOKENS_PER_SHARD, tokens - start)
        stretches = (some[: count - first] for first in range(0, count, len(some)))
        name = f"train_{len(shards):06d}.npy"
        shards.append(write_shard(folder / name, "train", "uint16", count, 0, stretches))
    return TokenReader(folder, shards, "uint16", vocab_size, remedy="")


def train_steps(folder: Path, steps: int = 20) -> tuple[str, str, float, float]:
    """GPT-2 124M with 16 windows of 1,024 on a GPU; on a CPU the quick start's model, whose steps are the shortest.

    Returns the model, the device, the seconds of a step and those of reading its batch.
    """
    device = resolve_device("auto")
    dtype = resolve_dtype("auto", device)
    if device.type == "cpu":
        name, windows = "the quick start's", 8
        shape = GPTConfig.model_validate({**RECIPES["python_docs"]["model"], "vocab_size": 4096})
    else:
        name, windows, shape = "GPT-2 124M", WINDOWS, GPTConfig(vocab_size=VOCAB_SIZE)
    assert shape.vocab_size is not None
    length = shape.n_positions
    reader = make_shards(folder, 10_000_000, shape.vocab_size)
    loader = TokenLoader(reader, sequence_length=length, windows_per_step=windows, micro_batch_size=windows)
    training = TrainingConfig(compile=False)
    strategy = make_strategy(GPT(shape), training, Ranks(), device, dtype)
    optimizer = build_optimizer(strategy.model, training.optimizer)
    train_step = TrainStep(strategy, optimizer, device, dtype, Ranks(), 0, 1.0, StepGuard(device))
    reading: list[float] = []
    training: list[float] = []
    for step in range(steps + 2):
        start = time.perf_counter()
        batches = list(loader.batches(step))
        read = time.perf_counter()
        train_step(step, batches, windows * length, 1e-4)
        synchronize(device)
        reading.append(read - start)
        training.append(time.perf_counter() - read)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    what = f"{name}, {windows} x {length} tokens, {str(dtype).removeprefix('torch.')}"
    return what, where, statistics.median(training[2:]), statistics.median(reading[2:])  # the first two also allocate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    asked = parser.parse_args()
    print(json.dumps(asdict(measure(asked.folder, asked.gigabytes))))


if __name__ == "__main__":
    main()
