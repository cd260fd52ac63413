"""`nano-gpt train`: from a prepared set to a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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
)
from nano_gpt.config import resolve
from nano_gpt.data.catalog import name_for_files
from nano_gpt.errors import ConfigError

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
    max_steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps.", rich_help_panel=BATCH)] = None,
    total_batch_size: Annotated[
        int | None, typer.Option(min=1, help="Tokens per step, over all ranks.", rich_help_panel=BATCH)
    ] = None,
    micro_batch_size: Annotated[
        int | None, typer.Option(min=1, help="Windows per forward on one rank.", rich_help_panel=BATCH)
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=BATCH)] = None,
    dtype: Annotated[
        Literal["auto", "bf16", "fp32"] | None,
        typer.Option(help="Precision of matrix products; auto: bf16 where the hardware has it.", rich_help_panel=BATCH),
    ] = None,
    compile_: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="torch.compile; by default on CUDA only.", rich_help_panel=BATCH),
    ] = None,
    streaming: Annotated[
        bool, typer.Option("--streaming", help="Accepted and not needed: shards are never loaded whole.", hidden=True)
    ] = False,
    learning_rate: Annotated[
        float | None, typer.Option(min=0.0, help="Peak learning rate.", rich_help_panel=OPTIMIZER)
    ] = None,
    warmup_steps: Annotated[
        int | None, typer.Option(min=0, help="Steps of linear warm-up.", rich_help_panel=OPTIMIZER)
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(min=0.0, help="Decoupled, on matrices only.", rich_help_panel=OPTIMIZER)
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
    json_: Json = False,
) -> None:
    """Train a GPT-2.

    Without --dataset: the built-in corpus and its small recipe, a few minutes on two CPU cores. Every setting that
    has no flag is reached by --set; `nano-gpt config` prints them all. On several GPUs or processes:

        torchrun --nproc_per_node=8 $(which nano-gpt) train --dataset finewebedu
    """
    import json

    from nano_gpt.runtime.distributed import from_environment
    from nano_gpt.runtime.logs import logger
    from nano_gpt.training.resume import find_run
    from nano_gpt.training.setup import train as run_training

    paths = all_files(context, files, more_files)
    if paths and not dataset:
        dataset = name_for_files(paths)
    checkpoint = None
    if resume:
        if dataset or config_name or tokenizer or model or recipe or config:
            raise ConfigError(
                "--resume goes on with the run's own settings",
                "leave out --dataset, --files, --tokenizer, --model, --recipe and --config",
            )
        run_dir, checkpoint = find_run(resume, run_dir)
        config = run_dir / "config.yaml"
    flags = {
        "data.dataset": dataset,
        "data.config_name": config_name,
        "data.files": paths or None,
        "data.tokenizer": tokenizer,
        "data.dataset_dir": dataset_dir,
        "model.n_positions": sequence_length,
        "model.dropout": dropout,
        "training.max_steps": max_steps,
        "training.total_batch_size": total_batch_size,
        "training.micro_batch_size": micro_batch_size,
        "training.device": device,
        "training.dtype": dtype,
        "training.compile": compile_,
        "training.seed": seed,
        "training.log_steps": log_steps,
        "training.checkpoint_steps": checkpoint_steps,
        "training.checkpoint_dir": checkpoint_dir,
        "training.log_file": log_file,
        "training.optimizer.learning_rate": learning_rate,
        "training.optimizer.weight_decay": weight_decay,
        "training.lr_schedule.warmup_steps": warmup_steps,
        "evaluation.eval_steps": eval_steps,
        "evaluation.validation_steps": validation_steps,
        "evaluation.hellaswag_samples": hellaswag_samples,
        "evaluation.hellaswag_file": hellaswag_file,
        "sampling.num_sequences": sample_num_sequences,
        "sampling.max_length": sample_max_length,
        "sampling.seed": sample_seed,
    }
    settings = resolve(preset=model, recipe=recipe, file=config, flags=flags, assignments=set_ or ())
    if not (dataset or recipe or config):
        logger.info("no --dataset: training on the built-in corpus python_docs with its small recipe")
    if streaming:
        logger.info("--streaming has no effect: shards are memory-mapped, never loaded whole")
    result = run_training(settings, run_dir=run_dir, resume=resume is not None, checkpoint=checkpoint)
    if not from_environment().is_main:
        return
    if json_:
        typer.echo(
            json.dumps(
                {
                    "run_dir": str(result.run_dir),
                    "checkpoint": str(result.checkpoint),
                    "step": result.step,
                    "validation_loss": result.validation_loss,
                }
            )
        )
        return
    logger.info(f"done: {result.checkpoint}")
    logger.info(f"next: nano-gpt sample --checkpoint {result.run_dir}")
