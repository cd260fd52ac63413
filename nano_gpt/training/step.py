"""One optimizer step: the gradient of the whole batch in micro-batches, clipped, applied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from nano_gpt.data.loader import Batch
from nano_gpt.errors import NanoGPTError
from nano_gpt.runtime.device import autocast, send
from nano_gpt.runtime.distributed import Ranks
from nano_gpt.runtime.seeding import derive_seed
from nano_gpt.training.optim import set_learning_rate


@dataclass(frozen=True)
class StepResult:
    """Both stay on the device: reading them is a sync, which is for the steps that are logged."""

    loss_sum: Tensor
    """This rank's cross-entropy, summed over its targets, in nats."""
    grad_norm: Tensor
    """Global L2 norm before clipping."""


@dataclass(frozen=True)
class TrainStep:
    """`forward` is the model, perhaps compiled and wrapped; calling it with targets gives their summed loss."""

    forward: nn.Module
    optimizer: Optimizer
    device: torch.device
    dtype: torch.dtype
    ranks: Ranks
    seed: int
    gradient_clip: float

    def __call__(self, step: int, batches: Iterable[Batch], num_targets: int, learning_rate: float) -> StepResult:
        """`batches` are this rank's share of the step; `num_targets` counts the targets of all ranks.

        Every micro-batch is divided by that count, so accumulation and ranks add up to the mean over the big batch,
        whatever the split. Dropout draws from a seed of (run, step, rank): nothing random has to be saved. Raises
        NanoGPTError, with the micro-batch to try, where the GPU's memory is too small.
        """
        torch.manual_seed(derive_seed(self.seed, "dropout", step, self.ranks.rank))
        pending = list(batches)
        try:
            loss_sum = self._accumulate(pending, num_targets)
            grad_norm = self._clip()
            set_learning_rate(self.optimizer, learning_rate)
            self.optimizer.step()
        except torch.OutOfMemoryError:
            raise _out_of_memory(self.device, len(pending[0].ids)) from None
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(loss_sum, grad_norm)

    def _accumulate(self, pending: Sequence[Batch], num_targets: int) -> Tensor:
        """Add up the gradients of all micro-batches; returns this rank's summed loss."""
        loss_sum = torch.zeros((), device=self.device)
        for index, batch in enumerate(pending):
            with self._synchronised(index == len(pending) - 1):
                with autocast(self.device, self.dtype):
                    loss = self.forward(send(batch.ids, self.device), send(batch.targets, self.device))
                # DistributedDataParallel takes the mean over ranks; we want the sum.
                (loss * (self.ranks.world_size / num_targets)).backward()
            loss_sum += loss.detach()
        return loss_sum

    def _synchronised(self, last: bool) -> AbstractContextManager[Any]:
        """Ranks exchange gradients in the last micro-batch only."""
        if isinstance(self.forward, DistributedDataParallel) and not last:
            return self.forward.no_sync()
        return nullcontext()

    def _clip(self) -> Tensor:
        limit = self.gradient_clip or float("inf")
        return nn.utils.clip_grad_norm_(self.forward.parameters(), limit)


def _out_of_memory(device: torch.device, rows: int) -> NanoGPTError:
    smaller = next((n for n in range(rows - 1, 0, -1) if rows % n == 0), None)
    return NanoGPTError(
        f"out of memory on {device} with micro-batches of {rows} windows",
        f"--micro-batch-size {smaller}: the same run in smaller pieces"
        if smaller
        else "a smaller model, or a shorter --sequence-length",
    )
