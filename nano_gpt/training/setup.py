"""From a RunConfig to a running Trainer: the only place that names the concrete classes.

train(resolve(recipe="shakespeare_char"))
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nano_gpt.checkpoint.store import CheckpointStore
from nano_gpt.config import RunConfig, resolve
from nano_gpt.data.manifest import PreparedSet, open_prepared
from nano_gpt.data.preparing.prepare import ensure_prepared, reopen_prepared
from nano_gpt.errors import ConfigError
from nano_gpt.evaluation.hellaswag import HellaSwagTest
from nano_gpt.evaluation.hellaswag_items import load_items
from nano_gpt.inference.text import fit
from nano_gpt.model.gpt import GPT
from nano_gpt.runtime import distributed, logs
from nano_gpt.runtime.device import can_compile, peak_flops, resolve_device, resolve_dtype
from nano_gpt.runtime.distributed import Ranks
from nano_gpt.runtime.logs import logger
from nano_gpt.runtime.seeding import derive_seed
from nano_gpt.training.checkpointing import Checkpointer
from nano_gpt.training.evaluations import HellaSwag, Samples, Subject, ValidationLoss
from nano_gpt.training.metrics import JsonLines, LogLines, Metrics
from nano_gpt.training.optim import build_optimizer
from nano_gpt.training.plan import make_plan
from nano_gpt.training.progress import LiveLine
from nano_gpt.training.resume import changed_settings, starting_point
from nano_gpt.training.run_folder import RunFolder, new_run_path
from nano_gpt.training.state import RunState
from nano_gpt.training.step import TrainStep
from nano_gpt.training.trainer import Evaluation, Trainer


@dataclass(frozen=True)
class TrainResult:
    """Where the run is and how it ended."""

    run_dir: Path
    checkpoint: Path
    step: int
    validation_loss: float | None


def train(
    config: RunConfig, *, run_dir: Path | None = None, resume: bool = False, checkpoint: Path | None = None
) -> TrainResult:
    """Train to the end, under torchrun on all ranks together.

    `run_dir` (default runs/DATASET-DATE-TIME) is new, or with `resume` a run to go on with, from its newest whole
    checkpoint or from `checkpoint`. Raises NanoGPTError kin for what the user can mend, Interrupted after a signal.
    """
    ranks = distributed.from_environment()
    device = resolve_device(config.training.device, ranks.local_rank)
    with distributed.process_group(ranks, device):
        find = reopen_prepared if resume else ensure_prepared
        prepared = open_prepared(distributed.from_main(lambda: find(config.data).folder))
        config = _with_absolute_checkpoint_dir(_with_vocabulary(config, prepared))
        folder = RunFolder(distributed.broadcast(run_dir or new_run_path(config.data.dataset)), config)
        if resume:
            _tell_changes(folder, config)
        else:
            distributed.from_main(folder.check_new)
        distributed.from_main(folder.check_checkpoints)
        trainer, checkpointer = _assemble(config, prepared, folder, ranks, device)
        with _claimed(folder, ranks):
            make_plan(config, ranks.world_size).tell(prepared, device, trainer.train_step.dtype)
            if resume:
                start = checkpoint or distributed.from_main(lambda: starting_point(folder.path))
                if start is not None:
                    checkpointer.restore(trainer.state, start)
            distributed.from_main(lambda: folder.begin(config, trainer.state))
            with _listening(trainer.metrics, folder, config, trainer.state.step, ranks):
                trainer.run()
    state = trainer.state
    return TrainResult(folder.path, checkpointer.store.path(state.step), state.step, state.validation_loss)


def _assemble(
    config: RunConfig, prepared: PreparedSet, folder: RunFolder, ranks: Ranks, device: torch.device
) -> tuple[Trainer, Checkpointer]:
    """All the parts. Nothing is written yet: what cannot work is found out here."""
    training = config.training
    plan = make_plan(config, ranks.world_size)
    dtype = resolve_dtype(training.dtype, device)
    model = _new_model(config).to(device)
    optimizer = build_optimizer(model, training.optimizer)
    tokenizer = prepared.tokenizer()
    metrics = Metrics(training.total_batch_size)
    subject = Subject(model, tokenizer, device, dtype, ranks)
    store = CheckpointStore(folder.checkpoints, training.keep_checkpoints)
    checkpointer = Checkpointer(config, store, model, optimizer, tokenizer, metrics, ranks)
    peak = peak_flops(device, dtype)
    trainer = Trainer(
        config=training,
        state=RunState(data_fingerprint=prepared.fingerprint),
        loader=plan.loader(prepared.reader("train"), ranks.rank),
        train_step=TrainStep(
            forward=_wrapped(model, config, device, ranks),
            optimizer=optimizer,
            device=device,
            dtype=dtype,
            ranks=ranks,
            seed=training.seed,
            gradient_clip=training.optimizer.gradient_clip,
        ),
        evaluations=_evaluations(config, prepared, subject, plan.micro_batch_size, metrics),
        eval_steps=config.evaluation.eval_steps,
        save=checkpointer.save,
        metrics=metrics,
        flops_per_token=config.model.flops_per_token(),
        peak_flops=peak * ranks.world_size if peak else None,
    )
    return trainer, checkpointer


def _with_vocabulary(config: RunConfig, prepared: PreparedSet) -> RunConfig:
    wanted, given = prepared.manifest.vocab_size, config.model.vocab_size
    if given not in (None, wanted):
        raise ConfigError(
            f"model.vocab_size is {given}, but the tokenizer of {prepared.folder} has {wanted} ids",
            "leave it out: it is taken from the tokenizer",
        )
    return config.model_copy(update={"model": config.model.model_copy(update={"vocab_size": wanted})})


def _with_absolute_checkpoint_dir(config: RunConfig) -> RunConfig:
    """So that the run's config.yaml says where its checkpoints are, wherever it is read."""
    folder = config.training.checkpoint_dir
    if folder is None:
        return config
    training = config.training.model_copy(update={"checkpoint_dir": folder.absolute()})
    return config.model_copy(update={"training": training})


