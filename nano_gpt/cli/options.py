"""Options that several commands share, declared once. None means "not given", so that recipes and files can answer."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from nano_gpt.config.presets import PRESETS, RECIPES
from nano_gpt.data.catalog import CATALOG
from nano_gpt.runtime.logs import logger

MODEL = "Which model"
SOURCE = "Which text"
_SUFFIXES = {"K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9}


class Precision(StrEnum):
    """Of the matrix products; sums and softmax are in fp32 always."""

    fp32 = "fp32"
    bf16 = "bf16"
    auto = "auto"


def count(text: str) -> int:
    """`100000000`, `1e8`, `100M` -> 100,000,000"""
    unit = _SUFFIXES.get(text[-1:].upper())
    try:
        value = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        value = 0.0
    if not (value >= 1 and value.is_integer()):
        raise typer.BadParameter(f"{text!r} is not a whole number, such as 100000000, 1e8 or 100M")
    return int(value)


def seconds(text: str) -> float:
    """`90`, `90s`, `45m`, `11h30m`, `2d` -> seconds"""
    found = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", text)
    value = 0.0
    if found:
        value = sum(float(part or 0) * unit for part, unit in zip(found.groups(), (86400, 3600, 60, 1), strict=True))
    if not value:
        raise typer.BadParameter(f"{text!r} is not a time, such as 3600, 45m or 11h30m")
    return value


def rows(text: str) -> int | str:
    """`16` or `auto`"""
    if text == "auto" or (text.isdecimal() and int(text)):
        return text if text == "auto" else int(text)
    raise typer.BadParameter(f"{text!r} is neither a number of windows nor auto")


def names(text: str) -> list[str]:
    """`wte,attn.0-3` -> ["wte", "attn.0-3"]"""
    return [name.strip() for name in text.split(",")]


Pretrained = Annotated[
    str | None,
    typer.Option(
        help="gpt2, gpt2-medium, gpt2-large, gpt2-xl, a folder, another trainer's file or a hub id user/name.",
        rich_help_panel=MODEL,
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="A run folder (its newest checkpoint), a checkpoint folder, or a file of nanoGPT, build-nanogpt, llm.c or "
        "allenporter/nano-gpt.",
        rich_help_panel=MODEL,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option("--model", help=f"Shape of a new, untrained model: {', '.join(PRESETS)}.", rich_help_panel=MODEL),
]
AdapterFolder = Annotated[
    Path | None,
    typer.Option(
        "--adapter",
        help="Adapters (LoRA) to merge into it: a run or a checkpoint of ours, or PEFT's folder.",
        rich_help_panel=MODEL,
    ),
]
ModelTokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="Of a model that comes without one: gpt2, byte, or a folder with a tokenizer.json.",
        show_default="GPT-2's, where it fits",
        rich_help_panel=MODEL,
    ),
]
SequenceLength = Annotated[
    int | None, typer.Option(min=1, help="Shorten the context to this many tokens.", rich_help_panel=MODEL)
]
Seed = Annotated[int, typer.Option(min=0, help="Of the untrained weights of --model.", rich_help_panel=MODEL)]
Compile = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="Accepted: only training is compiled.", hidden=True),
]
Device = Annotated[str, typer.Option(help="auto (cuda, else mps, else cpu), cpu, cuda, cuda:1, mps.")]
DatasetName = Annotated[
    str | None, typer.Option("--dataset", help="python_docs (built in), tinyshakespeare, finewebedu, or your own name.")
]
SourceName = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        metavar="NAME",
        help=f"{', '.join(CATALOG)}; any hub dataset as hf:owner/name; or a name for your own files.",
        show_default="name of the file",
        rich_help_panel=SOURCE,
    ),
]
ConfigName = Annotated[
    str | None,
    typer.Option(
        help="Configuration of a hub dataset: a sample size, a language.",
        show_default="the dataset's own",
        rich_help_panel=SOURCE,
    ),
]
Urls = Annotated[
    list[str] | None,
    typer.Option(
        "--url", metavar="URL", help="A file from the web, downloaded once. Repeatable.", rich_help_panel=SOURCE
    ),
]
TextColumn = Annotated[
    str | None,
    typer.Option(
        help="The column of a table, the field of a .jsonl line with the text.",
        show_default="the dataset's own, or text",
        rich_help_panel=SOURCE,
    ),
]
DocumentSeparator = Annotated[
    str | None,
    typer.Option(
        help="Cut .txt files into documents at this string; \\n in it is a line end.",
        show_default="lines of <|endoftext|> only",
        rich_help_panel=SOURCE,
    ),
]
EncodingErrors = Annotated[
    Literal["strict", "replace"] | None,
    typer.Option(
        help="Bytes that are not UTF-8: stop and name the byte, or put U+FFFD.",
        show_default="strict",
        rich_help_panel=SOURCE,
    ),
]
MaxDocuments = Annotated[
    int | None,
    typer.Option(
        parser=count, metavar="COUNT", help="Take only the first documents of the source.", rich_help_panel=SOURCE
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        parser=count,
        metavar="COUNT",
        help="Take only the first documents, up to so many tokens: 10M, 1e9.",
        rich_help_panel=SOURCE,
    ),
]
ValidationFraction = Annotated[
    float | None,
    typer.Option(
        help="Share of the documents kept for validation.",
        show_default="the dataset's own; your files 0.1",
        rich_help_panel=SOURCE,
    ),
]
Dedup = Annotated[
    Literal["none", "exact"] | None,
    typer.Option(
        help="exact: of documents with the same text, keep the first.", show_default="none", rich_help_panel=SOURCE
    ),
]
NumProcs = Annotated[
    int | None, typer.Option(min=1, help="Processes that read and tokenise.", show_default="one per core")
]
DatasetDir = Annotated[
    Path | None, typer.Option(help="Folder that holds the prepared sets.", show_default="dataset_cache")
]
Files = Annotated[
    list[Path] | None,
    typer.Option(
        "--files",
        metavar="PATH...",
        help="Your own text: .txt, .jsonl, .parquet, each also .gz, .zst; folders, globs.",
    ),
]
MoreFiles = Annotated[list[Path] | None, typer.Argument(hidden=True, metavar="PATH")]
"""Takes the rest of `--files a.txt b.txt`: an option has one value, and a shell's *.txt has many."""
TokenizerName = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="gpt2, byte, char, bpe:SIZE (made from the corpus), or a folder with a tokenizer.json.",
        show_default="the dataset's own, or gpt2",
    ),
]
Recipe = Annotated[
    str | None, typer.Option(help=f"A whole run: {', '.join(RECIPES)}.", show_default="the dataset's own")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML, as `nano-gpt config` prints it and a run keeps it.")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any setting by its path, e.g. training.optimizer.beta2=0.99. Repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, for scripts.")]


def all_files(context: typer.Context, files: list[Path] | None, more: list[Path] | None) -> list[Path]:
    """Both parts of `--files a.txt b.txt`. A path without --files is misuse."""
    if more and not files:
        context.fail(f"unexpected argument {str(more[0])!r}; files are named by --files")
    return [*(files or []), *(more or [])]


def tell_not_compiled(compile_: bool | None) -> None:
    """The predecessor's commands all take --compile; ours says where it does nothing."""
    if compile_:
        logger.info("--compile has no effect here: shapes change too often to pay for it; train compiles its step")
