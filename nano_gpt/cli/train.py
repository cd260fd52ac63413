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
    names,
    rows,
    seconds,
)
from nano_gpt.cli.settings import flag, with_flags
from nano_gpt.config import RunConfig, build
from nano_gpt.config.loading import find_layers, merge, nested, origins
from nano_gpt.config.model import Activation
from nano_gpt.data.catalog import name_for_files
from nano_gpt.errors import ConfigError, Interrupted
from nano_gpt.runtime.logs import logger

Strategies = Literal["auto", "single", "ddp", "fsdp"]
Dtypes = Literal["auto", "bf16", "fp16", "fp32"]
Optimizers = Literal["adamw", "muon"]
Positions = Literal["learned", "rope"]
Norms = Literal["layernorm", "rmsnorm"]
Schedules = Literal["cosine", "wsd", "linear", "constant"]

SHAPE, BATCH, OPTIMIZER, MEASURE, KEEP = "Model", "Batch and speed", "Optimizer", "Measurements", "What is kept"
SETTINGS = (
    flag("model.n_positions", int, SHAPE, "Context of the model, in tokens.", name="sequence_length", min=1),
    flag("model.positions", Positions, SHAPE, "How a token knows its place: a vector for each (GPT-2), or RoPE."),
    flag("model.norm", Norms, SHAPE, "rmsnorm needs --positions rope."),
    flag("model.activation", Activation, SHAPE, "Inside the MLP. gelu-exact is nanoGPT's."),
    flag("model.bias", bool, SHAPE, "Biases in linear layers and LayerNorms."),
    flag("model.tied", bool, SHAPE, "The head is the token embedding, or a matrix of its own.", "--tied/--untied"),
    flag("model.dropout", float, SHAPE, "Dropout probability.", min=0.0, max=0.99),
    flag(
        "training.pretrained",
        str,
        SHAPE,
        "Start from weights: gpt2 .. gpt2-xl, a folder, a run, a peer's file, a hub id. Its recipe is finetune.",
        metavar="MODEL",
    ),
    flag("training.lora.rank", int, SHAPE, "Train adapters of this rank only (LoRA).", name="lora_rank", min=1),
    flag("training.lora.alpha", float, SHAPE, "Their scale is alpha / rank; twice the rank.", name="lora_alpha"),
    flag(
        "training.lora.targets",
        str,
        SHAPE,
        "Which matrices get one: attn,mlp (the default), attn, mlp.",
        name="lora_targets",
        parser=names,
        metavar="PART,...",
    ),
    flag(
        "training.freeze",
        str,
        SHAPE,
        "Parts that keep their weights: wte, wpe, ln_f, lm_head, attn, mlp.0-3, ...",
        parser=names,
        metavar="PART,...",
    ),
    flag("training.document_masking", bool, SHAPE, "A token sees its own document only."),
    flag("training.max_steps", int, BATCH, "Optimizer steps.", min=1),
    flag("training.max_time", float, BATCH, "Save and stop after 45m, 11h30m.", parser=seconds, metavar="TIME"),
    flag("training.early_stop", int, BATCH, "Stop after so many evaluations without progress.", min=1),
    flag("training.total_batch_size", int, BATCH, "Tokens per step, over all ranks.", min=1),
    flag(
        "training.micro_batch_size", str, BATCH, "Windows per forward on one rank.", parser=rows, metavar="COUNT|auto"
    ),
    flag("training.gradient_checkpointing", bool, BATCH, "Less memory for a third more time."),
    flag("training.strategy", Strategies, BATCH, "Under torchrun: copies of the weights, or shards."),
    flag("training.device", str, BATCH, "auto, cpu, cuda, cuda:1, mps."),
    flag("training.dtype", Dtypes, BATCH, "Precision of matrix products; auto: bf16 where the hardware has it."),
    flag("training.compile", bool, BATCH, "torch.compile; by default on CUDA only."),
    flag(
        "training.optimizer.name",
        Optimizers,
        OPTIMIZER,
        "muon: for the matrices of the blocks; AdamW for the rest.",
        name="optimizer",
    ),
    flag("training.optimizer.learning_rate", float, OPTIMIZER, "Peak learning rate.", min=0.0),
    flag(
        "training.lr_schedule.name",
        Schedules,
        OPTIMIZER,
        "After the warm-up. wsd: constant, then down at the end.",
        name="lr_schedule",
    ),
    flag("training.lr_schedule.warmup_steps", int, OPTIMIZER, "Steps of linear warm-up.", min=0),
    flag("training.optimizer.weight_decay", float, OPTIMIZER, "Decoupled, on matrices only.", min=0.0),
    flag("training.ema_decay", float, OPTIMIZER, "Keep an average of the weights too, such as 0.999."),
    flag("training.seed", int, OPTIMIZER, "Weights, data order, dropout.", min=0),
    flag("evaluation.eval_steps", int, MEASURE, "Steps between evaluations.", min=1),
    flag("evaluation.validation_steps", int, MEASURE, "Batches of validation; 0: none.", min=0),
    flag("evaluation.hellaswag_samples", int, MEASURE, "HellaSwag items; 0: none, the default.", min=0),
    flag("evaluation.hellaswag_file", Path, MEASURE, "HellaSwag as .jsonl, without a network."),
    flag(
        "sampling.num_sequences", int, MEASURE, "Samples per evaluation; 0: none.", name="sample_num_sequences", min=0
    ),
    flag("sampling.max_length", int, MEASURE, "Tokens of a sample, prompt included.", name="sample_max_length", min=1),
    flag("sampling.seed", int, MEASURE, "Seed of the samples.", name="sample_seed", min=0),
    flag("training.log_steps", int, MEASURE, "Steps between log lines.", min=1),
    flag(
        "training.trackers",
        list[str],
        MEASURE,
        "wandb, tensorboard or trackio, besides metrics.jsonl. Repeatable.",
        name="tracker",
    ),
    flag("training.checkpoint_steps", int, KEEP, "Steps between checkpoints.", min=1),
    flag("training.checkpoint_dir", Path, KEEP, "Folder of the checkpoints.", show_default="RUN/checkpoints"),
    flag("training.log_file", Path, KEEP, "Log lines, appended.", show_default="RUN/train.log"),
)


