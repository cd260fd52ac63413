"""Which optimizer steps are not to be applied: decided on the device, so that the host need not wait for it.

A step is skipped where its loss or its gradient is not a finite number, and, if it is asked for, where the gradient
norm stands out from those before it. All ranks see the same loss and norm, so they decide the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_HORIZON = 100  # steps over which the recent gradient norms are averaged
_WARM_UP = 50  # norms that must have been seen before one of them can stand out


class StepGuard:
    """Counts and figures are scalars on `device`; `state_dict` waits for it."""

    def __init__(self, device: torch.device, spike_threshold: float | None = None) -> None:
        """`spike_threshold` is in standard deviations of the recent norms' logarithm; None: norms are not compared."""
        self._threshold = spike_threshold
        self.skipped = torch.zeros((), device=device)
        """Steps that were skipped in this run."""
        self.in_a_row = torch.zeros((), device=device)
        """How many of them were the last ones."""
        self._seen = torch.zeros((), device=device)
        self._mean = torch.zeros((), device=device)
        self._variance = torch.zeros((), device=device)

    def judge(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """1.0 where the step must be skipped, else 0.0: a scalar on the device."""
        bad = ~(torch.isfinite(loss) & torch.isfinite(grad_norm))
        if self._threshold is not None:
            bad |= self._stands_out(grad_norm.detach().log(), bad)
        skip = bad.float()
        self.skipped += skip
        self.in_a_row = (self.in_a_row + 1) * skip
        return skip

    def _stands_out(self, log_norm: Tensor, bad: Tensor) -> Tensor:
        """Whether it lies too far above the exponential moving average; if not, it becomes part of it.

        Norms are roughly log-normal. Weights of the average begin at 1, 1/2, 1/3, ..., so that it has no bias at first.
        """
        assert self._threshold is not None
        distance = log_norm - self._mean
        spike = (self._seen >= _WARM_UP) & (distance > self._threshold * self._variance.sqrt())
        keep = (~(spike | bad)).float()
        weight = keep / (self._seen + 1).clamp(max=_HORIZON)
        distance = torch.where(keep > 0, distance, 0.0)  # not a number times zero is not a number
        self._mean += weight * distance
        self._variance = (1 - weight) * (self._variance + weight * distance.square())
        self._seen += keep
        return spike

    def state_dict(self) -> dict[str, float]:
        return {name: float(tensor) for name, tensor in self._tensors().items()}  # sync: when a checkpoint is made

    def load_state_dict(self, values: dict[str, Any]) -> None:
        for name, tensor in self._tensors().items():
            tensor.fill_(values[name])

    def _tensors(self) -> dict[str, Tensor]:
        return {
            "skipped": self.skipped,
            "in_a_row": self.in_a_row,
            "seen": self._seen,
            "mean": self._mean,
            "variance": self._variance,
        }