def _new_model(config: RunConfig) -> GPT:
    """Drawn on the CPU whatever the device, so that a seed means the same weights everywhere."""
    torch.manual_seed(derive_seed(config.training.seed, "weights"))
    return GPT(config.model)


def _wrapped(model: GPT, config: RunConfig, device: torch.device, ranks: Ranks) -> nn.Module:
    """The model as the training step calls it; evaluation and checkpoints use the model itself."""
    forward: nn.Module = model
    wanted = config.training.compile
    if (wanted or (wanted is None and device.type == "cuda")) and can_compile(device):
        forward = torch.compile(model, dynamic=False)  # type: ignore[assignment]
    if ranks.world_size > 1:
        forward = DistributedDataParallel(
            forward,
            device_ids=[device.index] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )
    return forward


def _evaluations(
    config: RunConfig, prepared: PreparedSet, subject: Subject, rows: int, metrics: Metrics
) -> list[Evaluation]:
    """Those that were asked for. Files are read and prompts fitted now: what cannot work is told before the run."""
    ranks = subject.ranks
    evaluations: list[Evaluation] = []
    if config.evaluation.validation_steps != 0 and "validation" not in prepared.manifest.splits:
        logger.info(f"val: skipped, since {prepared.folder} has no validation split")
    elif config.evaluation.validation_steps != 0:
        evaluations.append(ValidationLoss(subject, prepared, config, rows, metrics))
    if config.evaluation.hellaswag_samples != 0:
        items = load_items(config.evaluation.hellaswag_file, config.evaluation.hellaswag_samples)
        test = HellaSwagTest(items, subject.tokenizer, rank=ranks.rank, world_size=ranks.world_size)
        evaluations.append(HellaSwag(subject, test, config.evaluation.batch_size, metrics))
    if config.sampling.num_sequences:
        fit(subject.model, subject.tokenizer, config.sampling)
        evaluations.append(Samples(subject, config, metrics))
    return evaluations


def _tell_changes(folder: RunFolder, config: RunConfig) -> None:
    for change in changed_settings(resolve(file=folder.config_file), config):
        logger.info(f"changed: {change}")


@contextmanager
def _claimed(folder: RunFolder, ranks: Ranks) -> Iterator[None]:
    """Rank 0 holds the folder for as long as the run writes to it, and keeps its log."""
    distributed.from_main(folder.claim)
    handler = logs.add_file(folder.log_file) if ranks.is_main else None
    try:
        yield
    finally:
        if handler is not None:
            logs.remove(handler)
        folder.release()


@contextmanager
def _listening(metrics: Metrics, folder: RunFolder, config: RunConfig, first_step: int, ranks: Ranks) -> Iterator[None]:
    """Who hears of the run's metrics, on rank 0: its log, its files, and on a terminal the live line."""
    if not ranks.is_main:
        yield
        return
    live = sys.stderr.isatty()
    metrics.add(LogLines(train_on_console=not live))
    metrics.add(JsonLines(folder.metrics_file, lambda kind: kind != "sample"))
    metrics.add(JsonLines(folder.samples_file, lambda kind: kind == "sample"))
    if live:
        metrics.add(LiveLine(config.training.max_steps, first_step))
    logger.info(f"run: {folder.path}")
    try:
        yield
    finally:
        metrics.close()
