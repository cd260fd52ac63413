"""A batch that begins small and doubles until it is whole, as a pure function of the step.

Early in a run gradients agree so well that a small batch does as much for the loss (McCandlish et al. 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

from nano_gpt.config import RunConfig


@dataclass(frozen=True)
class BatchRamp:
    """From `start` windows in step 0 to `total` in step `steps`; every size on the way is kept for equally long.

    total = start * 2^k: k sizes in `steps` steps. No ramp is a start of `total`.
    """

    start: int
    total: int
    steps: int

    def __post_init__(self) -> None:
        assert self.start << self._doublings == self.total, (self.start, self.total)

    @property
    def _doublings(self) -> int:
        return (self.total // self.start).bit_length() - 1

    def windows(self, step: int) -> int:
        """In that step, over all ranks."""
        return self.first(step + 1) - self.first(step)

    def first(self, step: int) -> int:
        """Before that step: the number of its first window."""
        count, begin = 0, 0
        for doubling in range(self._doublings):
            end = -(-(doubling + 1) * self.steps // self._doublings)  # rounded up
            count += (self.start << doubling) * (min(step, end) - min(step, begin))
            begin = end
        return count + self.total * (step - min(step, begin))


def batch_ramp(config: RunConfig) -> BatchRamp:
    training, window = config.training, config.model.n_positions
    start = training.batch_ramp_start or training.total_batch_size
    return BatchRamp(start // window, training.total_batch_size // window, training.batch_ramp_steps)
