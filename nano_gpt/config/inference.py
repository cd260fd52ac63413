"""How text is drawn from a model."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from nano_gpt.config.base import Settings


class SamplingConfig(Settings):
    """Used by `sample`, and by `train` for the samples that it prints."""

    prompt: str = "Hello, I'm a language model,"
    """Text to continue. Empty: start from <|endoftext|>, that is, from nothing."""
    num_sequences: NonNegativeInt = 5
    """Continuations per prompt. 0 in a training run: no samples."""
    max_length: PositiveInt = 30
    """Tokens of a whole sequence, the prompt included."""
    temperature: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    """Divides the logits. 0: greedy, always the likeliest token."""
    top_k: PositiveInt | None = 50
    """Draw from the k likeliest tokens only. null: from all."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0, allow_inf_nan=False)
    """Draw from the smallest set of tokens with at least this probability. 1: from all."""
    min_p: float = Field(default=0.0, ge=0.0, le=1.0, allow_inf_nan=False)
    """Draw from the tokens that have at least this share of the likeliest one's probability. 0: from all."""
    repetition_penalty: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    """Above 1, tokens that are in the prompt or the text already become less likely. 1: as the model has it."""
    stop: tuple[str, ...] = ()
    """A sequence ends before the first of these strings."""
    seed: NonNegativeInt = 42
    """Sequence i of a call depends on (seed, i) alone."""

    @field_validator("stop")
    @classmethod
    def _has_no_empty_string(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError("an empty string would end every text at once")
        return stop
