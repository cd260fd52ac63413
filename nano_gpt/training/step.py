"""One optimizer step: the gradient of the whole batch in micro-batches, clipped, and applied unless it is no good."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from nano_gpt.data.loader import Batch
from nano_gpt.errors import NanoGPTError
from nano_gpt.runtime.device import autocast, send
from nano_gpt.runtime.distributed import Ranks, all_reduce_sum
from nano_gpt.runtime.seeding import derive_seed
from nano_gpt.training.guard import StepGuard
from nano_gpt.training.optim import set_learning_rate, step_unless
from nano_gpt.training.scaling import LossScale, NoScale
from nano_gpt.training.strategies import Strategy


@dataclass(frozen=True)
class StepResult:
    """All stay on the device: reading them is a sync, which is for the steps that are logged."""

    loss: Tensor
    """Cross-entropy in nats, the mean over all targets of all ranks."""
    grad_norm: Tensor
    """Global L2 norm before clipping."""
    skip: Tensor
    """1.0 where the step was not applied, else 0.0."""


class OutOfMemory(NanoGPTError):  # noqa: N818 (named as torch's)
    """The device's memory is too small for micro-batches of `rows` windows. No gradient is left behind."""

    def __init__(self, device: torch.device, rows: int, *, again: bool) -> None:
        """`again` tells that no weight has moved yet, so that the step can be repeated."""
        smaller = next((n for n in range(rows // 2, 0, -1) if rows % n == 0), None)
        super().__init__(
            f"out of memory on {device} with micro-batches of {rows} windows",
            f"--micro-batch-size {smaller}: the same run in smaller pieces"
            if smaller
            else "a smaller model, a shorter --sequence-length, or --gradient-checkpointing",
        )
        self.smaller = smaller if again else None
        """The micro-batch to repeat the step with; None where there is none, or the step cannot be repeated."""


@dataclass(frozen=True)
class TrainStep:
    """The strategy's `forward`, called with targets, gives their summed loss."""

    strategy: Strategy
    optimizer: Optimizer
    device: torch.device
    dtype: torch.dtype
    ranks: Ranks
    seed: int
    gradient_clip: float
    guard: StepGuard
    scale: LossScale | NoScale = NoScale()  # noqa: RUF009 (it holds nothing)
    documents: Callable[[Tensor], Tensor] | None = None
    """(B, T) ids -> the numbers of their documents, where tokens must not see others than their own."""

    def __call__(self, step: int, batches: Sequence[Batch], num_targets: int, learning_rate: float) -> StepResult:
        """`batches` are this rank's share of the step; `num_targets` counts the targets of all ranks.

        Every micro-batch is divided by that count, so accumulation and ranks add up to the mean over the big batch,
        whatever the split. Dropout draws from a seed of (run, step, rank): nothing random has to be saved. Raises
        OutOfMemory where the device's memory is too small.
        """
        torch.manual_seed(derive_seed(self.seed, "dropout", step, self.ranks.rank))
        moving = False
        try:
            loss = self._accumulate(batches, num_targets)
            self.scale.remove(self.strategy.gradients())
            grad_norm = self.strategy.clip_grad_norm(self.gradient_clip or float("inf"))
            skip = self.guard.judge(loss, grad_norm)
            set_learning_rate(self.optimizer, learning_rate)
            moving = True
            step_unless(self.optimizer, skip)
        except torch.OutOfMemoryError:
            raise OutOfMemory(self.device, len(batches[0].ids), again=not moving) from None
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        self.scale.update(skip)
        return StepResult(loss, grad_norm, skip)

    def _accumulate(self, batches: Sequence[Batch], num_targets: int) -> Tensor:
        """Add up the gradients of all micro-batches; returns the mean loss of all ranks."""
        loss_sum = torch.zeros((), device=self.device)
        for index, batch in enumerate(batches):
            with self.strategy.last_backward(index == len(batches) - 1):
                with autocast(self.device, self.dtype):
                    ids, targets = send(batch.ids, self.device), send(batch.targets, self.device)
                    documents = self.documents(ids) if self.documents else None
                    loss = self.strategy.forward(ids, targets, documents=documents)
                share = loss * (self.strategy.gradient_factor / num_targets)
                torch.autograd.backward(self.scale.apply(share))
            loss_sum += loss.detach()
        return all_reduce_sum(loss_sum) / num_targets

    def state_dict(self) -> dict[str, Any]:
        return {"guard": self.guard.state_dict(), "scale": self.scale.state_dict()}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        self.guard.load_state_dict(values["guard"])
        self.scale.load_state_dict(values["scale"])
