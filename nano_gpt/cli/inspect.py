"""`nano-gpt inspect`: what a prepared set is, whether it is whole, a document of it, and what a training step sees."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nano_gpt.cli.options import DatasetDir, Json
from nano_gpt.config import DataConfig
from nano_gpt.runtime.logs import logger

if TYPE_CHECKING:
    from nano_gpt.data.manifest import PreparedSet

STEP = "What a training step sees"
RULE = 80  # characters of a line that opens a window


def inspect(
    context: typer.Context,
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="PATH",
            help="A prepared set: its folder, or its name in --dataset-dir. Or a run: the set that it is trained on.",
            show_default="a list of all sets",
        ),
    ] = None,
    dataset_dir: DatasetDir = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every byte and compare it with what was written.")
    ] = False,
    document: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Print the text of document N, counted from 0.")
    ] = None,
    split: Annotated[str, typer.Option(help="The split that --document is of.")] = "train",
    step: Annotated[
        int | None,
        typer.Option(min=0, metavar="S", help="Print the text that training step S sees.", rich_help_panel=STEP),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="The run: its folder, its config.yaml, or the YAML that `train --config` takes.",
            show_default="PATH, if that is a run",
            rich_help_panel=STEP,
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Look into a prepared set.

    Without options: where its text is from, how it became tokens, how much there is, how long its documents are.

    --document prints one document, exactly as it was, and nothing else. --step prints every window of tokens that a
    training step sees, of all ranks, in the order of the batch: for the day that the loss spikes at step S. The text
    of a window begins and ends anywhere, so bytes at its edges may be half a character and print as U+FFFD;
    `<|endoftext|>` is spelt out.

        nano-gpt inspect runs/NAME --step 1234
    """
    if verify + (document is not None) + (step is not None) > 1:
        context.fail("--verify, --document and --step: one at a time")
    if config is None and path is not None and Path(path, "config.yaml").is_file():
        config = Path(path)
        path = None
    if step is not None and config is None:
        context.fail("--step of which run? --config runs/NAME, or a YAML with its settings")
    if step is not None:
        assert config is not None
        _show_step(config, path, dataset_dir, step, as_json=json_)
        return
    if path is None and config is None:
        if verify or document is not None:
            context.fail("which set? nano-gpt inspect dataset_cache/NAME")
        _show_list(_folder(dataset_dir), as_json=json_)
        return
    prepared = _find(path, config, dataset_dir)
    if verify:
        _verify(prepared, as_json=json_)
    elif document is not None:
        _show_document(prepared, split, document, as_json=json_)
    else:
        _show_set(prepared, as_json=json_)


def _folder(dataset_dir: Path | None) -> Path:
    return dataset_dir or DataConfig().dataset_dir


def _find(path: str | None, config: Path | None, dataset_dir: Path | None) -> PreparedSet:
    from nano_gpt.data.inspection import find_set

    if path is not None:
        return find_set(path, _folder(dataset_dir))
    from nano_gpt.training.replay import open_replay

    assert config is not None
    return open_replay(config, dataset_dir=dataset_dir).prepared


def _show_list(folder: Path, *, as_json: bool) -> None:
    from nano_gpt.data.description import list_as_json, list_as_text
    from nano_gpt.data.inspection import list_sets

    entries = list_sets(folder)
    if as_json:
        _echo_json(list_as_json(entries))
    elif entries:
        typer.echo(f"{folder}\n{list_as_text(entries)}")
    else:
        typer.echo(f"{folder} holds no prepared set; nano-gpt prepare_dataset makes one")


def _show_set(prepared: PreparedSet, *, as_json: bool) -> None:
    from nano_gpt.data.description import as_json as describe
    from nano_gpt.data.description import as_text

    if as_json:
        _echo_json(describe(prepared))
    else:
        typer.echo(as_text(prepared, plain=not _prints("█")))


def _verify(prepared: PreparedSet, *, as_json: bool) -> None:
    from nano_gpt.data.inspection import verify

    verify(prepared)
    files = len(prepared.manifest.shards)
    if as_json:
        _echo_json({"folder": str(prepared.folder), "ok": True, "shards": files, "bytes": prepared.bytes})
    else:
        shards = f"{files:,} shard{'' if files == 1 else 's'}"
        typer.echo(f"OK: {prepared.folder}, {shards}, {prepared.bytes / 1e6:,.1f} MB are as they were written")


def _show_document(prepared: PreparedSet, split: str, number: int, *, as_json: bool) -> None:
    from nano_gpt.data.inspection import find_document, text_of

    span = find_document(prepared, split, number)
    if as_json:
        ids = prepared.reader(split).read(span.start, span.stop).tolist()
        text = b"".join(text_of(prepared, split, span)).decode("utf-8", errors="replace")
        where = {"folder": str(prepared.folder), "split": split, "document": number, "start": span.start}
        _echo_json({**where, "tokens": len(ids), "ids": ids, "text": text})
        return
    logger.info(
        f"{prepared.folder}, {split} document {number:,}: {span.stop - span.start:,} tokens from {span.start:,} on"
    )
    for block in text_of(prepared, split, span):
        typer.echo(block, nl=False)


def _show_step(config: Path, path: str | None, dataset_dir: Path | None, step: int, *, as_json: bool) -> None:
    from nano_gpt.data.inspection import find_set
    from nano_gpt.training.replay import open_replay

    there = find_set(path, _folder(dataset_dir)) if path is not None else None
    replay = open_replay(config, there, dataset_dir=dataset_dir)
    tokenizer, length = replay.prepared.tokenizer(), replay.config.model.n_positions
    rows = replay.config.windows_per_step
    windows = replay.windows(step)
    if as_json:
        shown = [
            {
                "row": window.row,
                "window": window.number,
                "epoch": window.epoch,
                "start": window.start,
                "ids": window.ids.tolist(),
                "last_target": int(window.targets[-1]),
                "text": tokenizer.decode(window.ids),
            }
            for window in windows
        ]
        where = {"folder": str(replay.prepared.folder), "config": str(config), "step": step}
        _echo_json({**where, "sequence_length": length, "windows": shown})
        return
    for window in windows:
        if window.row == 0:
            logger.info(
                f"step {step:,} of {config}: {rows:,} windows of {length:,} tokens from {replay.prepared.folder}"
            )
        stop = window.start + len(window.ids)
        title = f"row {window.row} of {rows} · window {window.number} · tokens {window.start}-{stop - 1}"
        short = "" if len(window.ids) == length else f" · short: {len(window.ids)} tokens"
        typer.echo(_ruled(f"{title} · epoch {window.epoch}{short}"))
        typer.echo(tokenizer.decode(window.ids).encode())  # bytes: the text may have characters that stdout has not


def _ruled(title: str) -> str:
    if not _prints("─·"):
        title = title.replace(" · ", ", ")
        return f"-- {title} ".ljust(RULE, "-")
    return f"── {title} ".ljust(RULE, "─")


def _prints(characters: str) -> bool:
    """Whether stdout can show them."""
    try:
        characters.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _echo_json(value: Any) -> None:
    typer.echo(json.dumps(value, allow_nan=False))
