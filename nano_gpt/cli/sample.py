"""`nano-gpt sample`: text from any model that can be named."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from nano_gpt.cli.options import (
    AdapterFolder,
    Checkpoint,
    Compile,
    Device,
    Json,
    ModelTokenizer,
    Precision,
    Preset,
    Pretrained,
    SequenceLength,
    tell_not_compiled,
)
from nano_gpt.cli.sampling import Session, talk, tell, tell_next, work_off
from nano_gpt.cli.settings import flag, with_flags
from nano_gpt.cli.terminal import unescaped
from nano_gpt.config.inference import SamplingConfig
from nano_gpt.config.loading import build
from nano_gpt.errors import ConfigError

LENGTH, DRAWING, MODE, MANY = "How much text", "How tokens are drawn", "What is done", "Many prompts"
MOST = 1_000_000  # tokens of a sequence
SETTINGS = (
    flag(
        "num_sequences",
        int,
        LENGTH,
        "Continuations of each prompt.",
        "--num-sequences",
        "--sample-num-sequences",
        min=1,
        show_default="5",
    ),
    flag(
        "max_length",
        int,
        LENGTH,
        "Tokens of a sequence, the prompt included.",
        "--max-length",
        "--sample-max-length",
        min=1,
        max=MOST,
        show_default="30",
    ),
    flag("max_new_tokens", int, LENGTH, "Tokens after the prompt, instead of --max-length.", min=1, max=MOST),
    flag("stop", list[str], LENGTH, "End before this text; \\n in it is a line end. Repeatable.", metavar="TEXT"),
    flag("temperature", float, DRAWING, "0: always the likeliest token.", min=0.0, show_default="1.0"),
    flag("top_k", int, DRAWING, "Draw from the k likeliest tokens. 0: from all.", min=0, show_default="50"),
    flag(
        "top_p",
        float,
        DRAWING,
        "Draw from the smallest set of tokens with this probability.",
        min=0.0,
        max=1.0,
        show_default="1.0",
    ),
    flag(
        "min_p",
        float,
        DRAWING,
        "Draw from tokens with at least this share of the likeliest one's probability.",
        min=0.0,
        max=1.0,
        show_default="0.0",
    ),
    flag(
        "repetition_penalty",
        float,
        DRAWING,
        "Above 1: tokens that are there already become less likely.",
        min=0.0,
        show_default="1.0",
    ),
    flag(
        "seed",
        int,
        DRAWING,
        "Sequence i is a function of the model, the prompt, the seed and i.",
        "--seed",
        "--sample-seed",
        min=0,
        show_default="42",
    ),
)


@with_flags(SETTINGS)
def sample(
    flags: dict[str, Any],
    text: Annotated[
        list[str] | None,
        typer.Argument(help="Prompts, each in quotes; - reads one from stdin, '' starts from nothing.", metavar="TEXT"),
    ] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="A file that is a prompt, as a whole.")] = None,
    truncate: Annotated[
        Literal["left"] | None,
        typer.Option(help="left: of a prompt that is too long, read the end.", show_default="an error"),
    ] = None,
    pretrained: Pretrained = None,
    checkpoint: Checkpoint = None,
    tokenizer: ModelTokenizer = None,
    adapter: AdapterFolder = None,
    model: Preset = None,
    sequence_length: SequenceLength = None,
    compile_: Compile = None,
    device: Device = "auto",
    dtype: Annotated[
        Precision, typer.Option(help="Of the matrix products; auto is bf16 where that is faster.")
    ] = Precision.fp32,
    quantize: Annotated[
        Literal["int8"] | None, typer.Option(help="Weights of 8 bits: faster, a little less exact.")
    ] = None,
    interactive: Annotated[
        bool,
        typer.Option("--interactive", "-i", help="Type prompts one by one; /help tells more.", rich_help_panel=MODE),
    ] = False,
    chat: Annotated[
        bool, typer.Option("--chat", help="A conversation, as User: and Assistant: turns.", rich_help_panel=MODE)
    ] = False,
    system: Annotated[str | None, typer.Option(help="What stands before a --chat.", rich_help_panel=MODE)] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what could come next, and how likely it is.", rich_help_panel=MODE)
    ] = False,
    input_: Annotated[
        Path | None,
        typer.Option(
            "--input",
            help='Prompts: .jsonl with a "prompt" in every line, or a text file with one per line.',
            rich_help_panel=MANY,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="A line of JSON for each sequence, in order. One that is unfinished goes on.",
            show_default="stdout",
            rich_help_panel=MANY,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start an --output that is there anew.", rich_help_panel=MANY)
    ] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Sequences written side by side; no text depends on it.", rich_help_panel=MANY)
    ] = 32,
    json_output: Json = False,
) -> None:
    """Continue a text, in several ways.

    Without a model named, the newest run in runs/ speaks, or else GPT-2. What is not given is as the run's own samples
    were made (`sampling` in its config.yaml), or as the defaults below say. Text ends at `<|endoftext|>`, which in a
    prompt is text like any other; past the context the oldest tokens drop out and every token takes a full forward.

    On a terminal text appears as it is written, and control characters are shown instead of obeyed.
    """
    typed, many = interactive or chat, input_ is not None
    ways_to_prompt = [bool(text), prompt_file is not None, typed, many]
    _refuse(
        {
            "--max-length counts the prompt, --max-new-tokens does not: give one of them": (
                {"max_length", "max_new_tokens"} <= flags.keys()
            ),
            "prompts come in one way: as arguments, by --prompt-file, by --input, or typed": sum(ways_to_prompt) > 1,
            "--explain is neither for --interactive and --chat nor for --input": explain and (typed or many),
            "--json is neither for --interactive and --chat nor for --input, which gives lines of JSON": (
                json_output and (typed or many)
            ),
            "an answer is one sequence: --num-sequences is not for --interactive and --chat": (
                typed and "num_sequences" in flags
            ),
            "the length of an answer is --max-new-tokens: --max-length is not for --interactive and --chat": (
                typed and "max_length" in flags
            ),
            "--system is for --chat": system is not None and not chat,
            "--output is for --input": output is not None and not many,
            "--overwrite is for --output": overwrite and output is None,
            "--stop of an empty text ends everything": "" in flags.get("stop", ()),
        }
    )
    if "top_k" in flags:
        flags["top_k"] = flags["top_k"] or None
    if "stop" in flags:
        flags["stop"] = [unescaped(stop) for stop in flags["stop"]]
    max_new_tokens = flags.pop("max_new_tokens", None)
    build(SamplingConfig, flags)  # a fault in a flag is told before a model is loaded
    prompts = [_stdin() if prompt == "-" else prompt for prompt in text or ()]
    if prompt_file is not None:
        prompts = [_content(prompt_file)]
    tasks = None
    if input_ is not None:
        from nano_gpt.inference.prompt_file import read_tasks

        tasks = read_tasks(input_)

    from nano_gpt.checkpoint.source import load_model
    from nano_gpt.inference.text import own_sampling
    from nano_gpt.inference.writing import Writer
    from nano_gpt.model.packed import pack
    from nano_gpt.runtime.device import resolve_device, resolve_dtype

    tell_not_compiled(compile_)
    where = resolve_device(device)
    loaded = load_model(
        pretrained,
        checkpoint=checkpoint,
        preset=model,
        tokenizer=tokenizer,
        adapter=adapter,
        sequence_length=sequence_length,
        device=where,
    )
    own = own_sampling(loaded)
    session = Session(
        Writer(pack(loaded.model, resolve_dtype(dtype.value, where), quantize=quantize), loaded.tokenizer),
        build(SamplingConfig, {**own.model_dump(), **flags}),
        max_new_tokens,
        truncate is not None,
        loaded.origin,
    )
    if typed:
        talk(session, chat=chat, system=system)
    elif explain:
        tell_next(session, prompts or [own.prompt], as_json=json_output)
    elif tasks is not None:
        work_off(session, tasks, output, overwrite=overwrite, batch_size=batch_size)
    else:
        tell(session, prompts or [own.prompt], as_json=json_output)


def _refuse(faults: dict[str, bool]) -> None:
    """Flags that do not go together."""
    for fault, is_there in faults.items():
        if is_there:
            raise typer.BadParameter(fault)


def _stdin() -> str:
    """All of stdin as one prompt."""
    return _decoded(sys.stdin.buffer.read(), "the prompt on stdin")


def _content(path: Path) -> str:
    """All of a file as one prompt."""
    try:
        return _decoded(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def _decoded(content: bytes, source: str) -> str:
    """Without the line end that `echo` and editors add."""
    try:
        return content.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source} is not UTF-8: byte {error.start}") from None
