"""What a run measures on its way: validation loss, HellaSwag, samples. Each is called with the state when it is due."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nano_gpt.config import RunConfig
from nano_gpt.data.loader import evaluation_batches
from nano_gpt.data.manifest import PreparedSet
from nano_gpt.evaluation.hellaswag import HellaSwagTest
from nano_gpt.evaluation.validation import ValidationResult, validation_loss
from nano_gpt.inference.text import sample_texts
from nano_gpt.model.gpt import GPT
from nano_gpt.runtime.device import autocast
from nano_gpt.runtime.distributed import Ranks
from nano_gpt.tokenizer.base import Tokenizer
from nano_gpt.training.metrics import Metrics
from nano_gpt.training.state import RunState


@dataclass(frozen=True)
class Subject:
    """The model under test and where it runs."""

    whole_model: Callable[[], AbstractContextManager[GPT]]
    """Uncompiled, unwrapped, and with all of its weights on this rank: ranks do unequal work."""
    tokenizer: Tokenizer
    device: torch.device
    dtype: torch.dtype
    ranks: Ranks


@dataclass(frozen=True)
class ValidationLoss:
    """Mean over the first windows of the validation split, the same ones every time, shared out over the ranks."""

    subject: Subject
    prepared: PreparedSet
    config: RunConfig
    rows: int
    """Windows per forward."""
    metrics: Metrics
    averaged: Callable[[], AbstractContextManager[Any]] | None = None
    """Puts the average of the weights in their place, to be measured too."""
    documents: Callable[[Tensor], Tensor] | None = None
    """As in the training step."""

    def __call__(self, state: RunState) -> None:
        result = self._measure()
        state.record_validation(result.loss)
        extra = {}
        if self.averaged is not None:
            with self.averaged():
                extra["ema_loss"] = self._measure().loss
        self.metrics.record("val", state.step, loss=result.loss, bits_per_byte=result.bits_per_byte, **extra)

    def _measure(self) -> ValidationResult:
        steps = self.config.evaluation.validation_steps
        subject = self.subject
        batches = evaluation_batches(
            self.prepared.reader("validation"),
            self.config.model.n_positions,
            self.rows,
            subject.ranks.rank,
            subject.ranks.world_size,
            None if steps is None else steps * self.config.windows_per_step,
        )
        density = self.prepared.bytes_per_token("validation")
        with subject.whole_model() as model:
            return validation_loss(
                model, batches, bytes_per_token=density, dtype=subject.dtype, documents=self.documents
            )


@dataclass(frozen=True)
class HellaSwag:
    """Accuracy on the same items every time, shared out over the ranks."""

    subject: Subject
    test: HellaSwagTest
    batch_size: int
    metrics: Metrics

    def __call__(self, state: RunState) -> None:
        with self.subject.whole_model() as model:
            result = self.test.evaluate(model, batch_size=self.batch_size, dtype=self.subject.dtype)
        self.metrics.record("hellaswag", state.step, **result.fields())


@dataclass(frozen=True)
class Samples:
    """A few continuations, drawn by rank 0 while the others wait at the next step."""

    subject: Subject
    config: RunConfig
    metrics: Metrics

    def __call__(self, state: RunState) -> None:
        if state.step == 0:  # untrained weights write noise
            return
        subject = self.subject
        with subject.whole_model() as model:  # all ranks have a part of it
            if not subject.ranks.is_main:
                return
            with autocast(subject.device, subject.dtype):
                texts = sample_texts(model, subject.tokenizer, self.config.sampling)
        for index, text in enumerate(texts):
            self.metrics.record("sample", state.step, index=index, text=text)
