"""How a model is trained: batch, optimizer, learning rate, precision, and what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from nano_gpt.config.base import Settings

WARMUP_FRACTION = 0.0375  # GPT-3's 375M of 10B tokens; 715 of GPT-2's 19,073 steps


class OptimizerConfig(Settings):
    """AdamW (Loshchilov & Hutter 2019) with GPT-3's betas."""

    learning_rate: float = Field(default=6e-4, gt=0.0)
    """Peak, reached at the end of the warm-up."""
    weight_decay: float = Field(default=0.1, ge=0.0)
    """Decoupled, on matrices and embeddings only; biases and norms are not decayed."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Decay of the first moment."""
    beta2: float = Field(default=0.95, ge=0.0, lt=1.0)
    """Decay of the second moment."""
    eps: float = Field(default=1e-8, gt=0.0)
    """Added to the root of the second moment."""
    gradient_clip: float = Field(default=1.0, ge=0.0)
    """Largest global gradient norm. 0: not clipped."""


class ScheduleConfig(Settings):
    """Linear warm-up, then half a cosine down to a floor."""

    warmup_steps: NonNegativeInt | None = None
    """Steps of linear warm-up. null: 3.75% of training.max_steps."""
    min_ratio: float = Field(default=0.1, ge=0.0, le=1.0)
    """The floor, as a fraction of the peak."""


class TrainingConfig(Settings):
    """Defaults are the GPT-2 124M run on 10B tokens."""

    max_steps: PositiveInt = 19073
    """Optimizer steps in the whole run."""
    total_batch_size: PositiveInt = 2**19
    """Tokens per optimizer step, over all ranks and micro-batches."""
    micro_batch_size: PositiveInt | None = None
    """Windows per forward on one rank. null: the largest up to 16 that divides a rank's share."""
    seed: NonNegativeInt = 1337
    """Fixes initial weights, order of the data and dropout."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """See OptimizerConfig."""
    lr_schedule: ScheduleConfig = ScheduleConfig()
    """See ScheduleConfig."""
    device: str = "auto"
    """auto (cuda, else mps, else cpu), cpu, cuda, cuda:1, mps."""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Precision of the matrix products; weights and optimizer stay fp32. auto: bf16 where the hardware has it."""
    compile: bool | None = None
    """torch.compile the training step. null: on CUDA only."""
    log_steps: PositiveInt = 1
    """Steps between the lines that tell loss and speed."""
    checkpoint_steps: PositiveInt = 1000
    """Steps between checkpoints; the last step is always kept."""
    keep_checkpoints: PositiveInt = 3
    """Newest checkpoints that are kept; the best one by validation loss is kept besides."""
    checkpoint_dir: Path | None = None
    """Folder of the checkpoints. null: RUN/checkpoints."""
    log_file: Path | None = None
    """Copy of the log lines, appended to. null: RUN/train.log."""

    @model_validator(mode="after")
    def _warmup_ends(self) -> Self:
        if self.warmup_steps > self.max_steps:
            raise ValueError(
                f"lr_schedule.warmup_steps {self.warmup_steps} is more than max_steps {self.max_steps}: "
                "lower it, or leave it out for 3.75% of the run"
            )
        return self

    @property
    def warmup_steps(self) -> int:
        explicit = self.lr_schedule.warmup_steps
        return round(WARMUP_FRACTION * self.max_steps) if explicit is None else explicit
