"""Everything that a training run is: write it down, and the run can be repeated."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from nano_gpt.config.base import Settings
from nano_gpt.config.data import DataConfig
from nano_gpt.config.evaluation import EvaluationConfig
from nano_gpt.config.inference import SamplingConfig
from nano_gpt.config.model import GPTConfig
from nano_gpt.config.training import TrainingConfig


class RunConfig(Settings):
    """`nano-gpt config` prints one, `--config` reads it back, `run/config.yaml` keeps it."""

    model: GPTConfig = GPTConfig()
    """The network."""
    data: DataConfig = DataConfig()
    """The text."""
    training: TrainingConfig = TrainingConfig()
    """The steps."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """The measurements."""
    sampling: SamplingConfig = SamplingConfig()
    """The samples that are printed on the way."""

    @model_validator(mode="after")
    def _batch_is_whole_windows(self) -> Self:
        if self.training.pretrained is not None and "n_positions" not in self.model.model_fields_set:
            return self  # the weights will say
        window = self.model.n_positions
        for name in ("total_batch_size", "batch_ramp_start"):
            batch = getattr(self.training, name) or 0
            if batch % window:
                lower, upper = batch // window * window, (batch // window + 1) * window
                remedy = f"{lower} or {upper}" if lower else f"{upper}"
                raise ValueError(
                    f"training.{name} {batch} is not a multiple of model.n_positions {window}: {remedy} would do"
                )
        return self

    @property
    def windows_per_step(self) -> int:
        return self.training.total_batch_size // self.model.n_positions
