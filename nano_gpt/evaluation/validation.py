"""Validation loss: the mean cross-entropy over every token of every rank.

Ranks score their own batches and add up two numbers, so the result does not depend on how the windows were shared
out, and a last batch that is short weighs what it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from nano_gpt.errors import DataError
from nano_gpt.evaluation.scoring import scoring_mode, target_log_probabilities
from nano_gpt.model.gpt import GPT
from nano_gpt.model.loss import IGNORED_TARGET
from nano_gpt.runtime.device import send
from nano_gpt.runtime.distributed import all_reduce_sum

if TYPE_CHECKING:
    from nano_gpt.data.loader import Batch


@dataclass(frozen=True)
class ValidationResult:
    """What a model expects of text that it was not trained on."""

    kind: ClassVar = "val"
    loss: float
    """Mean cross-entropy per token, in nats."""
    tokens: int
    """Targets that were scored, over all ranks."""
    bits_per_byte: float | None
    """Comparable between tokenizers; None where the size of the text is not known."""

    @property
    def perplexity(self) -> float:
        """exp(loss), infinite where that is more than a float holds."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    def fields(self) -> dict[str, Any]:
        """For a metrics event, whose own `tokens` are those trained on."""
        return {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "tokens_evaluated": self.tokens,
        }

    def summary(self) -> str:
        """`val: loss: 1.8800 | perplexity: 6.5535 | bits_per_byte: 2.7123 | tokens_evaluated: 111540`"""
        bits = "-" if self.bits_per_byte is None else f"{self.bits_per_byte:.4f}"
        return (
            f"val: loss: {self.loss:.4f} | perplexity: {self.perplexity:.4f} | bits_per_byte: {bits} | "
            f"tokens_evaluated: {self.tokens}"
        )


def validation_loss(
    model: GPT,
    batches: Iterable[Batch],
    *,
    bytes_per_token: float | None = None,
    dtype: torch.dtype = torch.float32,
    documents: Callable[[Tensor], Tensor] | None = None,
) -> ValidationResult:
    """Score this rank's `batches` and add up over the ranks; every rank gets the same result.

    `bytes_per_token` is that of the whole split; with it, a part of the split gets bits per byte as if its text were
    as dense as the rest. `documents` gives the documents of (B, T) ids that tokens must stay in.
    Every rank must call. Raises DataError when no rank has a target.
    """
    losses: list[Tensor] = []
    counts: list[Tensor] = []
    with scoring_mode(model, dtype) as device:
        for batch in batches:
            ids = send(batch.ids, device)
            hidden = model.hidden(ids, documents=documents(ids) if documents else None).flatten(0, 1)  # (B * T, C)
            targets = send(batch.targets, device).flatten()
            losses.append(-target_log_probabilities(model, hidden, targets).sum())
            counts.append((batch.targets != IGNORED_TARGET).sum())
    # sync: once, and in fp64 on the CPU, since MPS has none and long sums of fp32 drift
    sums = torch.stack([_total(losses), _total(counts)])
    loss_sum, tokens = all_reduce_sum(sums).tolist()
    if not tokens:
        raise DataError("there is nothing to validate on: the validation split is empty")
    loss = loss_sum / tokens
    return ValidationResult(
        loss, int(tokens), None if bytes_per_token is None else bits_per_byte(loss, bytes_per_token)
    )


def bits_per_byte(loss: float, bytes_per_token: float) -> float:
    """Nats per token -> bits per UTF-8 byte of the text.

    `bytes_per_token` counts all tokens, `<|endoftext|>` too, which stands for no byte but has to be predicted.
    """
    return loss / math.log(2) / bytes_per_token


def _total(values: list[Tensor]) -> Tensor:
    return torch.stack(values).cpu().double().sum() if values else torch.zeros((), dtype=torch.float64)
