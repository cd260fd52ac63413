"""The loop: step, report, evaluate, save. It knows nothing of GPT, of files, of what is evaluated or hooked in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from nano_gpt.config.training import TrainingConfig
from nano_gpt.data.loader import TokenLoader
from nano_gpt.errors import NanoGPTError
from nano_gpt.runtime.device import synchronize
from nano_gpt.runtime.logs import logger
from nano_gpt.runtime.signals import Stop, StopRequest
from nano_gpt.runtime.usage import memory_in_use
from nano_gpt.training.checkpointing import Checkpointing
from nano_gpt.training.hooks import Hook
from nano_gpt.training.lr import learning_rate
from nano_gpt.training.metrics import Metrics
from nano_gpt.training.state import RunState
from nano_gpt.training.step import OutOfMemory, StepResult, TrainStep

Evaluation = Callable[[RunState], None]  # measures, and records what it found


@dataclass
class Trainer:
    """All of it is what its name says; `flops_per_token` and `peak_flops` are for the MFU."""

    config: TrainingConfig
    state: RunState
    loader: TokenLoader
    train_step: TrainStep
    evaluations: Sequence[Evaluation]
    eval_steps: int
    hooks: Sequence[Hook]
    checkpointer: Checkpointing
    stop: StopRequest
    metrics: Metrics
    flops_per_token: int
    peak_flops: float | None
    """FLOP/s of all devices together; None where unknown."""
    _clock: _Clock = field(init=False)

    def run(self) -> Stop | None:
        """Train up to max_steps, or to a stop, which is then returned. The state is saved when it comes back."""
        self._clock = _Clock()
        with self.stop:
            self._catch_up()
            stop: Stop | None = None
            while stop is None and self.state.step < self.config.max_steps:
                result = self._train_one_step()
                self._report(result)
                stop = self.stop.agreed()
                if stop is None and self._evaluate():
                    stop = self.stop.agreed()
                if stop is not None or self._is_due(self.config.checkpoint_steps):
                    self._save()
            self.checkpointer.finish()
        return stop

    def _catch_up(self) -> None:
        """What was due when the run was stopped."""
        if self._evaluate() and self.state.step and self._is_due(self.config.checkpoint_steps):
            self._save()  # a signal had it saved unmeasured; now it may be the best

    def _train_one_step(self) -> StepResult:
        step = self.state.step
        result = self._apply(step)
        self.state.advance()
        self._clock.count(self.loader.num_tokens(step))
        for hook in self.hooks:
            hook.after_step(self.state, result)
        self.checkpointer.poll()
        return result

    def _apply(self, step: int) -> StepResult:
        """The step, with smaller micro-batches where the device has no memory for these."""
        rate = learning_rate(step, self.config)
        while True:
            try:
                return self.train_step(step, list(self.loader.batches(step)), self.loader.num_targets(step), rate)
            except OutOfMemory as error:
                if error.smaller is None or self.train_step.ranks.world_size > 1:
                    raise  # the other ranks wait in a reduction that this one cannot take part in any more
                logger.warning(f"{error.message} at step {step}: going on with {error.smaller}, the batch is the same")
                self.loader = self.loader.with_micro_batch_size(error.smaller)
            torch.cuda.empty_cache()  # of pieces that are too small for the new shapes; nothing without CUDA

    def _report(self, result: StepResult) -> None:
        """One line per log_steps, and the only place where a training step waits for the device."""
        step = self.state.step - 1
        if step % self.config.log_steps and self.state.step < self.config.max_steps:
            return
        guard = self.train_step.guard
        figures = torch.stack([result.loss, result.grad_norm.float(), guard.skipped, guard.in_a_row])
        loss, grad_norm, skipped, in_a_row = figures.tolist()  # sync: once per logged step
        synchronize(self.train_step.device)
        seconds, tokens_per_second = self._clock.read()
        self.metrics.record(
            "train",
            step,
            loss=loss,
            grad_norm=grad_norm,
            dt_ms=1000 * seconds,
            tokens_per_second=tokens_per_second,
            lr=learning_rate(step, self.config),
            mfu=tokens_per_second * self.flops_per_token / self.peak_flops if self.peak_flops else None,
            eta=self._clock.time_left(self.config.max_steps - self.state.step),
            memory_gb=memory_in_use(self.train_step.device) / 1e9,
            **({"skipped": round(skipped)} if skipped else {}),
        )
        self._watch_skips(step, round(skipped), round(in_a_row))

    def _watch_skips(self, step: int, skipped: int, in_a_row: int) -> None:
        """Tell of them; too many in a row are no accident. All ranks see the same numbers."""
        if new := skipped - self.state.skipped_told:
            logger.warning(f"{new} step{'s' * (new > 1)} up to {step} skipped: the loss or the gradient was no good")
            self.state.skipped_told = skipped
        if in_a_row >= self.config.max_skipped_steps:
            self.checkpointer.finish()
            raise NanoGPTError(
                f"the run has diverged: the last {in_a_row} steps up to {step} had no good loss or gradient",
                "the last checkpoint is from before: lower training.optimizer.learning_rate, or lengthen the warm-up, "
                "and --resume",
            )

    def _evaluate(self) -> bool:
        """Whether anything was due."""
        due = not self.state.evaluated and self._is_due(self.eval_steps)
        if due:
            for evaluation in self.evaluations:
                evaluation(self.state)
                self._check_validation()
            for hook in self.hooks:
                hook.after_evaluation(self.state)
            self._clock.restart()
        self.state.evaluated = True
        return due

    def _check_validation(self) -> None:
        """Weights that give no number are not saved. All ranks see the same loss."""
        loss, step = self.state.validation_loss, self.state.step
        if loss is not None and not math.isfinite(loss):
            self.checkpointer.finish()
            raise NanoGPTError(
                f"the validation loss is {loss} at step {step}: the run has diverged, nothing was saved since the last "
                "checkpoint",
                "lower training.optimizer.learning_rate, or lengthen the warm-up, and --resume",
            )

    def _save(self) -> None:
        self.checkpointer.save(self.state)
        self._clock.restart()

    def _is_due(self, interval: int) -> bool:
        return self.state.step % interval == 0 or self.state.step == self.config.max_steps


class _Clock:
    """Time per step without the time of evaluations and checkpoints, and an estimate of what is left."""

    def __init__(self) -> None:
        self._smoothed: float | None = None
        self._told = 0
        self.restart()

    def restart(self) -> None:
        self._since = time.perf_counter()
        self._steps = self._tokens = 0

    def count(self, tokens: int) -> None:
        """One more step."""
        self._steps += 1
        self._tokens += tokens

    def read(self) -> tuple[float, float]:
        """Seconds per step and tokens per second, since it was last read or restarted."""
        passed = time.perf_counter() - self._since
        seconds, speed = passed / max(1, self._steps), self._tokens / passed
        # The first steps compile and warm up: they would spoil the estimate.
        self._smoothed = seconds if self._smoothed is None or self._told < 3 else 0.9 * self._smoothed + 0.1 * seconds
        self._told += 1
        self.restart()
        return seconds, speed

    def time_left(self, steps: int) -> float:
        """Seconds of training."""
        return (self._smoothed or 0.0) * steps
