"""How a model is held while it is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from nano_gpt.runtime.device import autocast


@contextmanager
def scoring_mode(model: nn.Module, dtype: torch.dtype) -> Iterator[torch.device]:
    """No dropout, no gradients, matrix products in `dtype`; yields the model's device. Restores training mode."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), autocast(device, dtype):
            yield device
    finally:
        model.train(was_training)
