"""The largest micro-batch that fits, found by trying: `--micro-batch-size auto`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from nano_gpt.config.model import GPTConfig
from nano_gpt.runtime.device import autocast, synchronize
from nano_gpt.runtime.distributed import any_rank, max_over_ranks
from nano_gpt.runtime.logs import logger
from nano_gpt.runtime.usage import memory_free, memory_in_use
from nano_gpt.training.memory import StepMemory
from nano_gpt.training.strategies import Strategy


def estimate_micro_batch(cost: StepMemory, candidates: Sequence[int], device: torch.device) -> int:
    """The largest of `candidates` rows for the rank that has the least memory. A collective."""
    return -max_over_ranks(-cost.largest(candidates, memory_free(device)))


def fit_micro_batch(
    strategy: Strategy, config: GPTConfig, candidates: Sequence[int], first: int, dtype: torch.dtype
) -> int:
    """The largest of `candidates` rows with which a forward and a backward pass go through on all ranks.

    `first` is tried first: an estimate, from which it goes up or down. What is left must hold a twentieth of the
    memory, for what a run needs besides. On a CPU, where too much ends the process, it never goes above `first`.
    """
    device = next(strategy.model.parameters()).device
    place = candidates.index(first)
    if _fits(strategy, config, candidates[place], dtype, device):
        higher = candidates[place + 1 :] if device.type == "cuda" else ()
        best = first
        for rows in higher:
            if not _fits(strategy, config, rows, dtype, device):
                break
            best = rows
    else:
        best = next(
            (rows for rows in reversed(candidates[:place]) if _fits(strategy, config, rows, dtype, device)),
            candidates[0],
        )
    logger.info(f"micro-batch: {best} windows fit")
    return best


def _fits(strategy: Strategy, config: GPTConfig, rows: int, dtype: torch.dtype, device: torch.device) -> bool:
    room = memory_free(device)
    before = memory_in_use(device)
    ids = torch.zeros(rows, config.n_positions, dtype=torch.int64, device=device)
    try:
        with strategy.last_backward(False), autocast(device, dtype):
            strategy.forward(ids, ids).backward()
        synchronize(device)
        # A GPU's allocator refuses what is too much; a process is told only by what it has taken.
        fits = device.type == "cuda" or room is None or memory_in_use(device) - before < 0.95 * room
        if device.type == "cuda":
            fits = torch.cuda.max_memory_reserved(device) < 0.95 * torch.cuda.get_device_properties(device).total_memory
    except torch.OutOfMemoryError:
        fits = False
    finally:
        nn.Module.zero_grad(strategy.model, set_to_none=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
    return not any_rank(not fits)
