"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from nano_gpt.config.training import TrainingConfig


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear from peak / warmup_steps up to the peak, then half a cosine down to min_ratio of it at max_steps."""
    peak, floor = config.optimizer.learning_rate, config.optimizer.learning_rate * config.lr_schedule.min_ratio
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    progress = min(1.0, (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps))
    return floor + 0.5 * (1.0 + math.cos(math.pi * progress)) * (peak - floor)
