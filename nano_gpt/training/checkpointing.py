"""A run's weights, moments and state, into its checkpoint store and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch.optim import Optimizer

from nano_gpt.checkpoint import store as checkpoints
from nano_gpt.checkpoint.store import Checkpoint, CheckpointStore
from nano_gpt.config import RunConfig, to_yaml
from nano_gpt.errors import CheckpointError
from nano_gpt.model.gpt import GPT
from nano_gpt.runtime.distributed import Ranks, barrier, from_main
from nano_gpt.runtime.logs import logger
from nano_gpt.tokenizer.base import Tokenizer
from nano_gpt.training.metrics import Metrics
from nano_gpt.training.optim import load_optimizer_tensors, optimizer_tensors
from nano_gpt.training.state import RunState


@dataclass(frozen=True)
class Checkpointer:
    """Weights are replicated over the ranks, so rank 0 has all there is and writes it while the others wait."""

    config: RunConfig
    store: CheckpointStore
    model: GPT
    optimizer: Optimizer
    tokenizer: Tokenizer
    metrics: Metrics
    ranks: Ranks

    def save(self, state: RunState) -> None:
        """Raises, on all ranks, what keeps rank 0 from writing: DiskFullError, with the older checkpoints untouched."""
        best = state.claim_best()
        path = from_main(lambda: self._write(state, best))
        self.metrics.record("checkpoint", state.step, path=str(path), best=best)

    def _write(self, state: RunState, best: bool) -> Path:
        values = {**state.state_dict(), "tokens": state.step * self.config.training.total_batch_size}
        tensors = optimizer_tensors(self.optimizer, self.model)
        checkpoint = Checkpoint(dict(self.model.state_dict()), tensors, values, to_yaml(self.config))
        return self.store.save(checkpoint, self.config.model, self.tokenizer, best=best)

    def restore(self, state: RunState, path: Path) -> None:
        """From the checkpoint `path`. Raises CheckpointError with nothing half loaded."""
        saved = checkpoints.load(path)
        if saved.state["data_fingerprint"] != state.data_fingerprint:
            raise CheckpointError(
                f"the prepared set is not the one that {path} was trained on",
                "prepare it again as it was, or start a new run",
            )
        load_optimizer_tensors(self.optimizer, self.model, saved.optimizer)
        self.model.load_state_dict(saved.model)
        state.load_state_dict(saved.state)
        barrier()  # before rank 0 renames what another rank may still be reading
        if self.ranks.is_main:
            self.store.abandon_after(state.step)
        logger.info(f"resumed: {path}, step {state.step}")
