"""`train --dry-run`: what a run is about to spend, before anything is spent.

Memory is counted (memory.py), time is measured with a few real steps of real size, or of a part of it on a CPU. Nothing
is written, except that a small set which is not prepared yet is prepared.
"""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from nano_gpt.config import RunConfig
from nano_gpt.data.loader import Batch
from nano_gpt.runtime import distributed
from nano_gpt.runtime.device import resolve_device, resolve_dtype, synchronize
from nano_gpt.runtime.progress import clock
from nano_gpt.runtime.usage import memory_free
from nano_gpt.training.fitting import estimate_micro_batch
from nano_gpt.training.memory import MemoryEstimate, step_memory, trained_parameters
from nano_gpt.training.plan import make_plan, micro_batch_sizes
from nano_gpt.training.resume import flat_settings
from nano_gpt.training.run_folder import RunFolder, new_run_path
from nano_gpt.training.setup import Engine, build_engine
from nano_gpt.training.starting import Start, find_start
from nano_gpt.training.strategies import weight_shards

_CPU_TOKENS = 2048  # per micro-batch that is timed: a second or two of GPT-2 124M


@dataclass(frozen=True)
class Overview:
    """Sizes in bytes, on one rank; None where they cannot be told."""

    plan_lines: list[str]
    memory: MemoryEstimate
    memory_free: int | None
    checkpoint: int
    checkpoints: int
    """How many there are at most at a time."""
    disk: Path
    disk_free: int
    tokens: int
    tokens_per_second: float | None
    """None where the run does not fit."""
    settings: dict[str, tuple[Any, str]]
    """Those that are not the defaults: value and where it came from."""

    @property
    def seconds(self) -> float | None:
        """Of training alone: evaluations and samples come on top."""
        return None if self.tokens_per_second is None else self.tokens / self.tokens_per_second

    @property
    def problems(self) -> list[str]:
        """Why it cannot run."""
        problems = []
        if self.memory_free is not None and self.memory.total > self.memory_free:
            problems.append(
                f"memory: {_size(self.memory.total)} are needed and {_size(self.memory_free)} are free: a smaller "
                "--micro-batch-size, --gradient-checkpointing, or more ranks with --strategy fsdp"
            )
        if self.checkpoint * self.checkpoints > self.disk_free:
            problems.append(
                f"disk: the checkpoints need {_size(self.checkpoint * self.checkpoints)}, and "
                f"{_size(self.disk_free)} are free: --set training.keep_checkpoints=1, or another --checkpoint-dir"
            )
        return problems

    def lines(self) -> list[str]:
        """For the terminal."""
        parts = ", ".join(f"{name} {_size(size)}" for name, size in self.memory.parts.items())
        free = "unknown" if self.memory_free is None else _size(self.memory_free)
        if self.seconds is None or self.tokens_per_second is None:
            duration = "time: not measured, since it does not fit"
        else:
            duration = f"time: {clock(self.seconds)} at {self.tokens_per_second:,.0f} tokens/s, without evaluations"
        width = max((len(name) for name in self.settings), default=0)
        return [
            *self.plan_lines,
            f"memory: {_size(self.memory.total)} of {free} free, on each rank: {parts}",
            f"checkpoints: {_size(self.checkpoint)} each, at most {self.checkpoints} = "
            f"{_size(self.checkpoint * self.checkpoints)} of {_size(self.disk_free)} free in {self.disk}",
            duration,
            "settings that are not the defaults:",
            *(f"  {name:{width}}  {json.dumps(value)}  ({origin})" for name, (value, origin) in self.settings.items()),
        ]

    def fields(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "fits": not self.problems,
            "problems": self.problems,
            "memory": self.memory.parts,
            "memory_total": self.memory.total,
            "memory_free": self.memory_free,
            "checkpoint": self.checkpoint,
            "checkpoints": self.checkpoints,
            "disk_free": self.disk_free,
            "tokens": self.tokens,
            "tokens_per_second": self.tokens_per_second,
            "seconds": self.seconds,
            "settings": {name: {"value": value, "from": origin} for name, (value, origin) in self.settings.items()},
        }


