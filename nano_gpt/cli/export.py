"""`nano-gpt export`: a trained model as a folder that transformers and others open, or as a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nano_gpt.cli.options import (
    AdapterFolder,
    Checkpoint,
    Compile,
    Device,
    Json,
    ModelTokenizer,
    Preset,
    Pretrained,
    Seed,
    SequenceLength,
    tell_not_compiled,
)
from nano_gpt.errors import CheckpointError

if TYPE_CHECKING:
    from nano_gpt.hub.export import ExportReport
    from nano_gpt.hub.gguf import GGUFReport


def export(
    context: typer.Context,
    export_dir: Annotated[Path | None, typer.Option(help="The new folder.", show_default=False)] = None,
    gguf: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="One file for llama.cpp, instead or as well.", show_default=False),
    ] = None,
    dtype: Annotated[
        Literal["fp32", "bf16", "fp16"], typer.Option(help="Type of the weights that are written.")
    ] = "fp32",
    checkpoint: Checkpoint = None,
    pretrained: Pretrained = None,
    tokenizer: ModelTokenizer = None,
    adapter: AdapterFolder = None,
    model: Preset = None,
    sequence_length: SequenceLength = None,
    seed: Seed = 1337,
    compile_: Compile = None,
    device: Device = "cpu",
    merge: Annotated[
        bool, typer.Option("--merge", help="Adapters (LoRA): add them to the weights that they adapt.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older export of that name.")] = False,
    as_json: Json = False,
) -> None:
    """Write a model as a plain folder that others open: weights, config, tokenizer, model card, checksums.

    Without --checkpoint and --pretrained: the newest run in runs/. Before the folder gets its name, transformers loads
    it, and its logits and its tokenizer are compared with ours. A GGUF is read back and compared.
    """
    if export_dir is None and gguf is None:
        context.fail("where to? --export-dir DIR, --gguf FILE, or both")

    from nano_gpt.checkpoint.source import load_model, newest_run
    from nano_gpt.hub.export import export as write_export
    from nano_gpt.hub.gguf import check_gguf_target, write_gguf
    from nano_gpt.runtime.device import resolve_device

    tell_not_compiled(compile_)
    if gguf is not None:  # before the folder is written
        check_gguf_target(gguf, overwrite=overwrite)
    if not (checkpoint or pretrained or model or newest_run()):
        raise CheckpointError("there is no run in runs/ to export", "--checkpoint RUN, or --pretrained gpt2")
    loaded = load_model(
        pretrained,
        checkpoint=checkpoint,
        preset=model,
        tokenizer=tokenizer,
        adapter=adapter,
        sequence_length=sequence_length,
        seed=seed,
        device=resolve_device(device),
    )
    if loaded.adapter and not merge:
        raise CheckpointError(
            f"{loaded.folder} holds adapters, which PEFT opens as they are",
            "--merge adds them to the weights that they adapt, and exports the whole",
        )
    values: dict[str, Any] = {"source": loaded.origin, "dtype": dtype}
    if export_dir is not None:
        report = write_export(loaded, export_dir, precision=dtype, overwrite=overwrite)
        values |= _folder_values(report)
        if not as_json:
            _tell_folder(loaded.origin, report)
    if gguf is not None:
        written = write_gguf(loaded, gguf, precision=dtype, overwrite=overwrite)
        values["gguf"] = {"file": str(written.file), "bytes": written.size, "tensors": written.tensors}
        if not as_json:
            _tell_gguf(loaded.origin, written)
    if as_json:
        typer.echo(json.dumps(values))


def _folder_values(report: ExportReport) -> dict[str, Any]:
    return {
        "folder": str(report.folder),
        "files": report.files,
        "largest_logit_difference": report.largest_difference,
        "compared_tokens": report.compared_tokens,
    }


def _tell_folder(origin: str, report: ExportReport) -> None:
    typer.echo(f"exported {origin} to {report.folder}")
    for name, size in report.files.items():
        typer.echo(f"  {name:24} {size:>15,} bytes")
    typer.echo(
        f"verified with transformers: largest logit difference {report.largest_difference:.1e} "
        f"over {report.compared_tokens} tokens, tokenizer round trip equal"
    )
    shown = report.folder if report.folder.is_absolute() or ".." in report.folder.parts else f"./{report.folder}"
    typer.echo(f"next: nano-gpt sample --pretrained {shown}\n      nano-gpt upload {shown} user/name")


def _tell_gguf(origin: str, written: GGUFReport) -> None:
    typer.echo(
        f"exported {origin} to {written.file}: {written.size:,} bytes, {written.tensors} tensors; "
        f"read back and found equal\nnext: llama-cli -m {written.file} -no-cnv -p 'Once upon a time'"
    )
