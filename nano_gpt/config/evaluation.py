"""What is measured, on how much, how often."""

from __future__ import annotations

from pathlib import Path

from pydantic import NonNegativeInt, PositiveInt

from nano_gpt.config.base import Settings


class EvaluationConfig(Settings):
    """Validation loss and HellaSwag, while training and in `eval`."""

    eval_steps: PositiveInt = 250
    """Training steps between evaluations; the first and the last step are always evaluated."""
    validation_steps: NonNegativeInt | None = 20
    """Batches of training.total_batch_size tokens, from the start of the validation split. 0: none. null: all of it."""
    hellaswag_samples: NonNegativeInt | None = 0
    """HellaSwag items, from the first. 0: none. null: all of them."""
    hellaswag_file: Path | None = None
    """HellaSwag as .jsonl, for machines without a network. null: the hub's Rowan/hellaswag, validation split."""
    batch_size: PositiveInt = 32
    """Rows of text scored in one forward."""
