"""From a RunConfig to a running Trainer: the only place that names the concrete classes.

train(resolve(recipe="shakespeare_char"))
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch.optim import Optimizer

from nano_gpt.checkpoint.source import RUNS
from nano_gpt.checkpoint.store import CheckpointStore
from nano_gpt.config import RunConfig, resolve
from nano_gpt.data.loader import document_ids
from nano_gpt.evaluation.hellaswag import HellaSwagTest
from nano_gpt.evaluation.hellaswag_items import load_items
from nano_gpt.inference.text import fit
from nano_gpt.runtime import distributed, logs
from nano_gpt.runtime.device import peak_flops, resolve_device, resolve_dtype
from nano_gpt.runtime.distributed import Ranks
from nano_gpt.runtime.logs import logger
from nano_gpt.runtime.memory import keep_freed_memory
from nano_gpt.runtime.signals import Stop, StopRequest
from nano_gpt.training.checkpointing import Checkpointer
from nano_gpt.training.ema import WeightAverage
from nano_gpt.training.evaluations import HellaSwag, Samples, Subject, ValidationLoss
from nano_gpt.training.fitting import estimate_micro_batch, fit_micro_batch
from nano_gpt.training.guard import StepGuard
from nano_gpt.training.hooks import Averaging, EarlyStop, Hook, StepLimit, TimeLimit
from nano_gpt.training.memory import step_memory
from nano_gpt.training.metrics import JsonLines, LogLines, Metrics
from nano_gpt.training.optim import build_optimizer
from nano_gpt.training.plan import Plan, make_plan, micro_batch_sizes
from nano_gpt.training.progress import LiveLine
from nano_gpt.training.resume import changed_settings, find_run, starting_point
from nano_gpt.training.run_folder import RunFolder, new_run_path
from nano_gpt.training.scaling import LossScale, NoScale
from nano_gpt.training.starting import Start, find_start
from nano_gpt.training.state import RunState
from nano_gpt.training.step import TrainStep
from nano_gpt.training.strategies import Strategy, make_strategy
from nano_gpt.training.trackers import make_tracker
from nano_gpt.training.trainer import Evaluation, Trainer


@dataclass(frozen=True)
class TrainResult:
    """Where the run is and how it ended."""

    run_dir: Path
    checkpoint: Path
    step: int
    validation_loss: float | None
    stopped: Stop | None
    """Why it ended before its last step, if it did."""


def train(
    config: RunConfig,
    *,
    run_dir: Path | None = None,
    resume: bool = False,
    checkpoint: Path | None = None,
    until: int | None = None,
) -> TrainResult:
    """Train to the end, or until the run is asked to stop; under torchrun on all ranks together.

    `run_dir` (default runs/DATASET-DATE-TIME) is new, or with `resume` a run to go on with, from its newest whole
    checkpoint or from `checkpoint`. `until` is a step to save and stop at, before the run's last one. Ranks that
    torchrun has started again go on with the run that they began. Raises NanoGPTError kin for what the user can mend.
    """
    ranks = distributed.from_environment()
    device = resolve_device(config.training.device, ranks.local_rank)
    if device.type == "cpu":
        keep_freed_memory()
    with distributed.process_group(ranks, device, config.training.rank_timeout):
        if not resume and distributed.any_rank(distributed.restarts() > 0):
            run_dir, resume = distributed.from_main(lambda: _begun_before(run_dir))
        start = find_start(config, resume=resume)
        config = start.config
        folder = RunFolder(distributed.broadcast(run_dir or new_run_path(config.data.dataset)), config)
        if resume:
            _tell_changes(folder, config)
        else:
            distributed.from_main(folder.check_new)
        distributed.from_main(folder.check_checkpoints)
        engine = build_engine(start, ranks, device)
        trainer, checkpointer = _assemble(start, engine, folder, until)
        with _claimed(folder, ranks):
            engine.plan.tell(start.prepared, device, engine.step.dtype)
            if resume:
                saved = checkpoint or distributed.from_main(lambda: starting_point(folder.path))
                if saved is not None:
                    checkpointer.restore(trainer.state, saved)
            distributed.from_main(lambda: folder.begin(config, trainer.state))
            with _listening(trainer.metrics, folder, config, trainer.state.step, ranks):
                try:
                    stopped = trainer.run()
                finally:
                    checkpointer.close()
    state = trainer.state
    return TrainResult(folder.path, checkpointer.store.path(state.step), state.step, state.validation_loss, stopped)


def _begun_before(run_dir: Path | None) -> tuple[Path | None, bool]:
    """The run of these ranks before they were started again: `run_dir`, or else the one begun last."""
    if run_dir is None and any(RUNS.glob("*/config.yaml")):
        return find_run("auto", None)[0], True
    return run_dir, run_dir is not None and (run_dir / "config.yaml").is_file()


@dataclass(frozen=True)
class Engine:
    """What makes steps: the model, spread over the ranks, its optimizer, and how the batch is cut up."""

    plan: Plan
    strategy: Strategy
    optimizer: Optimizer
    step: TrainStep


def build_engine(start: Start, ranks: Ranks, device: torch.device) -> Engine:
    training = start.config.training
    dtype = resolve_dtype(training.dtype, device)
    plan = make_plan(start.config, ranks.world_size)
    model = start.model()
    if training.freeze or training.lora.rank is not None:
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        what = f"frozen: {', '.join(training.freeze)}" if training.freeze else f"adapters of rank {training.lora.rank}"
        logger.info(f"{what}; {trained:,} parameters are trained")
    strategy = make_strategy(model, training, ranks, device, dtype)
    if training.micro_batch_size == "auto":
        plan = replace(plan, micro_batch_size=_largest_micro_batch(start.config, strategy, ranks, device, dtype))
    optimizer = build_optimizer(strategy.model, training.optimizer)
    manifest = start.prepared.manifest
    documents = partial(document_ids, eot_id=manifest.eot_id, eot_opens=manifest.eot_opens)
    step = TrainStep(
        strategy=strategy,
        optimizer=optimizer,
        device=device,
        dtype=dtype,
        ranks=ranks,
        seed=training.seed,
        gradient_clip=training.optimizer.gradient_clip,
        guard=StepGuard(device, training.spike_threshold),
        scale=LossScale(device) if dtype == torch.float16 else NoScale(),
        documents=documents if training.document_masking else None,
    )
    return Engine(plan, strategy, optimizer, step)


def _largest_micro_batch(
    config: RunConfig, strategy: Strategy, ranks: Ranks, device: torch.device, dtype: torch.dtype
) -> int:
    sizes = micro_batch_sizes(config, ranks.world_size)
    estimated = estimate_micro_batch(step_memory(config, device, dtype, strategy.shards), sizes, device)
    if strategy.shards > 1:  # a rank that runs out of memory would leave those waiting that gather its weights
        return estimated
    return fit_micro_batch(strategy, config.model, sizes, estimated, dtype)


def _assemble(start: Start, engine: Engine, folder: RunFolder, until: int | None) -> tuple[Trainer, Checkpointer]:
    """All the parts. Nothing is written yet: what cannot work is found out here."""
    config, training, step = start.config, start.config.training, engine.step
    strategy, plan, ranks = engine.strategy, engine.plan, step.ranks
    tokenizer = start.prepared.tokenizer()
    metrics = Metrics(plan.tokens_before)
    average = WeightAverage(strategy.model, training.ema_decay) if training.ema_decay is not None else None
    subject = Subject(strategy.whole_model, tokenizer, step.device, step.dtype, ranks)
    stop = StopRequest()
    hooks = _hooks(config, average, stop, until)
    checkpointer = Checkpointer(
        config=config,
        store=CheckpointStore(folder.checkpoints, training.keep_checkpoints),
        strategy=strategy,
        optimizer=engine.optimizer,
        average=average,
        parts={"step": step, **{hook.name: hook for hook in hooks}},
        tokenizer=tokenizer,
        metrics=metrics,
        ranks=ranks,
        tokens_before=plan.tokens_before,
    )
    peak = peak_flops(step.device, step.dtype)
    trainer = Trainer(
        config=training,
        state=RunState(data_fingerprint=start.prepared.fingerprint),
        loader=plan.loader(start.prepared.reader("train"), ranks.rank),
        train_step=step,
        evaluations=_evaluations(start, engine, subject, metrics, average),
        eval_steps=config.evaluation.eval_steps,
        hooks=hooks,
        checkpointer=checkpointer,
        stop=stop,
        metrics=metrics,
        flops_per_token=config.model.flops_per_token(),
        peak_flops=peak * ranks.world_size if peak else None,
    )
    return trainer, checkpointer


def _hooks(config: RunConfig, average: WeightAverage | None, stop: StopRequest, until: int | None) -> list[Hook]:
    training = config.training
    hooks: list[Hook] = []
    if average is not None:
        hooks.append(Averaging(average))
    if training.early_stop is not None:
        hooks.append(EarlyStop(training.early_stop, stop))
    if training.max_time is not None:
        hooks.append(TimeLimit(training.max_time, stop))
    if until is not None:
        hooks.append(StepLimit(until, stop))
    return hooks


def _evaluations(
    start: Start, engine: Engine, subject: Subject, metrics: Metrics, average: WeightAverage | None
) -> list[Evaluation]:
    """Those that were asked for. Files are read and prompts fitted now: what cannot work is told before the run."""
    config, prepared, ranks = start.config, start.prepared, subject.ranks
    evaluations: list[Evaluation] = []
    if config.evaluation.validation_steps != 0 and "validation" not in prepared.manifest.splits:
        logger.info(f"val: skipped, since {prepared.folder} has no validation split")
    elif config.evaluation.validation_steps != 0:
        averaged = average.in_place if average is not None else None
        rows, documents = engine.plan.micro_batch_size, engine.step.documents
        evaluations.append(ValidationLoss(subject, prepared, config, rows, metrics, averaged, documents))
    if config.evaluation.hellaswag_samples != 0:
        items = load_items(config.evaluation.hellaswag_file, config.evaluation.hellaswag_samples)
        test = HellaSwagTest(items, subject.tokenizer, rank=ranks.rank, world_size=ranks.world_size)
        evaluations.append(HellaSwag(subject, test, config.evaluation.batch_size, metrics))
    if config.sampling.num_sequences:
        fit(engine.strategy.model, subject.tokenizer, config.sampling)
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
    for name in config.training.trackers:
        metrics.add(make_tracker(name, run_dir=folder.path, config=config.model_dump(mode="json")))
    if live:
        metrics.add(LiveLine(config.training.max_steps, first_step))
    logger.info(f"run: {folder.path}")
    try:
        yield
    finally:
        metrics.close()
