"""The loop: step, report, evaluate, save. It knows nothing of GPT, of files or of what is evaluated."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nano_gpt.config.training import TrainingConfig
from nano_gpt.data.loader import TokenLoader
from nano_gpt.errors import Interrupted, NanoGPTError
from nano_gpt.runtime.device import synchronize
from nano_gpt.runtime.distributed import all_reduce_sum
from nano_gpt.runtime.signals import StopRequest
from nano_gpt.training.lr import learning_rate
from nano_gpt.training.metrics import Metrics
from nano_gpt.training.state import RunState
from nano_gpt.training.step import StepResult, TrainStep

Evaluation = Callable[[RunState], None]  # measures, and records what it found


@dataclass
class Trainer:
    """`save` writes a checkpoint of the state; all of the rest is what its name says."""

    config: TrainingConfig
    state: RunState
    loader: TokenLoader
    train_step: TrainStep
    evaluations: Sequence[Evaluation]
    eval_steps: int
    save: Callable[[RunState], None]
    metrics: Metrics
    flops_per_token: int
    peak_flops: float | None
    """FLOP/s of all devices together; None where unknown."""
    _clock: _Clock = field(init=False)

    def run(self) -> None:
        """Train up to max_steps. Raises Interrupted after a signal, when the state is saved."""
        self._clock = _Clock(self.config.max_steps)
        with StopRequest() as stop:
            if not self.state.evaluated:
                self._evaluate()
                if self.state.step and self._is_due(self.config.checkpoint_steps):
                    self.save(self.state)  # a signal had it saved unmeasured; now it may be the best
            while self.state.step < self.config.max_steps:
                result = self._train_one_step()
                self._report(result)
                stopping = stop.agreed()
                if not stopping:
                    self._evaluate()
                if stopping or self._is_due(self.config.checkpoint_steps):
                    self._save(result)
                if stopping:
                    raise Interrupted(
                        f"stopped after step {self.state.step}, saved", "--resume goes on", stop.signal or 2
                    )

    def _train_one_step(self) -> StepResult:
        step = self.state.step
        rate = learning_rate(step, self.config)
        result = self.train_step(step, self.loader.batches(step), self.loader.num_targets(step), rate)
        self.state.advance()
        self._clock.steps += 1
        return result

    def _report(self, result: StepResult) -> None:
        """One line per log_steps, and the only place where a training step waits for the device."""
        step = self.state.step - 1
        if step % self.config.log_steps and self.state.step < self.config.max_steps:
            return
        loss = self._mean_loss(result)  # sync: once per logged step
        synchronize(self.train_step.device)
        seconds = self._clock.seconds_per_step()
        rate = self.config.total_batch_size / seconds
        self.metrics.record(
            "train",
            step,
            loss=loss,
            grad_norm=float(result.grad_norm),
            dt_ms=1000 * seconds,
            tokens_per_second=rate,
            lr=learning_rate(step, self.config),
            mfu=rate * self.flops_per_token / self.peak_flops if self.peak_flops else None,
            eta=self._clock.time_left(self.state.step),
        )
        _check_finite("loss", loss, step)

    def _mean_loss(self, result: StepResult) -> float:
        """Over all tokens of all ranks of the last step."""
        return float(all_reduce_sum(result.loss_sum.clone())) / self.loader.num_targets(self.state.step - 1)

    def _evaluate(self) -> None:
        if self._is_due(self.eval_steps):
            for evaluation in self.evaluations:
                evaluation(self.state)
                _check_finite("validation loss", self.state.validation_loss or 0.0, self.state.step)
            self._clock.restart()
        self.state.evaluated = True

    def _save(self, result: StepResult) -> None:
        """Not what has diverged, so that the last good checkpoint stays the last one."""
        _check_finite("loss", self._mean_loss(result), self.state.step - 1)
        _check_finite("gradient norm", float(result.grad_norm), self.state.step - 1)
        self.save(self.state)
        self._clock.restart()

    def _is_due(self, interval: int) -> bool:
        return self.state.step % interval == 0 or self.state.step == self.config.max_steps


def _check_finite(what: str, value: float, step: int) -> None:
    """All ranks see the same values, so all of them stop here or none."""
    if not math.isfinite(value):
        raise NanoGPTError(
            f"the {what} is {value} at step {step}: the run has diverged, nothing was saved since the last checkpoint",
            "lower training.optimizer.learning_rate, or lengthen the warm-up, and --resume",
        )


class _Clock:
    """Time per step without the time of evaluations and checkpoints, and an estimate of what is left."""

    def __init__(self, max_steps: int) -> None:
        self._max_steps = max_steps
        self._smoothed: float | None = None
        self._told = 0
        self.restart()

    def restart(self) -> None:
        self._since = time.perf_counter()
        self.steps = 0

    def seconds_per_step(self) -> float:
        """Mean since it was last asked or restarted."""
        seconds = (time.perf_counter() - self._since) / max(1, self.steps)
        # The first steps compile and warm up: they would spoil the estimate.
        self._smoothed = seconds if self._smoothed is None or self._told < 3 else 0.9 * self._smoothed + 0.1 * seconds
        self._told += 1
        self.restart()
        return seconds

    def time_left(self, step: int) -> float:
        """Seconds of training until max_steps."""
        return (self._smoothed or 0.0) * (self._max_steps - step)
