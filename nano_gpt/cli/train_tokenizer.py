"""`nano-gpt train_tokenizer`: a vocabulary made for a corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nano_gpt.cli.options import (
    SOURCE,
    ConfigName,
    DocumentSeparator,
    EncodingErrors,
    Files,
    Json,
    MaxDocuments,
    MoreFiles,
    SourceName,
    TextColumn,
    Urls,
    ValidationFraction,
    all_files,
    count,
)
from nano_gpt.config import DataConfig, build
from nano_gpt.data.catalog import CATALOG, name_for_files, path_of, prepared_folder
from nano_gpt.data.commands import prepare_command

if TYPE_CHECKING:
    from nano_gpt.data.preparing.vocabulary import Training


def train_tokenizer(
    context: typer.Context,
    dataset: SourceName = None,
    files: Files = None,
    more_files: MoreFiles = None,
    url: Urls = None,
    config_name: ConfigName = None,
    text_column: TextColumn = None,
    document_separator: DocumentSeparator = None,
    encoding_errors: EncodingErrors = None,
    validation_fraction: ValidationFraction = None,
    max_documents: MaxDocuments = None,
    max_bytes: Annotated[
        int | None,
        typer.Option(
            parser=count,
            metavar="COUNT",
            help="Learn from no more text than this: 500M, 2G. The memory it takes grows with it.",
            show_default="1G",
            rich_help_panel=SOURCE,
        ),
    ] = None,
    vocab_size: Annotated[
        int, typer.Option(help="Number of ids: 256 bytes, the merges, and <|endoftext|>, the last.")
    ] = 8192,
    tokenizer_dir: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer-dir", "-o", help="Folder to write it to.", show_default="tokenizers/DATASET-VOCAB_SIZE"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a tokenizer that is there already.")] = False,
    json_: Json = False,
) -> None:
    """Make a byte-level BPE for a corpus, and compare it with GPT-2's.

    It learns from the training documents only, so that the validation loss of a model says what it should. The same
    text gives the same ids on every machine. The folder is what --tokenizer takes, and `transformers` too; it holds

        tokenizer.json   tokenizer_config.json   vocab.json   merges.txt   trained_on.json

    A small model gains by a small vocabulary: at 8,192 ids the embedding of a model 384 wide has 3 million parameters,
    at GPT-2's 50,257 ids 19 million.
    """
    paths = all_files(context, files, more_files)
    if not (dataset or paths or url):
        context.fail(f"which text? --dataset NAME ({', '.join(CATALOG)}), --files PATH... or --url URL")
    values: dict[str, Any] = {
        "dataset": dataset or name_for_files([*paths, *map(path_of, url or ())]),
        "files": paths,
        "urls": url,
        "config_name": config_name,
        "text_column": text_column,
        "document_separator": document_separator and document_separator.replace("\\n", "\n"),
        "encoding_errors": encoding_errors,
        "validation_fraction": validation_fraction,
    }
    config = build(DataConfig, {name: value for name, value in values.items() if value is not None})
    folder = tokenizer_dir or Path("tokenizers", f"{prepared_folder(config).name}-{vocab_size}")

    from nano_gpt.data.preparing.vocabulary import MAX_BYTES, train_vocabulary
    from nano_gpt.data.preparing.workers import make_source

    training = train_vocabulary(
        make_source(config),
        vocab_size,
        folder,
        max_documents=max_documents,
        max_bytes=max_bytes or MAX_BYTES,
        overwrite=overwrite,
    )
    next_command = prepare_command(config.model_copy(update={"tokenizer": str(folder)}))
    if json_:
        ratios = {name: getattr(training, name) for name in ("bytes_per_token", "gpt2_bytes_per_token")}
        summary = {"folder": str(folder), **training.model_dump(), **ratios, "next": next_command}
        typer.echo(json.dumps(summary, allow_nan=False))
        return
    typer.echo("\n".join(_report(training, folder)))
    typer.echo(f"next: {next_command}")


def _report(training: Training, folder: Path) -> list[str]:
    asked = training.asked_vocab_size
    fewer = f" and not {asked:,}: the text has no more pairs" if training.vocab_size < asked else ""
    first = "the first " if training.limited else ""
    ours, gpt2 = _ratio(training.bytes_per_token), _ratio(training.gpt2_bytes_per_token)
    return [
        f"{folder}: {training.vocab_size:,} ids{fewer}",
        f"  learned from     {first}{_documents(training.documents)}, {_size(training.bytes)}, "
        f"in {training.seconds:,.1f} s",
        *(["                   (there is more: --max-bytes, --max-documents)"] if training.limited else []),
        f"  held-out text    {_documents(training.held_out_documents)}, {_size(training.held_out_bytes)}",
        f"  bytes per token  {ours} on it; {gpt2} with GPT-2's 50,257 ids",
        *([f"                   ({training.gpt2_missing})"] if training.gpt2_missing else []),
    ]


def _documents(number: int) -> str:
    return f"{number:,} document{'' if number == 1 else 's'}"


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size:,} bytes"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
