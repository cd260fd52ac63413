"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from nano_gpt.config.training import TrainingConfig


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear from peak / warmup_steps up to the peak, then as the schedule goes, to min_ratio of it at max_steps."""
    peak, floor = config.optimizer.learning_rate, config.optimizer.learning_rate * config.lr_schedule.min_ratio
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    return floor + _height(step, config) * (peak - floor)


def _height(step: int, config: TrainingConfig) -> float:
    """Where the rate is after the warm-up, between the floor, 0, and the peak, 1."""
    schedule = config.lr_schedule
    progress = min(1.0, (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps))
    match schedule.name:
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        case "linear":
            return 1.0 - progress
        case "wsd":  # warm-up, stable, decay (Hu et al. 2024)
            return min(1.0, max(0, config.max_steps - step) / (schedule.decay_fraction * config.max_steps))
        case "constant":
            return 1.0
