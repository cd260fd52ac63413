"""`nano-gpt export`: a trained model as a folder that transformers and others open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from nano_gpt.cli.options import (
    Checkpoint,
    Compile,
    Device,
    Json,
    Preset,
    Pretrained,
    Seed,
    SequenceLength,
    tell_not_compiled,
)
from nano_gpt.errors import CheckpointError


def export(
    export_dir: Annotated[Path, typer.Option(help="The new folder.", show_default=False)],
    checkpoint: Checkpoint = None,
    pretrained: Pretrained = None,
    model: Preset = None,
    sequence_length: SequenceLength = None,
    seed: Seed = 1337,
    compile_: Compile = None,
    device: Device = "cpu",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older export of that name.")] = False,
    as_json: Json = False,
) -> None:
    """Write a model as a plain GPT-2 folder: weights, config, tokenizer, model card, checksums.

    Without --checkpoint and --pretrained: the newest run in runs/. Before the folder gets its name, transformers loads
    it, and its logits and its tokenizer are compared with ours.
    """
    from nano_gpt.checkpoint.source import load_model, newest_run
    from nano_gpt.hub.export import export as write_export
    from nano_gpt.runtime.device import resolve_device

    tell_not_compiled(compile_)
    if not (checkpoint or pretrained or model or newest_run()):
        raise CheckpointError("there is no run in runs/ to export", "--checkpoint RUN, or --pretrained gpt2")
    loaded = load_model(
        pretrained,
        checkpoint=checkpoint,
        preset=model,
        sequence_length=sequence_length,
        seed=seed,
        device=resolve_device(device),
    )
    report = write_export(loaded, export_dir, overwrite=overwrite)
    if as_json:
        values = {
            "folder": str(report.folder),
            "source": loaded.origin,
            "files": report.files,
            "largest_logit_difference": report.largest_difference,
            "compared_tokens": report.compared_tokens,
        }
        typer.echo(json.dumps(values))
        return
    typer.echo(f"exported {loaded.origin} to {report.folder}")
    for name, size in report.files.items():
        typer.echo(f"  {name:24} {size:>15,} bytes")
    typer.echo(
        f"verified with transformers: largest logit difference {report.largest_difference:.1e} "
        f"over {report.compared_tokens} tokens, tokenizer round trip equal"
    )
    shown = report.folder if report.folder.is_absolute() or ".." in report.folder.parts else f"./{report.folder}"
    typer.echo(f"next: nano-gpt sample --pretrained {shown}\n      nano-gpt upload {shown} user/name")
