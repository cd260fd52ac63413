"""Everything that `nano-gpt eval` measures: what is asked for, what a run's own settings add, and in which order.

for result in evaluate(load_model("gpt2"), Request(hellaswag_file=Path("hellaswag_val.jsonl")), ranks):
    print(result.summary())
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from nano_gpt.checkpoint.source import LoadedModel
from nano_gpt.checkpoint.store import run_of
from nano_gpt.config import DataConfig, EvaluationConfig, RunConfig, TrainingConfig
from nano_gpt.config.loading import build, read_yaml
from nano_gpt.data.catalog import MANIFEST, prepared_folder
from nano_gpt.data.loader import Batch, count_windows, evaluation_batches
from nano_gpt.data.manifest import PreparedSet, open_prepared
from nano_gpt.data.preparing.prepare import reopen_prepared
from nano_gpt.errors import ConfigError, DataError, NanoGPTError
from nano_gpt.evaluation.choices import Progress
from nano_gpt.evaluation.hellaswag import HellaSwagResult, HellaSwagTest
from nano_gpt.evaluation.hellaswag_items import load_items
from nano_gpt.evaluation.validation import ValidationResult, validation_loss
from nano_gpt.runtime.distributed import Ranks, from_main
from nano_gpt.runtime.logs import logger
from nano_gpt.runtime.progress import ProgressDisplay


@dataclass(frozen=True)
class Request:
    """What a user asks for; None is "not said"."""

    dataset: str | None = None
    """None: the data set of the run that the model is a checkpoint of; no validation loss for any other model."""
    config_name: str | None = None
    """Which configuration of a hub dataset."""
    dataset_dir: Path | None = None
    validation_steps: int | None = None
    """As in EvaluationConfig. None: as the run that the model is a checkpoint of, or its default."""
    hellaswag_samples: int | None = None
    """Items, from the first; 0: none. None: all, and done without where they cannot be had."""
    hellaswag_file: Path | None = None
    batch_size: int = EvaluationConfig().batch_size
    """Rows of text in one forward, on every rank."""
    dtype: torch.dtype = torch.float32
    """Of the matrix products."""

    @property
    def insists_on_hellaswag(self) -> bool:
        return self.hellaswag_samples is not None or self.hellaswag_file is not None


def evaluate(loaded: LoadedModel, request: Request, ranks: Ranks) -> Iterator[ValidationResult | HellaSwagResult]:
    """Yield each result when it is there. Every rank must call, and gets the same.

    What can be found wrong is found before the first measurement: ConfigError when there is nothing to measure,
    DataError for a set of another tokenizer or a bad file, NetworkError when HellaSwag must be had from the hub.
    """
    run = _run_of(loaded)
    prepared = _validation_set(loaded, request, run)
    test = _hellaswag(loaded, request, run, ranks, required=request.insists_on_hellaswag or prepared is None)
    if prepared is None and test is None:
        raise ConfigError("nothing to measure: validation loss and HellaSwag are both left out", "nano-gpt eval --help")
    if prepared is not None:
        yield _validate(loaded, request, run, prepared, ranks)
    if test is not None:
        with _progress("hellaswag") as progress:
            result = test.evaluate(loaded.model, batch_size=request.batch_size, dtype=request.dtype, progress=progress)
        yield result


@contextmanager
def _progress(label: str) -> Iterator[Progress]:
    with ProgressDisplay(label) as display:
        yield lambda done, total: display.tell(f"{done:,} of {total:,} rows", done, total)


def _run_of(loaded: LoadedModel) -> RunConfig | None:
    """The settings of the run whose checkpoint this is."""
    if loaded.folder is None or loaded.trainer_state is None:
        return None
    run = run_of(loaded.folder)
    return build(RunConfig, read_yaml(run / "config.yaml")) if run is not None else None


def _validation_set(loaded: LoadedModel, request: Request, run: RunConfig | None) -> PreparedSet | None:
    """The set to take the loss on, prepared if need be; None where none is wanted."""
    if request.validation_steps == 0:
        return None
    if request.dataset is None and run is None:
        if request.validation_steps is not None:
            raise ConfigError(
                "--validation-steps without a data set: this model is no checkpoint of a run", "--dataset NAME"
            )
        logger.info("val: skipped, since no --dataset is named and the model is no checkpoint of a run")
        return None
    config = _data_config(loaded, request, run)
    by_name = config.dataset_dir / (request.dataset or ".")  # as `nano-gpt inspect` lists it
    prepared = (
        open_prepared(by_name)
        if (by_name / MANIFEST).is_file() and not (prepared_folder(config) / MANIFEST).is_file()
        else open_prepared(from_main(lambda: reopen_prepared(config).folder))
    )
    there, ours = prepared.manifest, loaded.tokenizer
    if there.tokenizer_fingerprint != ours.fingerprint:
        raise DataError(
            f"{prepared.folder} was made with the tokenizer {there.tokenizer} ({there.tokenizer_fingerprint[:12]}), "
            f"the model reads {ours.name} ({ours.fingerprint[:12]})",
            f"prepare it with the model's: nano-gpt prepare_dataset --dataset {config.dataset} "
            f"--tokenizer {loaded.folder or ours.name} --dataset-dir ANOTHER; then eval with that --dataset-dir",
        )
    return prepared


def _data_config(loaded: LoadedModel, request: Request, run: RunConfig | None) -> DataConfig:
    """The run's own set as the run has it; any other with the model's tokenizer."""
    data = run.data if run else DataConfig()
    changed = {"dataset_dir": request.dataset_dir} if request.dataset_dir else {}
    if run and request.dataset in (None, data.dataset):
        return data.model_copy(update=changed)
    return DataConfig(
        dataset=request.dataset or "",
        config_name=request.config_name,
        tokenizer=loaded.tokenizer.name,
        dataset_dir=data.dataset_dir,
    ).model_copy(update=changed)


def _hellaswag(
    loaded: LoadedModel, request: Request, run: RunConfig | None, ranks: Ranks, *, required: bool
) -> HellaSwagTest | None:
    """The test, ready to run; None where it is not wanted, or not `required` and cannot be had."""
    if request.hellaswag_samples == 0:
        return None
    file = request.hellaswag_file or (run.evaluation.hellaswag_file if run else None)
    try:
        items = load_items(file, request.hellaswag_samples)
        return HellaSwagTest(
            items,
            loaded.tokenizer,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )
    except NanoGPTError as error:
        if required:
            raise
        logger.info(f"hellaswag: skipped: {error.message}; {error.hint}")
        return None


def _validate(
    loaded: LoadedModel, request: Request, run: RunConfig | None, prepared: PreparedSet, ranks: Ranks
) -> ValidationResult:
    length = loaded.model.config.n_positions
    reader = prepared.reader("validation")
    windows = _max_windows(request, run, length)
    batches = evaluation_batches(reader, length, request.batch_size, ranks.rank, ranks.world_size, windows)
    total = count_windows(reader, length)
    share = (total if windows is None else min(total, windows)) // ranks.world_size

    def counted() -> Iterator[Batch]:
        done = 0
        for batch in batches:
            yield batch
            done += len(batch.ids)
            progress(done, max(done, share))

    with _progress("val") as progress:
        density = prepared.bytes_per_token("validation")
        return validation_loss(loaded.model, counted(), bytes_per_token=density, dtype=request.dtype)


def _max_windows(request: Request, run: RunConfig | None, length: int) -> int | None:
    """Windows in `validation_steps` batches; without a run, a batch is that of the GPT-2 recipe."""
    steps = request.validation_steps
    if steps is None:
        of_run = run.evaluation.validation_steps if run else 0
        if of_run is None:
            return None
        steps = of_run or EvaluationConfig().validation_steps
        assert steps is not None
    tokens = run.training.total_batch_size if run else TrainingConfig().total_batch_size
    return max(1, steps * tokens // length)
