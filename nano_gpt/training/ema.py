"""A moving average of the weights: less noisy than the last ones, and often the better model (Polyak & Juditsky 1992).

average = WeightAverage(model, decay=0.999)
average.update(skip)        # after every step
with average.in_place():    # the model is the average here
    evaluate(model)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nano_gpt.errors import CheckpointError
from nano_gpt.training.dtensor import local, placed_like


class WeightAverage:
    """An exponential moving average of all weights in fp32, on their devices; under fsdp a rank has that of its shards.

    The weights after step s of t count as decay^(t - s), divided by the sum of those: a mean from the first step on. An
    average that starts from a copy of the initial weights, as is also done, would carry them along for some
    1 / (1 - decay) steps, and early evaluations would see more of noise than of what was learned.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._parameters = dict(model.named_parameters())
        self._tensors = {
            name: parameter.detach().to(torch.float32, copy=True) for name, parameter in self._parameters.items()
        }
        self._decay = decay
        device = local(next(iter(self._parameters.values()))).device
        self._total = torch.zeros((), device=device)
        """Sum of the weights' shares, 1 + decay + decay^2 + ..., over the steps so far."""

    @torch.no_grad()
    def update(self, skip: Tensor) -> None:
        """Take in the weights as they are now, unless `skip`, a scalar on the device, says that they did not move."""
        skipped = skip.bool()
        self._total = torch.where(skipped, self._total, 1 + self._decay * self._total)
        share = torch.where(skipped, 0.0, 1 / self._total)  # of the newest weights: 1 at first, in the end 1 - decay
        averages = [local(tensor) for tensor in self._tensors.values()]
        weights = [local(parameter).float() for parameter in self._parameters.values()]
        # As many kernels as tensors on CUDA, but no wait: a number for the share would have to come from the device.
        torch._foreach_lerp_(averages, weights, [share] * len(averages))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the average for weights; afterwards its own again, bit for bit, whatever happened meanwhile.

        Costs one more copy of the weights, at a time when there are no gradients.
        """
        own = {name: local(parameter).clone() for name, parameter in self._parameters.items()}
        try:
            self._write(self._tensors)
            yield
        finally:
            self._write(own)

    @torch.no_grad()
    def _write(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            local(parameter).copy_(local(tensors[name]))

    def tensors(self) -> dict[str, Tensor]:
        """The average by the names of the weights, no copies: DTensors where the weights are."""
        return self._tensors

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from whole tensors, the same on all ranks. Raises CheckpointError if they are not the model's.

        Taken for the average of a long run, or for what to start from, unless `load_state_dict` follows.
        """
        if unmatched := tensors.keys() ^ self._tensors.keys():
            raise CheckpointError(f"the average does not fit the model: {min(unmatched)} is in one of them only")
        for name, own in self._tensors.items():
            local(own).copy_(local(placed_like(tensors[name], own)))
        self._total.fill_(1 / (1 - self._decay))

    def state_dict(self) -> dict[str, float]:
        return {"total": float(self._total)}  # sync: when a checkpoint is made

    def load_state_dict(self, values: dict[str, Any]) -> None:
        self._total.fill_(values["total"])
