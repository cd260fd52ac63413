"""What a training step sees, read again afterwards: for the day that the loss spikes at step s.

Which tokens those are follows from the settings and the set alone (`data/loader.py`), not from ranks, restarts or the
machine. So the batches are made here as the run makes them, by one rank with one window at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nano_gpt.checkpoint.folder import read_json
from nano_gpt.checkpoint.store import SETTINGS, STATE, CheckpointStore, checkpoints_of
from nano_gpt.config import RunConfig, resolve
from nano_gpt.data.catalog import prepared_folder
from nano_gpt.data.manifest import PreparedSet, open_prepared
from nano_gpt.errors import CheckpointError, ConfigError
from nano_gpt.model.loss import IGNORED_TARGET
from nano_gpt.training.plan import Plan


@dataclass(frozen=True)
class Window:
    """A row of the step's batch."""

    row: int
    """Which one, counted over all ranks in order."""
    number: int
    """Which window of the split."""
    epoch: int
    start: int
    """The split's token that it begins with."""
    ids: npt.NDArray[np.int64]
    """(T,) inputs; fewer in the last window of the split, where the model sees a filling that counts for nothing."""
    targets: npt.NDArray[np.int64]
    """As many: `ids` one further."""


@dataclass(frozen=True)
class Replay:
    """A run's settings and the set that it is trained on."""

    config: RunConfig
    prepared: PreparedSet

    def windows(self, step: int) -> Iterator[Window]:
        """All windows of a step. Raises ConfigError for one that the run does not have."""
        last = self.config.training.max_steps - 1
        if not 0 <= step <= last:
            raise ConfigError(f"there is no step {step:,} in this run: it has the steps 0 to {last:,}")
        loader = Plan(self.config, world_size=1, micro_batch_size=1).loader(self.prepared.reader("train"))
        T = self.config.model.n_positions
        numbers = loader.windows(step).tolist()
        for row, (number, batch) in enumerate(zip(numbers, loader.batches(step), strict=True)):
            targets = batch.targets[0].numpy()
            length = int(np.count_nonzero(targets != IGNORED_TARGET))
            epoch = (loader.windows_before(step) + row) // loader.num_windows
            yield Window(row, number, epoch, number * T, batch.ids[0].numpy()[:length], targets[:length])


def settings_file(path: Path) -> Path:
    """A run folder -> its config.yaml; a file stays what it is."""
    return path / SETTINGS if path.is_dir() else path


def open_replay(file: Path, prepared: PreparedSet | None = None, *, dataset_dir: Path | None = None) -> Replay:
    """The run that a YAML describes. `prepared` or `dataset_dir` is where its set lies now, if it was moved.

    Raises ConfigError for settings that are none, DataError where the set is missing, CheckpointError where it is not
    the one that the run's checkpoints were trained on.
    """
    config = resolve(file=settings_file(file), flags={"data.dataset_dir": dataset_dir})
    prepared = prepared or open_prepared(prepared_folder(config.data))
    if config.model.vocab_size not in (None, prepared.manifest.vocab_size):
        raise ConfigError(
            f"{file} is about {config.model.vocab_size:,} ids, and {prepared.folder} has "
            f"{prepared.manifest.vocab_size:,}: another tokenizer made them"
        )
    run = settings_file(file).parent
    recorded = _recorded_fingerprint(run) if settings_file(file).name == SETTINGS else None
    if recorded not in (None, prepared.fingerprint):
        raise CheckpointError(
            f"{prepared.folder} is not what {run} was trained on: its tokens are others",
            "prepare it again as it was; or name the folder where that set lies now",
        )
    return Replay(config, prepared)


def _recorded_fingerprint(run: Path) -> str | None:
    """Of the set, as the run's newest checkpoint has it; None where there is no checkpoint."""
    store = CheckpointStore(checkpoints_of(run), keep=1)
    for step in reversed(store.steps()):
        try:
            fingerprint = read_json(store.path(step) / STATE).get("data_fingerprint")
        except (FileNotFoundError, CheckpointError):  # damaged: the one before may not be
            continue
        return fingerprint if isinstance(fingerprint, str) and fingerprint else None
    return None
