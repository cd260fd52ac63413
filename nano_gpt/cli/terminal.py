"""What `sample` shows: text of a model, which a terminal must not obey, as it comes or whole."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from nano_gpt.runtime.logs import logger

if TYPE_CHECKING:
    from nano_gpt.inference.writing import Completion, Prompt, Writer


def write(text: str) -> None:
    """To stdout and not by `echo`, which takes colour codes out of what goes to a file."""
    sys.stdout.write(printable(text, sys.stdout.isatty()))
    sys.stdout.flush()


def printable(text: str, terminal: bool) -> str:
    r"""`text` as this stdout can take it: on a terminal ESC and its kin are spelt (`\x1b`), so that they do nothing."""
    if terminal:
        text = "".join(
            f"\\x{ord(c):02x}" if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 else c for c in text
        )
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, errors="replace").decode(encoding)


def show(
    writing: Iterable[list[Completion]],
    *,
    live: bool,
    lead: str = "> ",
    text_of: Callable[[Completion], str] = lambda completion: completion.text,
) -> None:
    """Print sequences in order, each behind `lead`; the first that is not finished as it grows, if `live`."""
    place, shown = 0, -1  # -1: not even its lead
    try:
        for rows in writing:
            while place < len(rows) and (live or rows[place].finish_reason is not None):
                text = text_of(rows[place])
                new = text[shown:] if shown >= 0 else lead + text
                finished = rows[place].finish_reason is not None
                write(new + "\n" if finished else new)
                shown = len(text)
                if not finished:
                    break
                place, shown = place + 1, -1
    except KeyboardInterrupt:
        write("\n" if live else "")
        raise


def tell_sliding(writer: Writer, prompts: Iterable[Prompt]) -> bool:
    """Say it if the window is going to slide; whether it was said."""
    slides = writer.slides(prompts)
    if slides:
        logger.info(
            f"past the context of {writer.context} tokens the oldest drop out, and each new one takes as long as "
            "reading them all"
        )
    return slides


def tell_cut(prompts: Sequence[Prompt]) -> None:
    """Say which prompts were truncated."""
    cut = [prompt for prompt in prompts if prompt.cut]
    if len(cut) > 1:
        logger.info(f"{len(cut)} of {len(prompts)} prompts are too long: their ends are read")
    elif cut:
        length = len(cut[0].ids)
        logger.info(f"a prompt of {length + cut[0].cut} tokens is too long: the last {length} are read")


def unescaped(text: str) -> str:
    r"""`\n` in an argument is a line end."""
    return text.replace("\\n", "\n")