def make_overview(config: RunConfig, origins: Mapping[str, str], *, run_dir: Path | None = None) -> Overview:
    """What `train(config)` would do. Under torchrun every rank calls it. Raises what train would raise at its start."""
    ranks = distributed.from_environment()
    device = resolve_device(config.training.device, ranks.local_rank)
    with distributed.process_group(ranks, device, config.training.rank_timeout):
        start = find_start(config, resume=False)
        folder = RunFolder(run_dir or new_run_path(start.config.data.dataset), start.config)
        distributed.from_main(folder.check_new)
        dtype = resolve_dtype(start.config.training.dtype, device)
        shards = weight_shards(start.config.training, ranks)
        plan = make_plan(start.config, ranks.world_size)
        free = memory_free(device)
        cost = step_memory(start.config, device, dtype, shards)
        if start.config.training.micro_batch_size == "auto":  # as estimated: to try it can take minutes on a CPU
            rows = estimate_micro_batch(cost, micro_batch_sizes(start.config, ranks.world_size), device)
            start = start.with_training(micro_batch_size=rows)
            plan = make_plan(start.config, ranks.world_size)
        memory = cost.estimate(plan.micro_batch_size)
        fits = free is None or memory.total <= free
        engine = build_engine(start, ranks, device) if not distributed.any_rank(not fits) else None
        disk = _existing(folder.checkpoints)
        return Overview(
            plan_lines=plan.lines(start.prepared, device, dtype),
            memory=memory,
            memory_free=free,
            checkpoint=_checkpoint_bytes(start.config),
            checkpoints=start.config.training.keep_checkpoints + 2,  # the best one, and the one being written
            disk=disk,
            disk_free=shutil.disk_usage(disk).free,
            tokens=plan.tokens_before(start.config.training.max_steps),
            tokens_per_second=_measured_speed(start, engine) if engine is not None else None,
            settings=_changed_settings(config, origins),
        )


def _checkpoint_bytes(config: RunConfig) -> int:
    trained, moments = trained_parameters(config)
    N = config.model.num_parameters() if config.training.lora.rank is None else trained
    return 4 * (N + moments + (N if config.training.ema_decay is not None else 0))


def _measured_speed(start: Start, engine: Engine) -> float:
    """Tokens per second over all ranks, by steps of one micro-batch and of two: their difference is a micro-batch, and
    what is left over is the optimizer's and the reduction's."""
    plan, step = engine.plan, engine.step
    T = start.config.model.n_positions
    rows = plan.micro_batch_size
    if step.device.type == "cpu":
        rows = max(1, min(rows, _CPU_TOKENS // T))
    loader = plan.loader(start.prepared.reader("train"), step.ranks.rank).with_micro_batch_size(rows)
    step_number = start.config.training.max_steps - 1  # a whole one, also where the batch grows
    batches = [Batch(batch.ids[:rows], batch.targets[:rows]) for batch in islice(loader.batches(step_number), 2)]
    batches = (batches * 2)[:2]

    def seconds(count: int) -> float:
        begun = time.perf_counter()
        step(0, batches[:count], count * rows * T * step.ranks.world_size, 0.0)
        synchronize(step.device)
        return time.perf_counter() - begun

    seconds(2), seconds(1)  # allocates, compiles
    one = statistics.median(seconds(1) for _ in range(3))
    two = statistics.median(seconds(2) for _ in range(3))
    micro = max(two - one, 0.2 * one) * plan.micro_batch_size / rows
    whole = max(0.0, one - (two - one)) + plan.accumulation * micro
    return start.config.training.total_batch_size / whole


def _changed_settings(config: RunConfig, origins: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    given, defaults = flat_settings(config.model_dump(mode="json")), flat_settings(RunConfig().model_dump(mode="json"))
    return {name: (value, origins.get(name, "derived")) for name, value in given.items() if value != defaults[name]}


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
