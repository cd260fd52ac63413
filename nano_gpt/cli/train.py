"""`nano-gpt train`: from a prepared set to a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from nano_gpt.cli.options import (
    Assignments,
    ConfigFile,
    ConfigName,
    DatasetDir,
    DatasetName,
    Files,
    Json,
    MoreFiles,
    Preset,
    Recipe,
    TokenizerName,
    all_files,
    count,
    rows,
    seconds,
)
from nano_gpt.config import RunConfig, build
from nano_gpt.config.loading import find_layers, merge, nested, origins
from nano_gpt.data.catalog import name_for_files
from nano_gpt.errors import ConfigError, Interrupted
from nano_gpt.runtime.logs import logger

SHAPE, BATCH, OPTIMIZER, MEASURE, KEEP = "Model", "Batch and speed", "Optimizer", "Measurements", "What is kept"


def train(
    context: typer.Context,
    dataset: DatasetName = None,
    config_name: ConfigName = None,
    files: Files = None,
    more_files: MoreFiles = None,
    tokenizer: TokenizerName = None,
    dataset_dir: DatasetDir = None,
    model: Preset = None,
    recipe: Recipe = None,
    config: ConfigFile = None,
    set_: Assignments = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of the run.", show_default="runs/DATASET-DATE-TIME", rich_help_panel=KEEP),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="[PATH]",
            help="Go on with --run-dir, or else the newest run in runs/; or with the run or the checkpoint named.",
            rich_help_panel=KEEP,
        ),
    ] = None,
    sequence_length: Annotated[
        int | None, typer.Option(min=1, help="Context of the model, in tokens.", rich_help_panel=SHAPE)
    ] = None,
    dropout: Annotated[
        float | None, typer.Option(min=0.0, max=0.99, help="Dropout probability.", rich_help_panel=SHAPE)
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Start from weights: gpt2 .. gpt2-xl, a folder, a run, a hub id. Its recipe is finetune.",
            rich_help_panel=SHAPE,
        ),
    ] = None,
    document_masking: Annotated[
        bool | None,
        typer.Option(
            "--document-masking/--no-document-masking",
            help="A token sees its own document only.",
            rich_help_panel=SHAPE,
        ),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps.", rich_help_panel=BATCH)] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(parser=count, metavar="COUNT", help="Instead of --max-steps: 10M, 2.5B.", rich_help_panel=BATCH),
    ] = None,
    max_time: Annotated[
        float | None,
        typer.Option(parser=seconds, metavar="TIME", help="Save and stop after 45m, 11h30m.", rich_help_panel=BATCH),
    ] = None,
    early_stop: Annotated[
        int | None,
        typer.Option(min=1, help="Stop after so many evaluations without progress.", rich_help_panel=BATCH),
    ] = None,
    total_batch_size: Annotated[
        int | None, typer.Option(min=1, help="Tokens per step, over all ranks.", rich_help_panel=BATCH)
    ] = None,
    micro_batch_size: Annotated[
        str | None,
        typer.Option(parser=rows, metavar="COUNT|auto", help="Windows per forward on one rank.", rich_help_panel=BATCH),
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--gradient-checkpointing/--no-gradient-checkpointing",
            help="Less memory for a third more time.",
            rich_help_panel=BATCH,
        ),
    ] = None,
    strategy: Annotated[
        Literal["auto", "single", "ddp", "fsdp"] | None,
        typer.Option(help="Under torchrun: copies of the weights, or shards.", rich_help_panel=BATCH),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=BATCH)] = None,
    dtype: Annotated[
        Literal["auto", "bf16", "fp16", "fp32"] | None,
        typer.Option(help="Precision of matrix products; auto: bf16 where the hardware has it.", rich_help_panel=BATCH),
    ] = None,
    compile_: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="torch.compile; by default on CUDA only.", rich_help_panel=BATCH),
    ] = None,
    streaming: Annotated[
        bool, typer.Option("--streaming", help="Accepted and not needed: shards are never loaded whole.", hidden=True)
    ] = False,
    optimizer: Annotated[
        Literal["adamw", "muon"] | None,
        typer.Option(help="muon: for the matrices of the blocks; AdamW for the rest.", rich_help_panel=OPTIMIZER),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0.0, help="Peak learning rate.", rich_help_panel=OPTIMIZER)
    ] = None,
    lr_schedule: Annotated[
        Literal["cosine", "wsd", "linear", "constant"] | None,
        typer.Option(help="After the warm-up. wsd: constant, then down at the end.", rich_help_panel=OPTIMIZER),
    ] = None,
    warmup_steps: Annotated[
        int | None, typer.Option(min=0, help="Steps of linear warm-up.", rich_help_panel=OPTIMIZER)
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(min=0.0, help="Decoupled, on matrices only.", rich_help_panel=OPTIMIZER)
    ] = None,
    ema_decay: Annotated[
        float | None,
        typer.Option(help="Keep an average of the weights too, such as 0.999.", rich_help_panel=OPTIMIZER),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Weights, data order, dropout.", rich_help_panel=OPTIMIZER)
    ] = None,
    eval_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps between evaluations.", rich_help_panel=MEASURE)
    ] = None,
    validation_steps: Annotated[
        int | None, typer.Option(min=0, help="Batches of validation; 0: none.", rich_help_panel=MEASURE)
    ] = None,
    hellaswag_samples: Annotated[
        int | None, typer.Option(min=0, help="HellaSwag items; 0: none, the default.", rich_help_panel=MEASURE)
    ] = None,
    hellaswag_file: Annotated[
        Path | None, typer.Option(help="HellaSwag as .jsonl, without a network.", rich_help_panel=MEASURE)
    ] = None,
    sample_num_sequences: Annotated[
        int | None, typer.Option(min=0, help="Samples per evaluation; 0: none.", rich_help_panel=MEASURE)
    ] = None,
    sample_max_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a sample, prompt included.", rich_help_panel=MEASURE)
    ] = None,
    sample_seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the samples.", rich_help_panel=MEASURE)
    ] = None,
    log_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps between log lines.", rich_help_panel=MEASURE)
    ] = None,
    tracker: Annotated[
        list[str] | None,
        typer.Option(help="wandb, tensorboard or trackio, besides metrics.jsonl. Repeatable.", rich_help_panel=MEASURE),
    ] = None,
    checkpoint_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps between checkpoints.", rich_help_panel=KEEP)
    ] = None,
    checkpoint_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of the checkpoints.", show_default="RUN/checkpoints", rich_help_panel=KEEP),
    ] = None,
    log_file: Annotated[
        Path | None, typer.Option(help="Log lines, appended.", show_default="RUN/train.log", rich_help_panel=KEEP)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell the plan, memory, disk and time; train nothing.")
    ] = False,
    json_: Json = False,
) -> None:
    """Train a GPT-2.

    Without --dataset: the built-in corpus and its small recipe, a few minutes on two CPU cores. Every setting that
    has no flag is reached by --set; `nano-gpt config` prints them all. On several GPUs or processes:

        torchrun --nproc_per_node=8 $(which nano-gpt) train --dataset finewebedu
    """
    from nano_gpt.runtime.distributed import from_environment
    from nano_gpt.training.resume import find_run
    from nano_gpt.training.setup import train as run_training

    paths = all_files(context, files, more_files)
    if paths and not dataset:
        dataset = name_for_files(paths)
    checkpoint = None
    if resume:
        if dataset or config_name or tokenizer or model or recipe or config or pretrained:
            raise ConfigError(
                "--resume goes on with the run's own settings",
                "leave out --dataset, --files, --tokenizer, --model, --pretrained, --recipe and --config",
            )
        run_dir, checkpoint = find_run(resume, run_dir)
        config = run_dir / "config.yaml"
    if model and pretrained:
        raise ConfigError(f"--model {model} and --pretrained {pretrained} both give the shape", "leave one out")
    if max_steps and max_tokens:
        raise ConfigError("--max-steps and --max-tokens both say how long the run is", "leave one out")
    flags = {
        "data.dataset": dataset,
        "data.config_name": config_name,
        "data.files": paths or None,
        "data.tokenizer": tokenizer,
        "data.dataset_dir": dataset_dir,
        "model.n_positions": sequence_length,
        "model.dropout": dropout,
        "training.pretrained": pretrained,
        "training.document_masking": document_masking,
        "training.max_steps": max_steps,
        "training.max_time": max_time,
        "training.early_stop": early_stop,
        "training.total_batch_size": total_batch_size,
        "training.micro_batch_size": micro_batch_size,
        "training.gradient_checkpointing": gradient_checkpointing,
        "training.strategy": strategy,
        "training.device": device,
        "training.dtype": dtype,
        "training.compile": compile_,
        "training.seed": seed,
        "training.log_steps": log_steps,
        "training.trackers": tracker or None,
        "training.checkpoint_steps": checkpoint_steps,
        "training.checkpoint_dir": checkpoint_dir,
        "training.log_file": log_file,
        "training.optimizer.name": optimizer,
        "training.optimizer.learning_rate": learning_rate,
        "training.optimizer.weight_decay": weight_decay,
        "training.ema_decay": ema_decay,
        "training.lr_schedule.name": lr_schedule,
        "training.lr_schedule.warmup_steps": warmup_steps,
        "evaluation.eval_steps": eval_steps,
        "evaluation.validation_steps": validation_steps,
        "evaluation.hellaswag_samples": hellaswag_samples,
        "evaluation.hellaswag_file": hellaswag_file,
        "sampling.num_sequences": sample_num_sequences,
        "sampling.max_length": sample_max_length,
        "sampling.seed": sample_seed,
    }
    layers = find_layers(preset=model, recipe=recipe, file=config, flags=flags, assignments=set_ or ())
    if max_tokens:
        batch = build(RunConfig, merge(*layers.values())).training.total_batch_size
        layers["--max-tokens"] = nested({"training.max_steps": -(-max_tokens // batch)})
    settings = build(RunConfig, merge(*layers.values()))
    if not (dataset or recipe or config):
        logger.info("no --dataset: training on the built-in corpus python_docs with its small recipe")
    if streaming:
        logger.info("--streaming has no effect: shards are memory-mapped, never loaded whole")
    if dry_run:
        _tell_overview(settings, origins(layers), run_dir, resume, as_json=json_)
        return
    result = run_training(settings, run_dir=run_dir, resume=resume is not None, checkpoint=checkpoint)
    if result.stopped is not None and result.stopped.signal is not None:
        raise Interrupted(f"stopped after step {result.step}, saved", "--resume goes on", result.stopped.signal)
    if not from_environment().is_main:
        return
    if json_:
        _echo_json(
            run_dir=str(result.run_dir),
            checkpoint=str(result.checkpoint),
            step=result.step,
            validation_loss=result.validation_loss,
            stopped=None if result.stopped is None else result.stopped.name.lower(),
        )
        return
    if result.stopped is not None:
        logger.info(f"stopped after step {result.step}, saved: {_REASONS[result.stopped.name]}")
    logger.info(f"done: {result.checkpoint}")
    logger.info(f"next: nano-gpt sample --checkpoint {result.run_dir}")


_REASONS = {
    "TIME": "the time of --max-time is over; --resume goes on",
    "NO_PROGRESS": "the validation loss has not become better for --early-stop evaluations",
}


def _tell_overview(
    config: RunConfig, origins: dict[str, str], run_dir: Path | None, resume: str | None, *, as_json: bool
) -> None:
    """Exit code 1 if it cannot fit."""
    from nano_gpt.runtime.distributed import from_environment
    from nano_gpt.training.overview import make_overview

    if resume:
        raise ConfigError("--dry-run tells the plan of a new run", "leave out --resume")
    overview = make_overview(config, origins, run_dir=run_dir)
    if from_environment().is_main:
        if as_json:
            _echo_json(**overview.fields())
        else:
            typer.echo("\n".join(overview.lines()))
    if overview.problems:
        raise ConfigError("it does not fit: " + "; ".join(overview.problems))


def _echo_json(**values: Any) -> None:
    import json

    typer.echo(json.dumps(values))