@with_flags(SETTINGS)
def train(
    context: typer.Context,
    flags: dict[str, Any],
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
    max_tokens: Annotated[
        int | None,
        typer.Option(parser=count, metavar="COUNT", help="Instead of --max-steps: 10M, 2.5B.", rich_help_panel=BATCH),
    ] = None,
    streaming: Annotated[
        bool, typer.Option("--streaming", help="Accepted and not needed: shards are never loaded whole.", hidden=True)
    ] = False,
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
        if dataset or config_name or tokenizer or model or recipe or config or "training.pretrained" in flags:
            raise ConfigError(
                "--resume goes on with the run's own settings",
                "leave out --dataset, --files, --tokenizer, --model, --pretrained, --recipe and --config",
            )
        run_dir, checkpoint = find_run(resume, run_dir)
        config = run_dir / "config.yaml"
    if model and (pretrained := flags.get("training.pretrained")):
        raise ConfigError(f"--model {model} and --pretrained {pretrained} both give the shape", "leave one out")
    if "training.max_steps" in flags and max_tokens:
        raise ConfigError("--max-steps and --max-tokens both say how long the run is", "leave one out")
    flags |= {
        "data.dataset": dataset,
        "data.config_name": config_name,
        "data.files": paths or None,
        "data.tokenizer": tokenizer,
        "data.dataset_dir": dataset_dir,
    }
    layers = find_layers(preset=model, recipe=recipe, file=config, flags=flags, assignments=set_ or ())
    if "training.pretrained" in flags:
        _check_shape_is_left_to_weights(merge(layers["flag"], layers["--set"]).get("model", {}))
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


def _check_shape_is_left_to_weights(asked: dict[str, Any]) -> None:
    if decided := asked.keys() - {"n_positions", "dropout"}:
        raise ConfigError(f"model.{min(decided)} is that of the weights of --pretrained", "leave it out")


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
