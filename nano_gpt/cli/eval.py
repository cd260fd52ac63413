"""`nano-gpt eval`: how good is a model? Validation loss and HellaSwag, as one line each."""

from __future__ import annotations

import json
import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nano_gpt.cli.options import (
    AdapterFolder,
    Checkpoint,
    Compile,
    ConfigName,
    DatasetDir,
    DatasetName,
    Device,
    Json,
    ModelTokenizer,
    Preset,
    Pretrained,
    Seed,
    SequenceLength,
    tell_not_compiled,
)
from nano_gpt.config.evaluation import EvaluationConfig
from nano_gpt.runtime import distributed

VALIDATION = "Validation loss"
HELLASWAG = "HellaSwag"


class Precision(StrEnum):
    """Of the matrix products; sums and softmax are in fp32 always."""

    fp32 = "fp32"
    bf16 = "bf16"
    auto = "auto"


def eval_(
    pretrained: Pretrained = None,
    checkpoint: Checkpoint = None,
    tokenizer: ModelTokenizer = None,
    adapter: AdapterFolder = None,
    model: Preset = None,
    sequence_length: SequenceLength = None,
    seed: Seed = 1337,
    compile_: Compile = None,
    device: Device = "auto",
    dtype: Annotated[
        Precision, typer.Option(help="fp32 agrees with other tools best; auto is bf16 where that is faster.")
    ] = Precision.fp32,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Rows of text in one forward. No result depends on it.")
    ] = EvaluationConfig().batch_size,
    dataset: DatasetName = None,
    config_name: ConfigName = None,
    dataset_dir: DatasetDir = None,
    validation_steps: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Batches from the start of the validation split, each of the run's total batch size or else "
            "524,288 tokens. 0: no validation loss. More than there are: all of it.",
            show_default="as the run, or 20",
            rich_help_panel=VALIDATION,
        ),
    ] = None,
    hellaswag_samples: Annotated[
        int | None,
        typer.Option(
            min=0, help="Items, from the first. 0: no HellaSwag.", show_default="all", rich_help_panel=HELLASWAG
        ),
    ] = None,
    hellaswag_file: Annotated[
        Path | None,
        typer.Option(
            help="The items as .jsonl, for machines without a network.",
            show_default="Rowan/hellaswag from the hub",
            rich_help_panel=HELLASWAG,
        ),
    ] = None,
    json_output: Json = False,
) -> None:
    """Measure a model: validation loss with perplexity and bits per byte, and HellaSwag.

    Without a model named, the newest run in runs/ is measured, or else GPT-2. The loss is taken on `--dataset`, or on
    the run's own data set. HellaSwag has three scores that must not be mixed: `accuracy` takes the text as it is and
    the mean over tokens (as build-nanogpt; GPT-2 124M has 0.2955), `acc` and `acc_norm` are those of lm-eval (0.2892
    and 0.3114). Under torchrun the ranks share the work.
    """
    from nano_gpt.checkpoint.source import load_model
    from nano_gpt.evaluation.evaluate import Request, evaluate
    from nano_gpt.runtime.device import resolve_device, resolve_dtype

    tell_not_compiled(compile_)
    ranks = distributed.from_environment()
    where = resolve_device(device, ranks.local_rank)
    request = Request(
        dataset=dataset,
        config_name=config_name,
        dataset_dir=dataset_dir,
        validation_steps=validation_steps,
        hellaswag_samples=hellaswag_samples,
        hellaswag_file=hellaswag_file,
        batch_size=batch_size,
        dtype=resolve_dtype(dtype.value, where),
    )
    with distributed.process_group(ranks, where):
        loaded = load_model(
            pretrained,
            checkpoint=checkpoint,
            preset=model,
            tokenizer=tokenizer,
            adapter=adapter,
            sequence_length=sequence_length,
            seed=seed,
            device=where,
        )
        found: dict[str, object] = {"model": loaded.origin}
        for result in evaluate(loaded, request, ranks):
            found[result.kind] = {name: _finite(value) for name, value in result.fields().items()}
            if ranks.is_main and not json_output:
                typer.echo(result.summary())
    if ranks.is_main and json_output:
        typer.echo(json.dumps(found, allow_nan=False))


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
