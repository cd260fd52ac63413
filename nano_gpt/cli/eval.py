"""`nano-gpt eval`: how good is a model, and is it better than another? One line for each task."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
    Precision,
    Preset,
    Pretrained,
    Seed,
    SequenceLength,
    tell_not_compiled,
)
from nano_gpt.config.evaluation import LM_EVAL, TASKS, EvaluationConfig, parse_tasks
from nano_gpt.runtime import distributed

if TYPE_CHECKING:
    from nano_gpt.evaluation.comparison import Difference
    from nano_gpt.evaluation.results import Result

VALIDATION = "Validation loss"
HELLASWAG = "HellaSwag"
OTHERS = "Tasks of lm-eval"


def eval_(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="A model, as --pretrained and --checkpoint name it; or two, to be compared item by item.",
            metavar="MODEL",
            show_default=False,
        ),
    ] = None,
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
    quantize: Annotated[
        Literal["int8"] | None,
        typer.Option(help="Measure the model again with weights of 8 bits, and what that has changed."),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(min=1, help="Rows of text in one forward, as long as the context. No result depends on it."),
    ] = EvaluationConfig().batch_size,
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="TASK,...",
            help=f"{', '.join(TASKS)}, and {LM_EVAL}NAME,... for any task of the lm-eval package.",
            show_default="val and hellaswag, as far as they can be had",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Items of every task, from the first; windows of val.", show_default="all"),
    ] = None,
    dataset: DatasetName = None,
    config_name: ConfigName = None,
    dataset_dir: DatasetDir = None,
    text: Annotated[
        Path | None,
        typer.Option(help="Take the loss on a text file (UTF-8) instead of a data set.", rich_help_panel=VALIDATION),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens from one window to the next. Each token is scored once, from the second window on with at "
            "least (context - stride) tokens before it: a smaller stride gives a lower loss and takes longer.",
            show_default="the context, as in training",
            rich_help_panel=VALIDATION,
        ),
    ] = None,
    validation_steps: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Batches from the start of the validation split, each of the run's total batch size or else "
            "524,288 tokens. 0: no validation loss. More than there are: all of it.",
            show_default="as the run, or 20; all of a --text",
            rich_help_panel=VALIDATION,
        ),
    ] = None,
    hellaswag_samples: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Items, from the first. 0: no HellaSwag.",
            show_default="--limit, or all",
            rich_help_panel=HELLASWAG,
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
    lm_eval_tasks_dir: Annotated[
        Path | None,
        typer.Option(help="A folder with task files (YAML) of your own.", rich_help_panel=OTHERS),
    ] = None,
    json_output: Json = False,
) -> None:
    """Measure a model: validation loss with perplexity and bits per byte, HellaSwag, and any task of lm-eval.

    Without a model named, the newest run in runs/ is measured, or else GPT-2. The loss is taken on `--dataset`, on a
    `--text`, or on the run's own data set. HellaSwag has three scores that must not be mixed: `accuracy` takes the text
    as it is and the mean over tokens (as build-nanogpt; GPT-2 124M has 0.2955), `acc` and `acc_norm` are those of
    lm-eval (0.2892 and 0.3114). Every score has its standard error. Scores are kept beside a checkpoint, in
    evaluations.json, and shown in its model card. Under torchrun the ranks share the work.

    Two models are compared item by item: differences have a 95% interval, from a paired bootstrap. So is a model with
    itself in 8 bits (`--quantize int8`).
    """
    names = models or []
    if len(names) > 2 or (names and (pretrained or checkpoint or model)):
        raise typer.BadParameter("name one model, or two to be compared")
    if len(names) == 2 and quantize is not None:
        raise typer.BadParameter("--quantize compares a model with itself: name one")
    if len(names) == 2 and adapter is not None:
        raise typer.BadParameter("--adapter is for one model; as one of two, name the folder of the adapters itself")
    wanted = parse_tasks(tasks) if tasks is not None else None  # a fault in it is told before a model is loaded
    os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported: lm-eval has a bar for every small step

    from nano_gpt.checkpoint.source import load_model
    from nano_gpt.evaluation.comparison import compare
    from nano_gpt.evaluation.evaluate import Request, evaluate
    from nano_gpt.evaluation.results import summary
    from nano_gpt.runtime.device import resolve_device, resolve_dtype

    tell_not_compiled(compile_)
    ranks = distributed.from_environment()
    where = resolve_device(device, ranks.local_rank)
    request = Request(
        tasks=wanted,
        limit=limit,
        dataset=dataset,
        config_name=config_name,
        dataset_dir=dataset_dir,
        text=text,
        stride=stride,
        validation_steps=validation_steps,
        hellaswag_samples=hellaswag_samples,
        hellaswag_file=hellaswag_file,
        lm_eval_folder=lm_eval_tasks_dir,
        batch_size=batch_size,
        dtype=resolve_dtype(dtype.value, where),
        save=sequence_length is None,  # with a shorter context it is another model
    )

    def tell(line: str) -> None:
        if ranks.is_main and not json_output:
            typer.echo(line)

    with distributed.process_group(ranks, where):
        origins: list[str] = []
        fingerprints: list[str] = []
        found: list[list[Result]] = []
        ways: list[Literal["int8"] | None] = [None] if quantize is None else [None, quantize]
        asked: list[str | None] = [*names] or [None]
        measured = [(name, way) for name in asked for way in ways]
        for number, (name, way) in enumerate(measured):
            loaded = load_model(
                name or pretrained,
                checkpoint=checkpoint,
                preset=model,
                tokenizer=tokenizer,
                adapter=adapter,
                sequence_length=sequence_length,
                seed=seed,
                device=where,
            )
            origins.append(loaded.origin if way is None else f"{loaded.origin} in {way}")
            if len(measured) == 2:
                tell(f"{'ab'[number]}: {origins[-1]}")
            fingerprints.append(loaded.tokenizer.fingerprint)
            found.append([])
            for result in evaluate(loaded, replace(request, quantize=way), ranks):
                found[-1].append(result)
                tell(summary(result))
            del loaded  # there may be no room for two
    differences = []
    if len(found) == 2 and ranks.is_main:
        differences = list(compare(*found, same_tokenizer=fingerprints[0] == fingerprints[1]))
    for difference in differences:
        tell(difference.summary())
    if ranks.is_main and json_output:
        typer.echo(json.dumps(_as_json(origins, found, differences), allow_nan=False))


def _as_json(origins: list[str], found: list[list[Result]], differences: list[Difference]) -> dict[str, object]:
    """One object: of a model its tasks, of two models those of each, and the differences by score."""
    models: list[dict[str, object]] = [
        {"model": origin, **{result.kind: _finite(result.fields()) for result in results}}
        for origin, results in zip(origins, found, strict=True)
    ]
    if len(models) == 1:
        return models[0]
    return {"models": models, "differences": {one.score: _finite(one.fields()) for one in differences}}


def _finite(fields: dict[str, object]) -> dict[str, object]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in fields.items()
    }
