"""`nano-gpt prepare_dataset`: from text to token files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nano_gpt.cli.options import DatasetDir, Files, Json, MoreFiles, TokenizerName, all_files
from nano_gpt.config import DataConfig, build
from nano_gpt.data.catalog import CATALOG, name_for_files, next_command

if TYPE_CHECKING:
    from nano_gpt.data.manifest import PreparedSet

FILES, TOKENS = "Your own text", "Token files"
_SUFFIXES = {"K": 1e3, "M": 1e6, "B": 1e9}


def _count(text: str) -> int:
    """`100000000`, `1e8`, `100M` -> 100,000,000"""
    unit = _SUFFIXES.get(text[-1:].upper())
    try:
        value = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        value = 0.0
    if not (value >= 1 and value.is_integer()):
        raise typer.BadParameter(f"{text!r} is not a whole number of tokens, such as 100000000, 1e8 or 100M")
    return int(value)


def prepare_dataset(
    context: typer.Context,
    dataset: Annotated[
        str | None,
        typer.Option(
            help=f"One of {', '.join(CATALOG)}; or a name for your own files.", show_default="name of the file"
        ),
    ] = None,
    files: Files = None,
    more_files: MoreFiles = None,
    tokenizer: TokenizerName = None,
    splits: Annotated[str, typer.Option(help="The splits to prepare.")] = "train,validation",
    dataset_dir: DatasetDir = None,
    text_column: Annotated[
        str | None,
        typer.Option(help="The field of a .jsonl line with the text.", show_default="text", rich_help_panel=FILES),
    ] = None,
    document_separator: Annotated[
        str | None,
        typer.Option(
            help="Cut .txt files into documents at this string; \\n in it is a line end.",
            show_default="lines of <|endoftext|> only",
            rich_help_panel=FILES,
        ),
    ] = None,
    validation_fraction: Annotated[
        float | None,
        typer.Option(
            help="Share of the documents kept for validation.",
            show_default="0.1; finewebedu 0.03",
            rich_help_panel=FILES,
        ),
    ] = None,
    tokens_per_shard: Annotated[
        int | None,
        typer.Option(
            parser=_count,
            metavar="COUNT",
            help="Tokens in a full file: 100000000, 1e8, 100M.",
            show_default="100M",
            rich_help_panel=TOKENS,
        ),
    ] = None,
    num_procs: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that tokenise.", show_default="half of the cores", rich_help_panel=TOKENS),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a set that is there already.")] = False,
    json_: Json = False,
) -> None:
    """Turn text into token files for training.

    Stopped in the middle, the same command goes on where it was; done already, it returns at once.

    **Documents** of your own: every line of a .jsonl file is one. A .txt file is one, or several, cut at lines that
    hold only `<|endoftext|>`, or at --document-separator. Documents of nothing but white space are left out.

    **Validation** is split off by document, not by position: those whose text has a small hash, so that exact
    duplicates stay together. Of fewer than 100 documents it gets exactly the rounded share, at least one. A single
    document is cut once, at a blank line (else a line end, else anywhere) just before the share. tinyshakespeare
    brings its own split: the last tenth.
    """
    from nano_gpt.data.prepare import prepare

    paths = all_files(context, files, more_files)
    if not dataset and not paths:
        context.fail(f"which text? --dataset NAME ({', '.join(CATALOG)}) or --files PATH...")
    values: dict[str, Any] = {
        "dataset": dataset or name_for_files(paths),
        "files": paths,
        "text_column": text_column,
        "document_separator": document_separator and document_separator.replace("\\n", "\n"),
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
    _report(prepare(config, wanted, overwrite=overwrite), config, as_json=json_)


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
            "splits": {
                split: {**counts.model_dump(), "bytes_per_token": prepared.bytes_per_token(split)}
                for split, counts in manifest.splits.items()
            },
        }
        typer.echo(json.dumps(summary, allow_nan=False))
        return
    size = sum(shard.bytes for shard in manifest.shards) / 1e6
    files = f"{len(manifest.shards):,} file{'s' if len(manifest.shards) > 1 else ''}"
    typer.echo(
        f"{prepared.folder}: {files}, {size:,.1f} MB, tokenizer {manifest.tokenizer} ({manifest.vocab_size:,} ids)"
    )
    for split, counts in manifest.splits.items():
        typer.echo(
            f"  {split:<10} {counts.tokens:>15,} tokens {counts.documents:>12,} documents "
            f"{prepared.bytes_per_token(split):>6.2f} bytes per token"
        )
    typer.echo(f"next: {next_command(config)}")
