"""`nano-gpt sample`: text from any model that can be named."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

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
    SequenceLength,
    tell_not_compiled,
)
from nano_gpt.config.inference import SamplingConfig
from nano_gpt.config.loading import build
from nano_gpt.errors import ConfigError

if TYPE_CHECKING:
    from nano_gpt.checkpoint.source import LoadedModel

DRAWING = "How tokens are drawn"
LENGTH = "How much text"


def sample(
    text: Annotated[
        list[str] | None,
        typer.Argument(help="Prompts, each in quotes; - reads one from stdin, '' starts from nothing.", metavar="TEXT"),
    ] = None,
    pretrained: Pretrained = None,
    checkpoint: Checkpoint = None,
    tokenizer: ModelTokenizer = None,
    adapter: AdapterFolder = None,
    model: Preset = None,
    sequence_length: SequenceLength = None,
    compile_: Compile = None,
    device: Device = "auto",
    num_sequences: Annotated[
        int | None,
        typer.Option(
            "--num-sequences",
            "--sample-num-sequences",
            min=1,
            help="Continuations of each prompt.",
            show_default="5",
            rich_help_panel=LENGTH,
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length",
            "--sample-max-length",
            min=1,
            max=1_000_000,
            help="Tokens of a sequence, the prompt included.",
            show_default="30",
            rich_help_panel=LENGTH,
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, max=1_000_000, help="Tokens after the prompt, instead of --max-length.", rich_help_panel=LENGTH
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0.0, help="0: always the likeliest token.", show_default="1.0", rich_help_panel=DRAWING),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            min=0, help="Draw from the k likeliest tokens. 0: from all.", show_default="50", rich_help_panel=DRAWING
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Draw from the smallest set of tokens with this probability.",
            show_default="1.0",
            rich_help_panel=DRAWING,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            "--sample-seed",
            min=0,
            help="Sequence i is a function of the model, the prompt, the seed and i.",
            show_default="42",
            rich_help_panel=DRAWING,
        ),
    ] = None,
    json_output: Json = False,
) -> None:
    """Continue a text, in several ways.

    Without a model named, the newest run in runs/ speaks, or else GPT-2. What is not given is as the run's own samples
    were made (`sampling` in its config.yaml), or as the defaults below say. Text ends at `<|endoftext|>`; past the
    context the oldest tokens drop out and every token takes a full forward.

    On a terminal a single sequence appears as it is written, and control characters are shown instead of obeyed.
    """
    if max_length is not None and max_new_tokens is not None:
        raise typer.BadParameter("--max-length counts the prompt, --max-new-tokens does not: give one of them")
    flags = {
        "num_sequences": num_sequences,
        "max_length": max_length,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
    }
    given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    if top_k is not None:
        given["top_k"] = top_k or None
    build(SamplingConfig, given)  # a fault in a flag is told before a model is loaded
    prompts = None if not text else [_from_stdin() if prompt == "-" else prompt for prompt in text]

    from nano_gpt.checkpoint.source import load_model
    from nano_gpt.inference.text import fit, own_sampling
    from nano_gpt.runtime.device import resolve_device

    tell_not_compiled(compile_)
    loaded = load_model(
        pretrained,
        checkpoint=checkpoint,
        preset=model,
        tokenizer=tokenizer,
        adapter=adapter,
        sequence_length=sequence_length,
        device=resolve_device(device),
    )
    own = own_sampling(loaded)
    configs = [
        build(SamplingConfig, {**own.model_dump(), **given, "prompt": prompt})
        for prompt in ([own.prompt] if prompts is None else prompts)
    ]
    for config in configs:  # a prompt that does not fit is told before any is continued
        fit(loaded.model, loaded.tokenizer, config, max_new_tokens)
    if json_output:
        _print_json(loaded, configs, max_new_tokens)
    else:
        _print_text(loaded, configs, max_new_tokens)


def _print_text(loaded: LoadedModel, configs: list[SamplingConfig], max_new_tokens: int | None) -> None:
    """`> …` for every sequence."""
    from nano_gpt.inference.text import complete, stream

    for config in configs:
        if sys.stdout.isatty() and config.num_sequences == 1:
            _write("> ")
            for piece in stream(loaded.model, loaded.tokenizer, config, max_new_tokens=max_new_tokens):
                _write(piece)
            _write("\n")
            continue
        for completion in complete(loaded.model, loaded.tokenizer, config, max_new_tokens=max_new_tokens):
            _write(f"> {completion.text}\n")


def _write(text: str) -> None:
    """To stdout and not by `echo`, which takes colour codes out of what goes to a file."""
    sys.stdout.write(printable(text, sys.stdout.isatty()))
    sys.stdout.flush()


def _print_json(loaded: LoadedModel, configs: list[SamplingConfig], max_new_tokens: int | None) -> None:
    """One object: the model, the settings, and every sequence with its ids."""
    from nano_gpt.inference.text import complete

    sequences = []
    started = time.perf_counter()
    for config in configs:
        for completion in complete(loaded.model, loaded.tokenizer, config, max_new_tokens=max_new_tokens):
            sequences.append(
                {
                    "prompt": completion.prompt,
                    "text": completion.text,
                    "tokens": completion.tokens,
                    "finish_reason": completion.finish_reason,
                }
            )
    seconds = time.perf_counter() - started
    settings = configs[0].model_dump(exclude={"prompt", "max_length"} if max_new_tokens else {"prompt"})
    if max_new_tokens:
        settings["max_new_tokens"] = max_new_tokens
    drawn = sum(len(sequence["tokens"]) for sequence in sequences)
    result = {
        "model": loaded.origin,
        "sampling": settings,
        "tokens_per_second": round(drawn / seconds, 1),
        "sequences": sequences,
    }
    typer.echo(json.dumps(result, allow_nan=False))


def printable(text: str, terminal: bool) -> str:
    r"""`text` as this stdout can take it: on a terminal ESC and its kin are spelt (`\x1b`), so that they do nothing."""
    if terminal:
        text = "".join(
            f"\\x{ord(c):02x}" if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 else c for c in text
        )
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, errors="replace").decode(encoding)


def _from_stdin() -> str:
    """All of stdin as one prompt, without the line end that `echo` adds."""
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"the prompt on stdin is not UTF-8: byte {error.start}") from None
