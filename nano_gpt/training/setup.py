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
from torch.optim import Optimizer

from nano_gpt.checkpoint import store as checkpoints
from nano_gpt.checkpoint.store import Checkpoint, CheckpointStore
from nano_gpt.config import RunConfig, resolve
from nano_gpt.config.data import DataConfig
from nano_gpt.data.loader import TokenLoader
from nano_gpt.data.manifest import PreparedSet, open_prepared
from nano_gpt.data.prepare import ensure_prepared
from nano_gpt.errors import CheckpointError, ConfigError
from nano_gpt.evaluation.hellaswag import load_items
from nano_gpt.model.gpt import GPT
from nano_gpt.runtime import distributed, logs
from nano_gpt.runtime.device import can_compile, peak_flops, resolve_device, resolve_dtype
from nano_gpt.runtime.distributed import Ranks
from nano_gpt.runtime.logs import logger
from nano_gpt.runtime.seeding import derive_seed
from nano_gpt.tokenizer.base import Tokenizer
from nano_gpt.training.evaluations import HellaSwag, Samples, Subject, ValidationLoss
from nano_gpt.training.metrics import JsonLines, Listener, LogLines, Metrics
from nano_gpt.training.optim import build_optimizer, load_optimizer_tensors, optimizer_tensors
from nano_gpt.training.progress import LiveLine
from nano_gpt.training.resume import changed_settings
from nano_gpt.training.run_folder import RunFolder, new_run_path
from nano_gpt.training.state import RunState
from nano_gpt.training.step import TrainStep
from nano_gpt.training.trainer import Evaluation, Trainer

MICRO_BATCH_LIMIT = 16


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
        prepared = _prepared_set(config.data, ranks)
        config = _with_vocabulary(config, prepared)
        path = distributed.broadcast(run_dir or new_run_path(config.data.dataset))
        folder = RunFolder(path, config)
        with _claimed(folder, ranks):
            if resume:
                _check_changes(folder, config)
            elif ranks.is_main:
                folder.start(config)
            return _run(config, prepared, folder, ranks, device, resume=resume, checkpoint=checkpoint)


def _run(
    config: RunConfig,
    prepared: PreparedSet,
    folder: RunFolder,
    ranks: Ranks,
    device: torch.device,
    *,
    resume: bool,
    checkpoint: Path | None,
) -> TrainResult:
    dtype = resolve_dtype(config.training.dtype, device)
    rows = micro_batch_size(config, ranks.world_size)
    tokenizer = prepared.tokenizer()
    model = _new_model(config)
    optimizer = build_optimizer(model.to(device), config.training.optimizer)
    state = RunState(data_fingerprint=prepared.fingerprint)
    store = CheckpointStore(folder.checkpoints, config.training.keep_checkpoints)
    if resume:
        _restore(model, optimizer, state, store, checkpoint or store.newest_valid(), ranks)
    loader = TokenLoader(
        prepared.reader("train"),
        sequence_length=config.model.n_positions,
        windows_per_step=config.windows_per_step,
        micro_batch_size=rows,
        rank=ranks.rank,
        world_size=ranks.world_size,
        seed=config.training.seed,
        shuffle=config.data.shuffle,
    )
    with _metrics(config, folder, state, ranks) as metrics:
        _say_plan(config, prepared, loader, folder, ranks, device, dtype, rows)
        trainer = Trainer(
            config=config.training,
            state=state,
            loader=loader,
            train_step=TrainStep(
                forward=_wrapped(model, config, device, ranks),
                optimizer=optimizer,
                device=device,
                dtype=dtype,
                ranks=ranks,
                seed=config.training.seed,
                gradient_clip=config.training.optimizer.gradient_clip,
            ),
            evaluations=_evaluations(config, prepared, Subject(model, tokenizer, device, dtype, ranks), rows, metrics),
            eval_steps=config.evaluation.eval_steps,
            save=_Save(config, store, model, optimizer, tokenizer, metrics, ranks),
            metrics=metrics,
            flops_per_token=config.model.flops_per_token(),
            peak_flops=_peak(device, dtype, ranks),
        )
        trainer.run()
    return TrainResult(folder.path, store.path(state.step), state.step, state.validation_loss)


