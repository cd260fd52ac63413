"""Where a run stands: what a checkpoint has to remember beside weights and moments."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class RunState:
    """Mutable, one per run; the data's position, the learning rate and all seeds follow from `step`."""

    step: int = 0
    """Optimizer steps done."""
    evaluated: bool = False
    """Whether the evaluations that are due at this step have been made."""
    validation_loss: float | None = None
    """The last one measured, in nats per token."""
    validation_step: int | None = None
    """When that was."""
    best_validation_loss: float | None = None
    """The lowest one of all checkpoints."""
    skipped_told: int = 0
    """Skipped steps that the log has told of."""
    data_fingerprint: str = ""
    """Of the prepared set: a run goes on with the data that it began with, or not at all."""

    def advance(self) -> None:
        self.step += 1
        self.evaluated = False

    def record_validation(self, loss: float) -> None:
        self.validation_loss, self.validation_step = loss, self.step

    def claim_best(self) -> bool:
        """Whether the model as it is now is better than every checkpoint before; if so, it is the mark to beat."""
        if self.validation_loss is None or self.validation_step != self.step:
            return False
        if self.best_validation_loss is not None and self.validation_loss >= self.best_validation_loss:
            return False
        self.best_validation_loss = self.validation_loss
        return True

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, values: dict[str, Any]) -> None:
        for name in asdict(self).keys() & values.keys():  # an older checkpoint may know fewer
            setattr(self, name, values[name])
