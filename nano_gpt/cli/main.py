"""The `nano-gpt` command: finds the subcommand, and turns every mistake into one line and an exit code.

Exit codes: 0 done, 1 something that the user can mend (or a bug), 2 misuse of flags, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from nano_gpt import __version__
from nano_gpt.cli.config import config
from nano_gpt.cli.eval import eval_
from nano_gpt.cli.export import export
from nano_gpt.cli.plot import plot
from nano_gpt.cli.prepare_dataset import prepare_dataset
from nano_gpt.cli.sample import sample
from nano_gpt.cli.train import train
from nano_gpt.cli.upload import upload
from nano_gpt.errors import Interrupted, NanoGPTError
from nano_gpt.runtime import distributed, logs

app = typer.Typer(
    name="nano-gpt",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("_", "-"),  # --dataset_dir is --dataset-dir
    },
)

COMMANDS: dict[str, Callable[..., None]] = {
    "prepare_dataset": prepare_dataset,
    "train": train,
    "sample": sample,
    "eval": eval_,
    "export": export,
    "upload": upload,
    "plot": plot,
    "config": config,
}
for _name, _function in COMMANDS.items():
    app.command(_name)(_function)
    if "_" in _name:
        app.command(_name.replace("_", "-"), hidden=True)(_function)


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug messages.")] = False,
) -> None:
    """Prepare text, train a GPT-2 on it, sample, evaluate, export, share."""
    # Ranks and other programs share the cores. Where a core is taken away, threads that spin at every barrier of a
    # torch operation made a step 6 times slower than threads that sleep; on idle cores these cost 0 to 15%.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logs.set_up(main_rank=distributed.from_environment().is_main, debug=debug)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    if list(arguments) == ["--version"]:
        typer.echo(__version__)
        return 0
    try:
        app(args=_optional_values(arguments), prog_name="nano-gpt")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        return 130
    except Interrupted as stop:
        typer.echo(str(stop), err=True)
        return stop.exit_code
    except NanoGPTError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        typer.echo(f"error: {error}", err=True)
        return 1
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        typer.echo(f"error: {_unexpected(error)}", err=True)
        return 1
    return 0


def _unexpected(error: Exception) -> str:
    """A file that cannot be read or written says so itself; anything else is a bug, and `--debug` shows where."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    first_line = (str(error).strip().splitlines() or ["no message"])[0]
    return f"{type(error).__name__}: {first_line}\n  hint: this is a bug; nano-gpt --debug ... shows where it happened"


def _optional_values(arguments: Sequence[str]) -> list[str]:
    """`--resume` may stand alone or name a checkpoint; Typer knows flags or options, so alone it becomes `=auto`."""
    spelt = list(arguments)
    for index, argument in enumerate(spelt):
        following = spelt[index + 1] if index + 1 < len(spelt) else "-"
        if argument == "--resume" and following.startswith("-"):
            spelt[index] = "--resume=auto"
    return spelt


def main() -> None:
    sys.exit(run(sys.argv[1:]))
