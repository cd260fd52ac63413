"""`nano-gpt prepare_dataset`: from text to token files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nano_gpt.cli.options import (
    ConfigName,
    DatasetDir,
    Dedup,
    DocumentSeparator,
    EncodingErrors,
    Files,
    Json,
    MaxDocuments,
    MaxTokens,
    MoreFiles,
    NumProcs,
    SourceName,
    TextColumn,
    TokenizerName,
    Urls,
    ValidationFraction,
    all_files,
    count,
)
from nano_gpt.config import DataConfig, build
from nano_gpt.data.catalog import CATALOG, name_for_files, path_of, safe_name
from nano_gpt.data.commands import next_command
from nano_gpt.runtime.distributed import sharing_ranks
from nano_gpt.runtime.progress import clock

if TYPE_CHECKING:
    from nano_gpt.data.manifest import PreparedSet
    from nano_gpt.data.preparing.estimate import Estimate

TOKENS, READY = "Token files", "Tokens that are ready"


def prepare_dataset(
    context: typer.Context,
    dataset: SourceName = None,
    files: Files = None,
    more_files: MoreFiles = None,
    urls: Urls = None,
    config_name: ConfigName = None,
    text_column: TextColumn = None,
    document_separator: DocumentSeparator = None,
    encoding_errors: EncodingErrors = None,
    max_documents: MaxDocuments = None,
    max_tokens: MaxTokens = None,
    dedup: Dedup = None,
    validation_fraction: ValidationFraction = None,
    tokenizer: TokenizerName = None,
    splits: Annotated[str, typer.Option(help="The splits to prepare.", rich_help_panel=TOKENS)] = "train,validation",
    dataset_dir: DatasetDir = None,
    tokens_per_shard: Annotated[
        int | None,
        typer.Option(
            parser=count,
            metavar="COUNT",
            help="Tokens in a full file: 100000000, 1e8, 100M.",
            show_default="100M",
            rich_help_panel=TOKENS,
        ),
    ] = None,
    num_procs: NumProcs = None,
    prebuilt: Annotated[
        bool,
        typer.Option(
            "--prebuilt",
            help="Download the dataset's published GPT-2 tokens instead of making them.",
            rich_help_panel=READY,
        ),
    ] = False,
    import_: Annotated[
        Path | None,
        typer.Option(
            "--import",
            metavar="PATH",
            help="Use token files of another program as they are: check them, write a manifest.",
            rich_help_panel=READY,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a set that is there already.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be downloaded and written, and how long it takes.")
    ] = False,
    json_: Json = False,
) -> None:
    """Turn text into token files for training.

    Stopped in the middle, the same command goes on where it was; done already, it returns at once.

    **Documents** of your own: every line of a .jsonl file and every row of a .parquet file is one. A .txt file is one,
    or several, cut at lines that hold only `<|endoftext|>`, or at --document-separator. Documents of nothing but white
    space are left out.

    **Validation** is split off by document, not by position: those whose text has a small hash, so that exact
    duplicates stay together. Of fewer than 100 documents it gets exactly the rounded share, at least one. A single
    document is cut once, at a blank line (else a line end, else anywhere) just before the share. A dataset that brings
    a validation split keeps it, unless --validation-fraction is given.

    **Several machines**: the same command under torchrun, or in a SLURM array, shares the text out over the ranks;
    --dataset-dir must be on a disk that all of them see. The set is the one that a single machine makes.
    """
    paths = all_files(context, files, more_files)
    if not (dataset or paths or urls or import_):
        context.fail(f"which text? --dataset NAME ({', '.join(CATALOG)}, hf:owner/name) or --files PATH...")
    values: dict[str, Any] = {
        "dataset": dataset or _name(paths, urls or [], import_),
        "files": paths or None,
        "urls": urls or None,
        "config_name": config_name,
        "text_column": text_column,
        "document_separator": document_separator and _unescaped(document_separator),
        "encoding_errors": encoding_errors,
        "max_documents": max_documents,
        "max_tokens": max_tokens,
        "dedup": dedup,
        "validation_fraction": validation_fraction,
        "tokenizer": tokenizer,
        "dataset_dir": dataset_dir,
        "tokens_per_shard": tokens_per_shard,
        "num_procs": num_procs,
    }
    config = build(DataConfig, {name: value for name, value in values.items() if value is not None})
    wanted = [name for split in splits.split(",") if (name := split.strip())]
    if not wanted:
        context.fail("--splits names no split: train,validation")
    if prebuilt and import_:
        context.fail("--prebuilt downloads a set and --import uses one that is here: give one of them")
    if dry_run:
        from nano_gpt.data.preparing.estimate import estimate, estimate_prebuilt

        if import_:
            context.fail("--import downloads and writes nothing: there is nothing to tell beforehand")
        _tell_estimate(estimate_prebuilt(config) if prebuilt else estimate(config), as_json=json_)
        return
    prepared = _prepare(config, wanted, prebuilt=prebuilt, import_=import_, overwrite=overwrite)
    if prepared is not None:
        _report(prepared, config, as_json=json_)


def _prepare(
    config: DataConfig, splits: list[str], *, prebuilt: bool, import_: Path | None, overwrite: bool
) -> PreparedSet | None:
    if import_ is not None:
        from nano_gpt.data.ready.foreign import import_shards

        return import_shards(import_, config, overwrite=overwrite)
    if prebuilt:
        from nano_gpt.data.ready.prebuilt import download_prebuilt

        return download_prebuilt(config, overwrite=overwrite)
    from nano_gpt.data.preparing.prepare import prepare_share

    return prepare_share(config, splits, ranks=sharing_ranks(), overwrite=overwrite)


def _unescaped(text: str) -> str:
    r"""With \n, \r and \t, which a shell hands on as they are written, as what they stand for."""
    return text.replace("\\n", "\n").replace("\\r", "\r").replace("\\t", "\t")


def _name(paths: list[Path], urls: list[str], import_: Path | None) -> str:
    """The name of a set that was given none."""
    if import_ is not None:  # train.bin, val.bin: the folder's name tells more than theirs
        path = import_.absolute()
        return safe_name(path.name if path.is_dir() else path.parent.name)
    return name_for_files(paths or [path_of(urls[0])])


def _report(prepared: PreparedSet, config: DataConfig, *, as_json: bool) -> None:
    import json

    manifest = prepared.manifest
    if as_json:
        summary = {
            "folder": str(prepared.folder),
            "dataset": manifest.dataset,
            "tokenizer": manifest.tokenizer,
            "vocab_size": manifest.vocab_size,
            "shards": len(manifest.shards),
            "duplicates_dropped": manifest.duplicates_dropped,
            "validation_in_train": manifest.validation_in_train,
            "splits": {
                split: {
                    **counts.model_dump(exclude={"lengths"}),
                    "bytes_per_token": prepared.bytes_per_token(split),
                }
                for split, counts in manifest.splits.items()
            },
        }
        typer.echo(json.dumps(summary, allow_nan=False))
        return
    files = f"{len(manifest.shards):,} file{'s' if len(manifest.shards) > 1 else ''}"
    typer.echo(
        f"{prepared.folder}: {files}, {prepared.bytes / 1e6:,.1f} MB, "
        f"tokenizer {manifest.tokenizer} ({manifest.vocab_size:,} ids)"
    )
    for split, counts in manifest.splits.items():
        typer.echo(
            f"  {split:<10} {counts.tokens:>14,} tokens {counts.documents:>12,} documents "
            f"{prepared.bytes_per_token(split):>6.2f} bytes per token"
        )
    if config.dedup == "exact":
        typer.echo(f"  duplicates dropped: {manifest.duplicates_dropped:,}")
    if manifest.validation_in_train is not None:
        typer.echo(f"  validation documents that are in train too: {manifest.validation_in_train:,}")
    typer.echo(f"next: {next_command(config)}")


def _tell_estimate(estimate: Estimate, *, as_json: bool) -> None:
    import dataclasses
    import json

    if as_json:
        typer.echo(json.dumps({**dataclasses.asdict(estimate), "folder": str(estimate.folder)}, allow_nan=False))
        return
    rows = {
        "download": _size(estimate.download_bytes),
        "text": f"{_size(estimate.text_bytes)}, {_number(estimate.documents)} documents",
        "tokens": _number(estimate.tokens),
        "written": f"{_size(estimate.written_bytes)} to {estimate.folder} ({_size(estimate.free_bytes)} free)",
        "time": f"{'-' if estimate.seconds is None else clock(estimate.seconds)} in {estimate.num_procs} "
        f"process{'es' if estimate.num_procs > 1 else ''}",
    }
    typer.echo("dry run: nothing is written; what cannot be known beforehand is estimated from a sample")
    for name, value in rows.items():
        typer.echo(f"  {name:<10} {value}")


def _size(size: int | None) -> str:
    if size is None:
        return "-"
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= limit:
            return f"{size / limit:,.1f} {unit}"
    return f"{size} bytes"


def _number(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"
