"""The `nano-gpt` command: finds the subcommand, and turns every mistake into one line and an exit code.

Exit codes: 0 done, 1 something that the user can mend (or a bug), 2 misuse of flags, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import difflib
import errno
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer

from nano_gpt import __version__
from nano_gpt.cli.config import config
from nano_gpt.cli.eval import eval_
from nano_gpt.cli.export import export
from nano_gpt.cli.inspect import inspect
from nano_gpt.cli.plot import plot
from nano_gpt.cli.prepare_dataset import prepare_dataset
from nano_gpt.cli.sample import sample
from nano_gpt.cli.train import train
from nano_gpt.cli.train_tokenizer import train_tokenizer
from nano_gpt.cli.upload import upload
from nano_gpt.cli.verify_resume import verify_resume
from nano_gpt.errors import ConfigError, Interrupted, NanoGPTError
from nano_gpt.runtime import distributed, logs
from nano_gpt.runtime.threads import settle_waiting

SECONDS_FOR_RANK_0 = 10.0
"""More than ranks start apart. Where torchrun ends them, nobody waits that long."""
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]  # Typer exports this kind of it only

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
    "train_tokenizer": train_tokenizer,
    "inspect": inspect,
    "train": train,
    "sample": sample,
    "eval": eval_,
    "export": export,
    "upload": upload,
    "plot": plot,
    "verify_resume": verify_resume,
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
    settle_waiting()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost rank is told in one line, without stacks of c10d
    logs.set_up(main_rank=distributed.from_environment().is_main, debug=debug)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    if list(arguments) == ["--version"]:
        typer.echo(__version__)
        return 0
    rank = 0
    try:
        rank = distributed.from_environment().rank
        code = app(args=_optional_values(arguments), prog_name="nano-gpt", standalone_mode=False)
        if code == 130:  # Typer takes a Ctrl-C for itself, and says nothing
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except (KeyboardInterrupt, typer.Abort):
        _echo("interrupted", rank)
        return 130
    except Interrupted as stop:
        _echo(str(stop), rank)
        return stop.exit_code
    except Exception as error:
        _tell(error, rank, debug="--debug" in arguments)
        return 2 if isinstance(error, _USAGE_ERROR) else 1


def _echo(message: str, rank: int) -> None:
    """What happens to all ranks together is said by one."""
    if rank == 0:
        typer.echo(message, err=True)


def _tell(error: Exception, rank: int, *, debug: bool) -> None:
    """One line and a hint; of several ranks, rank 0 goes first with what it must find wrong too.

    torchrun ends all processes as soon as one has failed. So a rank that waits and is still here afterwards is alone
    with its error, and tells it; one whose error is its own does not wait, since rank 0 will fail of it at once.
    """
    if rank > 0 and (isinstance(error, (ConfigError, _USAGE_ERROR)) or getattr(error, "on_all_ranks", False)):
        with suppress(KeyboardInterrupt):
            time.sleep(SECONDS_FOR_RANK_0)
    if debug:
        traceback.print_exception(error)
    where = f"rank {rank}: " if rank > 0 else ""
    typer.echo(f"{where}error: {_message(error)}", err=True)


def _message(error: Exception) -> str:
    """A file that cannot be read or written says so itself; what nobody foresaw is a bug, and `--debug` shows where."""
    if isinstance(error, NanoGPTError):
        return str(error)
    if isinstance(error, _USAGE_ERROR):
        return _misuse(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):  # write() knows no file name
        return f"the disk is full: {error.strerror}\n  hint: make room, or write to another disk"
    first_line = (str(error).strip().splitlines() or ["no message"])[0]
    return f"{type(error).__name__}: {first_line}\n  hint: this is a bug; nano-gpt --debug ... shows where it happened"


def _misuse(error: Any) -> str:
    """Typer's error without its box: what is wrong, and the nearest option or else where to look."""
    command = error.ctx.command_path if error.ctx else "nano-gpt"
    option = getattr(error, "option_name", None)
    near = option and difflib.get_close_matches(option, error.possibilities or [], n=1, cutoff=0.0)
    if near:
        return f"{error.message}\n  hint: did you mean {near[0]}?"
    return f"{error.format_message().rstrip('.')}\n  hint: {command} --help"


def _optional_values(arguments: Sequence[str]) -> list[str]:
    """`--resume` may stand alone or name a checkpoint; Typer knows flags or options, so alone it becomes `=auto`."""
    spelt = list(arguments)
    for index, argument in enumerate(spelt):
        following = spelt[index + 1] if index + 1 < len(spelt) else "-"
        if argument == "--resume" and following.startswith("-"):
            spelt[index] = "--resume=auto"
    return spelt


def main() -> None:
    code = run(sys.argv[1:])
    if distributed.from_environment().world_size > 1 or (code and threading.active_count() > 1):
        # All is written and closed. A thread of gloo's that is still there while Python takes itself apart can abort
        # the process ("terminate called without an active exception"), and torchrun then calls a whole run failed.
        # So can a thread that was left at its work by Ctrl-C or an error (tokenizer/training.py).
        logging.shutdown()
        with suppress(OSError):  # a reader that has gone
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
