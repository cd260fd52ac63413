"""Validation loss: the mean cross-entropy over every token of every rank.

Ranks score windows of their own and put together what they found, so the result does not depend on how the windows
were shared out, and a last window that is short weighs what it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from nano_gpt.errors import DataError
from nano_gpt.evaluation.results import Items
from nano_gpt.evaluation.scoring import of_all_ranks, score_tokens, scoring_mode
from nano_gpt.model.attention import document_mask
from nano_gpt.model.gpt import GPT
from nano_gpt.model.loss import IGNORED_TARGET
from nano_gpt.runtime.device import send

if TYPE_CHECKING:
    from nano_gpt.data.loader import Batch


@dataclass(frozen=True, eq=False)
class ValidationResult:
    """What a model expects of text that it was not trained on."""

    windows: Items
    """(windows, 2): the summed cross-entropy in nats of each, over all ranks, and how many targets it has."""
    bytes_per_token: float | None = None
    """UTF-8 bytes of text for each token; None where the size of the text is not known."""
    text: str | None = None
    """Which text it was, by name."""

    kind: ClassVar[str] = "val"

    @property
    def loss(self) -> float:
        """Mean cross-entropy per token, in nats."""
        return float(self.windows[:, 0].sum() / self.tokens)

    @property
    def tokens(self) -> int:
        """Targets that were scored."""
        return int(self.windows[:, 1].sum())

    @property
    def stderr(self) -> float | None:
        """Standard error of the loss, a ratio of two sums over windows (Cochran, Sampling Techniques, 2.13).

        As if windows were drawn one by one: neighbours are of one document often, and then it is a little more.
        """
        count = len(self.windows)
        residuals = self.windows[:, 0] - self.loss * self.windows[:, 1]
        return float(math.sqrt(count / (count - 1) * (residuals**2).sum()) / self.tokens) if count > 1 else None

    @property
    def bits_per_byte(self) -> float | None:
        """Comparable between tokenizers."""
        return None if self.bytes_per_token is None else bits_per_byte(self.loss, self.bytes_per_token)

    @property
    def perplexity(self) -> float:
        """exp(loss), infinite where that is more than a float holds."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    def fields(self) -> dict[str, Any]:
        """For JSON."""
        error = self.stderr
        known = error is not None and self.bytes_per_token is not None
        return {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "tokens_evaluated": self.tokens,
            "stderr": error,
            "bits_per_byte_stderr": bits_per_byte(error, self.bytes_per_token) if known else None,  # type: ignore[arg-type]
        }

    def items(self) -> dict[str, Items]:
        found = {"loss": self.windows}
        if self.bytes_per_token is not None:
            scale = np.array([1 / math.log(2), self.bytes_per_token])  # bits, bytes
            found["bits_per_byte"] = self.windows * scale
        return found


def validation_loss(
    model: GPT,
    batches: Iterable[Batch],
    *,
    bytes_per_token: float | None = None,
    dtype: torch.dtype = torch.float32,
    documents: Callable[[Tensor], Tensor] | None = None,
    text: str | None = None,
) -> ValidationResult:
    """Score this rank's `batches`, a window per row; every rank gets the result of all of them.

    `bytes_per_token` is that of the whole split; with it, a part of the split gets bits per byte as if its text were
    as dense as the rest. `documents` gives the documents of (B, T) ids that tokens must stay in.
    Every rank must call. Raises DataError when no rank has a target.
    """
    losses = [torch.empty(0)]
    counts = [torch.empty(0)]
    with scoring_mode(model, dtype) as device:
        for batch in batches:
            wanted = (batch.targets != IGNORED_TARGET).flatten()
            losses.append(_window_losses(model, batch, wanted.nonzero().squeeze(1), device, documents))
            counts.append(wanted.view(batch.targets.shape).sum(1))
    # sync: once, and in fp64 on the CPU, since MPS has none and long sums of fp32 drift
    windows = of_all_ranks(torch.stack([_joined(losses), _joined(counts)], dim=1)).numpy()
    windows = windows[windows[:, 1] > 0]
    if not len(windows):
        raise DataError("there is nothing to validate on: the validation split is empty")
    return ValidationResult(windows, bytes_per_token, text)


def _window_losses(
    model: GPT,
    batch: Batch,
    wanted: Tensor,
    device: torch.device,
    documents: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """(B,) sums of the cross-entropy at the places `wanted` of the flattened batch."""
    ids, places = send(batch.ids, device), send(wanted, device)
    mask = document_mask(documents(ids)) if documents else None
    hidden = model.hidden(ids, mask=mask).flatten(0, 1)  # (B, T, C) -> (B * T, C)
    scores = score_tokens(model, hidden[places], send(batch.targets.flatten()[wanted], device))
    by_place = torch.zeros(ids.numel(), device=device).index_copy(0, places, scores.log_probabilities)
    return -by_place.view(ids.shape).sum(1)


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.double() for part in (part.cpu() for part in parts)])


def bits_per_byte(loss: float, bytes_per_token: float) -> float:
    """Nats per token -> bits per UTF-8 byte of the text.

    `bytes_per_token` counts all tokens, `<|endoftext|>` too, which stands for no byte but has to be predicted.
    """
    return loss / math.log(2) / bytes_per_token
