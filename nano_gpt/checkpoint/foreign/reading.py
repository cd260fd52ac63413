"""A peer's checkpoint, whichever it is: told by its first bytes, not by its name."""

from __future__ import annotations

from pathlib import Path

from nano_gpt.checkpoint.foreign.llmc import is_llmc, read_llmc
from nano_gpt.checkpoint.foreign.peer import build
from nano_gpt.checkpoint.foreign.pickled import PICKLE, ZIP, read_pickled
from nano_gpt.errors import CheckpointError
from nano_gpt.model.gpt import GPT
from nano_gpt.runtime.logs import logger


def is_foreign(path: Path) -> bool:
    """Whether `path` is a file of a kind that peers write, damaged or not."""
    start = _start(path) if path.is_file() else b""
    return start.startswith((ZIP, PICKLE)) or is_llmc(start)


def read_foreign(path: Path) -> GPT:
    """The model in fp32 on the CPU, in eval mode, and a line in the log that says what it is.

    Raises CheckpointError naming the file and what is wrong with it, before memory is taken for it.
    """
    try:
        peer = read_llmc(path) if is_llmc(_start(path)) else read_pickled(path)
        model = build(peer, path.stat().st_size)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {_shown(error.message)}", error.hint) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    logger.info(f"model: {path}, a checkpoint of {peer.trainer}" + (f" at {peer.progress}" if peer.progress else ""))
    return model


def _shown(message: str) -> str:
    """One line that a terminal does not obey: names and values in it are the file's."""
    line = "".join(character if character.isprintable() else "?" for character in message)
    return line if len(line) <= 300 else f"{line[:300]}..."


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
