"""A run's weights, moments and state, into its checkpoint store and back.

Training waits for the copy to host memory only; a thread writes, hashes and renames while the next steps are made.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch.optim import Optimizer

from nano_gpt.checkpoint import store as checkpoints
from nano_gpt.checkpoint.adapter import Adapter
from nano_gpt.checkpoint.store import Checkpoint, CheckpointStore
from nano_gpt.config import RunConfig, to_yaml
from nano_gpt.errors import CheckpointError
from nano_gpt.model.lora import trained_state
from nano_gpt.runtime.distributed import Ranks, barrier, from_main
from nano_gpt.runtime.files import DiskFullError
from nano_gpt.runtime.logs import logger
from nano_gpt.tokenizer.base import Tokenizer
from nano_gpt.training.ema import WeightAverage
from nano_gpt.training.metrics import Metrics
from nano_gpt.training.optim import load_optimizer_tensors, optimizer_tensors
from nano_gpt.training.state import RunState
from nano_gpt.training.strategies import Strategy

T = TypeVar("T")


class Stateful(Protocol):
    """What remembers a little over a restart, as JSON."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, values: dict[str, Any]) -> None: ...


class Checkpointing(Protocol):
    """What the loop needs. All are called on all ranks."""

    def save(self, state: RunState) -> None: ...

    def poll(self) -> None:
        """Tell of a checkpoint that has been written meanwhile."""

    def finish(self) -> None:
        """Wait until all is written. Raises, on all ranks, what kept the last one from it."""


@dataclass(frozen=True)
class _Written:
    """A checkpoint on its way to the disk."""

    step: int
    best: bool
    best_before: float | None
    stall_ms: float
    thread: threading.Thread
    future: Future[tuple[Path, float]]
    """Its folder, and the seconds that it took."""


@dataclass
class Checkpointer:
    """Rank 0 writes: every rank hands it what it holds of the weights and moments."""

    config: RunConfig
    store: CheckpointStore
    strategy: Strategy
    optimizer: Optimizer
    average: WeightAverage | None
    parts: Mapping[str, Stateful]
    """What else is restored, by name."""
    tokenizer: Tokenizer
    metrics: Metrics
    ranks: Ranks
    tokens_before: Callable[[int], int]
    """Tokens trained on before a step."""
    _pending: _Written | None = field(default=None, init=False)
    _state: RunState | None = field(default=None, init=False)

    def save(self, state: RunState) -> None:
        """Copy everything to the host and leave the rest to the thread; a disk that is full does not end the run."""
        self._settle()
        began = time.perf_counter()
        best_before = state.best_validation_loss
        best = state.claim_best()
        checkpoint = self._copied(state)
        if self.ranks.is_main:
            stall = 1000 * (time.perf_counter() - began)
            written = _in_background(lambda: self._write(checkpoint, best))
            self._state, self._pending = state, _Written(state.step, best, best_before, stall, *written)

    def poll(self) -> None:
        if self._pending is not None and not self._pending.thread.is_alive():
            self._settle()

    def finish(self) -> None:
        from_main(lambda: self._settle(last=True))

    def close(self) -> None:
        """Where the run ended otherwise: wait for what this rank is writing, without a word to the others."""
        self._settle()

    def _copied(self, state: RunState) -> Checkpoint:
        """On rank 0 with all tensors in memory of their own; a collective."""
        to_host = self.strategy.to_host
        model = to_host(trained_state(self.strategy.model))
        optimizer = to_host(optimizer_tensors(self.optimizer, self.strategy.model))
        average = to_host(self.average.tensors()) if self.average is not None else None
        values = {
            **state.state_dict(),
            "tokens": self.tokens_before(state.step),
            "parts": {name: values for name, part in self.parts.items() if (values := part.state_dict())},
        }
        training = self.config.training
        adapter = Adapter(training.pretrained, training.lora) if training.pretrained and training.lora.rank else None
        return Checkpoint(model, optimizer, values, to_yaml(self.config), average, adapter)

    def _write(self, checkpoint: Checkpoint, best: bool) -> tuple[Path, float]:
        began = time.perf_counter()
        path = self.store.save(checkpoint, self.config.model, self.tokenizer, best=best)
        return path, time.perf_counter() - began

    def _settle(self, *, last: bool = False) -> None:
        """Wait for what is being written, and tell how it went. Raises DiskFullError for the last one only."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        # The thread outlives its result while it gives the tensors back; and one that is in torch while Python takes
        # itself apart aborts the process ("terminate called without an active exception").
        pending.thread.join()
        try:
            path, seconds = pending.future.result()
        except DiskFullError as error:
            if last:
                raise
            assert self._state is not None
            if self._state.best_validation_loss is not None and pending.best:
                self._state.best_validation_loss = pending.best_before  # what was not written is no mark to beat
            logger.warning(f"no checkpoint of step {pending.step}: {error.message}; going on, the older ones are whole")
            return
        self.metrics.record(
            "checkpoint",
            pending.step,
            path=str(path),
            best=pending.best,
            stall_ms=pending.stall_ms,
            seconds=seconds,
        )

    def restore(self, state: RunState, path: Path) -> None:
        """From the checkpoint `path`. Raises CheckpointError with nothing half loaded."""
        saved = checkpoints.load(path)
        if saved.state["data_fingerprint"] != state.data_fingerprint:
            raise CheckpointError(
                f"the prepared set is not the one that {path} was trained on",
                "prepare it again as it was, or start a new run",
            )
        load_optimizer_tensors(self.optimizer, self.strategy.model, saved.optimizer)
        self.strategy.load_weights(saved.model)
        if self.average is not None and saved.average is not None:
            self.average.load(saved.average)
        elif self.average is not None:
            logger.info(f"the average of the weights begins here: {path} has none")
        state.load_state_dict(saved.state)
        for name, values in saved.state.get("parts", {}).items():
            if name in self.parts:
                self.parts[name].load_state_dict(values)
        barrier()  # before rank 0 renames what another rank may still be reading
        if self.ranks.is_main:
            self.store.abandon_after(state.step)
        logger.info(f"resumed: {path}, step {state.step}")


def _in_background(write: Callable[[], T]) -> tuple[threading.Thread, Future[T]]:
    """In a thread that does not keep the process alive: what it leaves half done is passed over afterwards."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(write())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name="checkpoint", daemon=True)
    thread.start()
    return thread, future
