"""Adapters beside frozen weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from nano_gpt.config.base import Settings


class LoRAConfig(Settings):
    """Hu et al. 2021."""

    rank: PositiveInt | None = None
    """Rows of the thin matrices. null: no adapters, all weights are trained."""
    alpha: PositiveFloat | None = None
    """What an adapter adds is scaled by alpha / rank. null: twice the rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Probability of dropping an input of an adapter."""
    targets: tuple[Literal["attn", "mlp"], ...] = Field(default=("attn", "mlp"), min_length=1)
    """Which matrices of the blocks have one."""

    @property
    def scale(self) -> float:
        assert self.rank is not None
        return 2.0 if self.alpha is None else self.alpha / self.rank