def _prepared_set(config: DataConfig, ranks: Ranks) -> PreparedSet:
    """Rank 0 prepares what is not there yet; the others wait and open it."""
    if ranks.is_main:
        prepared = ensure_prepared(config)
        folder = distributed.broadcast(prepared.folder)
        return prepared
    folder = distributed.broadcast(Path())
    return open_prepared(folder)


def _with_vocabulary(config: RunConfig, prepared: PreparedSet) -> RunConfig:
    wanted, given = prepared.manifest.vocab_size, config.model.vocab_size
    if given not in (None, wanted):
        raise ConfigError(
            f"model.vocab_size is {given}, but the tokenizer of {prepared.folder} has {wanted} ids",
            "leave it out: it is taken from the tokenizer",
        )
    return config.model_copy(update={"model": config.model.model_copy(update={"vocab_size": wanted})})


def micro_batch_size(config: RunConfig, world_size: int) -> int:
    """Windows per forward on one rank: the one that was asked for, or the largest up to 16 that comes out even.

    Raises ConfigError where the batch does not divide, with values that would.
    """
    windows, asked = config.windows_per_step, config.training.micro_batch_size
    if windows % world_size or (asked and windows // world_size % asked):
        unit = (asked or 1) * world_size
        near = max(unit, round(windows / unit) * unit)
        raise ConfigError(
            f"total_batch_size {config.training.total_batch_size} is {windows} windows of {config.model.n_positions} "
            f"tokens, which {world_size} ranks x micro_batch_size {asked or 1} do not divide",
            f"--total-batch-size {near * config.model.n_positions}" + (", or another --micro-batch-size" if asked else ""),
        )
    share = windows // world_size
    return asked or next(rows for rows in range(min(MICRO_BATCH_LIMIT, share), 0, -1) if share % rows == 0)


def _new_model(config: RunConfig) -> GPT:
    """Drawn on the CPU whatever the device, so that a seed means the same weights everywhere."""
    torch.manual_seed(derive_seed(config.training.seed, "weights"))
    return GPT(config.model)


def _wrapped(model: GPT, config: RunConfig, device: torch.device, ranks: Ranks) -> nn.Module:
    """The model as the training step calls it; evaluation and checkpoints use the model itself."""
    forward: nn.Module = model
    wanted = config.training.compile
    if wanted or (wanted is None and device.type == "cuda"):
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        if can_compile(device):
            forward = torch.compile(model, dynamic=False)  # type: ignore[assignment]
    if ranks.world_size > 1:
        forward = DistributedDataParallel(
            forward,
            device_ids=[device.index] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            broadcast_buffers=False,
        )
    return forward


def _evaluations(
    config: RunConfig, prepared: PreparedSet, subject: Subject, rows: int, metrics: Metrics
) -> list[Evaluation]:
    """Those that were asked for. HellaSwag's items are read now, so that a missing file ends the run before it begins."""
    evaluations: list[Evaluation] = []
    if config.evaluation.validation_steps != 0:
        evaluations.append(ValidationLoss(subject, prepared, config, rows, metrics))
    if config.evaluation.hellaswag_samples != 0:
        items = load_items(config.evaluation.hellaswag_file, config.evaluation.hellaswag_samples)
        evaluations.append(HellaSwag(subject, items, config.evaluation.batch_size, metrics))
    if config.sampling.num_sequences:
        evaluations.append(Samples(subject, config, metrics))
    return evaluations


@dataclass(frozen=True)
class _Save:
    """Writes a checkpoint on rank 0; with replicated weights it has all there is."""

    config: RunConfig
    store: CheckpointStore
    model: GPT
    optimizer: Optimizer
    tokenizer: Tokenizer
    metrics: Metrics
    ranks: Ranks

    def __call__(self, state: RunState) -> None:
        best = state.claim_best()
        if self.ranks.is_main:
            tensors = Checkpoint(
                dict(self.model.state_dict()), optimizer_tensors(self.optimizer, self.model), self._json(state)
            )
            path = self.store.save(tensors, self.config.model, self.tokenizer, best=best)
            self.metrics.record("checkpoint", state.step, path=str(path), best=best)
        distributed.barrier()

    def _json(self, state: RunState) -> dict[str, object]:
        return {**state.state_dict(), "tokens": state.step * self.config.training.total_batch_size}


def _restore(
    model: GPT, optimizer: Optimizer, state: RunState, store: CheckpointStore, path: Path, ranks: Ranks
) -> None:
    saved = checkpoints.load(path)
    fingerprint = state.data_fingerprint
    state.load_state_dict(saved.state)
    if state.data_fingerprint != fingerprint:
        raise CheckpointError(
            f"the prepared set is not the one that {path} was trained on", "prepare it again as it was, or start a new run"
        )
    model.load_state_dict(saved.model)
    load_optimizer_tensors(optimizer, model, saved.optimizer)
    if ranks.is_main:
        store.abandon_after(state.step)
    logger.info(f"resumed: {path}, step {state.step}")


def _check_changes(folder: RunFolder, config: RunConfig) -> None:
    for change in changed_settings(resolve(file=folder.config_file), config):
        logger.info(f"changed: {change}")


@contextmanager
def _claimed(folder: RunFolder, ranks: Ranks) -> Iterator[None]:
    """Rank 0 holds the folder and writes the log."""
    if not ranks.is_main:
        yield
        return
    folder.claim()
    handler = logs.add_file(folder.log_file)
    try:
        yield
    finally:
        logs.remove(handler)
        folder.release()


@contextmanager
def _metrics(config: RunConfig, folder: RunFolder, state: RunState, ranks: Ranks) -> Iterator[Metrics]:
    """Listeners on rank 0, closed in the end; the resumed part of a run is recorded once."""
    listeners: list[Listener] = []
    if ranks.is_main:
        if state.step:
            folder.truncate_events(state.step)
            folder.describe(config)
        live = sys.stderr.isatty()
        listeners = [
            LogLines(train_on_console=not live),
            JsonLines(folder.metrics_file, lambda kind: kind != "sample"),
            JsonLines(folder.samples_file, lambda kind: kind == "sample"),
        ]
        if live:
            listeners.append(LiveLine(config.training.max_steps, state.step))
    metrics = Metrics(listeners, config.training.total_batch_size)
    try:
        yield metrics
    finally:
        metrics.close()


def _say_plan(
    config: RunConfig,
    prepared: PreparedSet,
    loader: TokenLoader,
    folder: RunFolder,
    ranks: Ranks,
    device: torch.device,
    dtype: torch.dtype,
    rows: int,
) -> None:
    """What is about to be spent, in four lines."""
    model, training = config.model, config.training
    accumulation = config.windows_per_step // (rows * ranks.world_size)
    tokens = training.max_steps * training.total_batch_size
    precision = "bf16" if dtype == torch.bfloat16 else "fp32"
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    logger.info(
        f"model: {model.num_parameters():,} parameters ({model.num_parameters(embeddings=False):,} without embeddings), "
        f"{model.n_layer} layers, {model.n_head} heads, {model.n_embd} wide, context {model.n_positions}"
    )
    logger.info(
        f"data: {prepared.folder}, {prepared.tokens('train'):,} tokens, tokenizer {prepared.manifest.tokenizer} "
        f"({prepared.manifest.vocab_size} ids)"
    )
    logger.info(
        f"step: {training.total_batch_size:,} tokens = {rows} x {model.n_positions} x {accumulation} accumulated x "
        f"{ranks.world_size} ranks; {training.max_steps:,} steps = {tokens:,} tokens = "
        f"{training.max_steps * config.windows_per_step / loader.num_windows:.2f} epochs"
    )
    logger.info(f"run: {folder.path} on {device}, {precision}{threads}")


def _peak(device: torch.device, dtype: torch.dtype, ranks: Ranks) -> float | None:
    peak = peak_flops(device, dtype)
    return peak * ranks.world_size if peak else None
