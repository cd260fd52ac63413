"""How a model is held while it is measured, and what it thinks of given tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano_gpt.model.gpt import GPT
from nano_gpt.model.loss import IGNORED_TARGET
from nano_gpt.runtime.device import autocast

HEAD_POSITIONS = 1024  # positions that have logits at one time: 200 MB in fp32 with GPT-2's vocabulary


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


def target_log_probabilities(model: GPT, hidden: Tensor, targets: Tensor) -> Tensor:
    """(N, C) of the last LayerNorm and (N,) ids -> (N,) log-probabilities in fp32, 0 where the target is ignored.

    The vocabulary is far wider than the model, so its logits are made for some positions at a time.
    """
    pieces = zip(torch.split(hidden, HEAD_POSITIONS), torch.split(targets, HEAD_POSITIONS), strict=True)
    return torch.cat(
        [-F.cross_entropy(model.head(x).float(), y, ignore_index=IGNORED_TARGET, reduction="none") for x, y in pieces]
    )
