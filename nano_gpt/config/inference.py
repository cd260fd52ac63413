"""How text is drawn from a model."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveInt

from nano_gpt.config.base import Settings


class SamplingConfig(Settings):
    """Used by `sample`, and by `train` for the samples that it prints."""

    prompt: str = "Hello, I'm a language model,"
    """Text to continue. Empty: start from <|endoftext|>, that is, from nothing."""
    num_sequences: NonNegativeInt = 5
    """Continuations per prompt. 0 in a training run: no samples."""
    max_length: PositiveInt = 30
    """Tokens of a whole sequence, the prompt included."""
    temperature: float = Field(default=1.0, ge=0.0)
    """Divides the logits. 0: greedy, always the likeliest token."""
    top_k: PositiveInt | None = 50
    """Draw from the k likeliest tokens only. null: from all."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Draw from the smallest set of tokens with at least this probability. 1: from all."""
    seed: NonNegativeInt = 42
    """Sequence i of a call depends on (seed, i) alone."""
