"""Ranks: who this process is among those that torchrun started, and the few collectives that the project needs.

The one module that reads RANK, LOCAL_RANK and WORLD_SIZE; everything else takes integers. Without torchrun every
function here is the identity, so callers do not ask whether the run is distributed. torch is imported only where a
group is really used, so that the command line can ask for its rank at no cost.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar, cast

from nano_gpt.errors import ConfigError, NanoGPTError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

TIMEOUT = 600.0  # seconds, longer than any work that one rank does alone while the others wait


@dataclass(frozen=True)
class Ranks:
    """This process is `rank` of `world_size`, and `local_rank` on its machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def from_environment() -> Ranks:
    """What torchrun put into the environment; a single process without it."""
    return Ranks(
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
    )


def sharing_ranks() -> Ranks:
    """The ranks of work that needs no talk between them: those of torchrun, else the tasks of a SLURM array.

    Raises ConfigError for an array whose tasks are not numbered without gaps.
    """
    ranks = from_environment()
    tasks = int(os.environ.get("SLURM_ARRAY_TASK_COUNT", "1"))
    if ranks.world_size > 1 or tasks == 1:
        return ranks
    number = int(os.environ["SLURM_ARRAY_TASK_ID"]) - int(os.environ["SLURM_ARRAY_TASK_MIN"])
    if number >= tasks:
        raise ConfigError(
            f"this is task {number} of a SLURM array of {tasks}: its numbers have gaps", f"--array=0-{tasks - 1}"
        )
    return Ranks(number, tasks)


@contextmanager
def process_group(ranks: Ranks, device: torch.device, timeout: float = TIMEOUT) -> Iterator[None]:
    """Join the other ranks for as long as the context is open: nccl between GPUs, gloo between CPUs.

    `timeout` is in seconds. Raises ConfigError for a Metal GPU, for which torch has no collectives, and
    LostRankError, which names it, where a rank is gone or does not come in time.
    """
    if ranks.world_size == 1:
        yield
        return
    if device.type == "mps":
        raise ConfigError(f"{ranks.world_size} processes cannot share a Metal GPU", "start one; or --device cpu")
    import torch.distributed as dist

    from nano_gpt.runtime.rendezvous import common_store
    from nano_gpt.runtime.roll_call import RollCall

    store = common_store(ranks.rank, ranks.world_size, timeout)
    failed = True
    try:
        with RollCall(store, ranks.rank, ranks.world_size, timeout):
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                store=store,
                rank=ranks.rank,
                world_size=ranks.world_size,
                timeout=timedelta(seconds=timeout),
                device_id=device if device.type == "cuda" else None,
            )
            yield
        failed = False
    finally:
        if dist.is_initialized() and not (failed and device.type == "cuda"):  # NCCL would wait for what may be lost
            gc.collect()  # a wrapped model in a reference cycle would outlive the group that it holds on to
            dist.destroy_process_group()


def restarts() -> int:
    """How often torchrun has started this rank anew (`--max-restarts`). Machines count for themselves: any_rank."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def is_distributed() -> bool:
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over all ranks, in place."""
    if is_distributed():
        import torch.distributed as dist

        dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
    return tensor


def max_over_ranks(number: int) -> int:
    """The largest of all ranks' numbers, on every rank. It stays on the hosts: no device is waited for."""
    if not is_distributed():
        return number
    import torch
    import torch.distributed as dist

    tensor = torch.tensor([number])
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor.item())


def any_rank(flag: bool) -> bool:
    """True on every rank as soon as it is true on one."""
    return bool(max_over_ranks(int(flag)))


def broadcast(value: T) -> T:
    """Rank 0's value, on every rank."""
    if not is_distributed():
        return value
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def from_main(function: Callable[[], T]) -> T:
    """What `function` returns on rank 0, on every rank; a NanoGPTError that it raises there is raised everywhere.

    For what one process should read, download or prepare while the others wait.
    """
    if not is_distributed():
        return function()
    outcome: T | NanoGPTError | None = None
    if from_environment().is_main:
        try:
            outcome = function()
        except NanoGPTError as error:
            outcome = error
        except Exception as error:  # the others must not wait for what will not come
            broadcast(NanoGPTError(f"rank 0 stopped: {type(error).__name__}: {error}"))
            raise
    outcome = broadcast(outcome)
    if isinstance(outcome, NanoGPTError):
        outcome.on_all_ranks = True
        raise outcome
    return cast(T, outcome)


def barrier() -> None:
    """Returns when every rank has called it; devices are not waited for."""
    max_over_ranks(0)
