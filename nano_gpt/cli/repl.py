"""`nano-gpt sample --interactive` and `--chat`: a line in, an answer out, until Ctrl-D."""

from __future__ import annotations

import difflib
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from nano_gpt.cli.terminal import show, tell_cut, tell_sliding, unescaped, write
from nano_gpt.config.inference import SamplingConfig
from nano_gpt.config.loading import build
from nano_gpt.errors import ConfigError, NanoGPTError
from nano_gpt.runtime.logs import logger

if TYPE_CHECKING:
    from nano_gpt.inference.chat import Conversation
    from nano_gpt.inference.writing import Completion, Prompt, Writer

HISTORY_LINES = 1000
HELP = """\
TEXT          what the model is to {verb}; an empty line {empty}
/set          show the settings; /set NAME shows one, /set NAME VALUE changes it
/seed N       the seed of the next answer; each answer moves it on by one
/reset        forget {past}
/help         this
/quit         leave, as Ctrl-D does; Ctrl-C stops an answer
"""


class ReplSettings(SamplingConfig):
    """What `/set` changes."""

    num_sequences: int = Field(default=1, ge=1, le=1)
    max_new_tokens: int = Field(default=100, ge=1, le=1_000_000)
    """Tokens of an answer."""


NAMES = tuple(name for name in ReplSettings.model_fields if name not in ("prompt", "max_length", "num_sequences"))


class Repl:
    """`conversation` None: every line is a text of its own. `truncate` as in `Writer.fit`."""

    def __init__(
        self,
        writer: Writer,
        settings: ReplSettings,
        conversation: Conversation | None = None,
        *,
        truncate: bool = False,
    ) -> None:
        self._writer = writer
        self._settings = settings
        self._conversation = conversation
        self._truncate = truncate
        self._text = ""
        """What an empty line continues."""
        self._has_told_sliding = False

    def run(self) -> None:
        """Until Ctrl-D or /quit. A fault in a line is told in a line."""
        terminal = sys.stdin.isatty()
        prompt = ("> " if self._conversation is None else "User: ") if terminal else ""
        with _line_history(terminal and sys.stdout.isatty()):
            while True:
                try:
                    line = input(prompt)
                    if line.strip() in ("/quit", "/exit"):
                        return
                    self._take(line)
                except KeyboardInterrupt:
                    write("\n")
                except EOFError:
                    write("\n" if terminal else "")
                    return
                except UnicodeDecodeError as error:
                    logger.error(f"error: this line is not UTF-8: byte {error.start}")
                except NanoGPTError as error:
                    logger.error(f"error: {error}")

    def _take(self, line: str) -> None:
        if line.startswith("/"):
            self._obey(*line.split(maxsplit=1))
        elif self._conversation is None:
            self._continue(line)
        elif line.strip():
            self._answer(self._conversation, line.strip())

    def _obey(self, command: str, rest: str = "") -> None:
        if command == "/help":
            chat = self._conversation is not None
            words = ("answer", "does nothing", "the conversation") if chat else ("continue", "goes on", "the last text")
            write(HELP.format(**dict(zip(("verb", "empty", "past"), words, strict=True))))
        elif command == "/set":
            self._set(*rest.split(maxsplit=1))
        elif command == "/seed":
            self._set("seed", rest or None)
        elif command == "/reset":
            self._text = ""
            if self._conversation is not None:
                self._conversation.turns.clear()
        else:
            raise ConfigError(f"there is no {command}", "/help shows what there is; no text begins with /")

    def _set(self, name: str | None = None, value: str | None = None) -> None:
        names = NAMES if name is None else (name.replace("-", "_"),)
        if names[0] not in NAMES:
            near = difflib.get_close_matches(names[0], NAMES, n=1)
            raise ConfigError(f"there is no setting {name}", f"did you mean {near[0]}?" if near else "/set shows all")
        if value is not None:
            changed = {names[0]: _parsed(names[0], value)}
            self._settings = build(ReplSettings, {**self._settings.model_dump(), **changed})
            return
        for each in names:
            write(f"{each} {_spelt(getattr(self._settings, each))}\n")

    def _continue(self, line: str) -> None:
        """The line, or the last text where it is empty."""
        settings = self._settings
        text, truncate = (line, self._truncate) if line else (self._text, True)
        prompt = self._writer.fit(text, settings, settings.max_new_tokens, truncate=truncate)
        if line:
            tell_cut([prompt])
        written = self._write(prompt, settings, "", lambda row: row.text if line else row.continuation)
        self._text = text + written.continuation

    def _answer(self, conversation: Conversation, question: str) -> None:
        from nano_gpt.inference.chat import STOPS

        settings = self._settings.model_copy(update={"stop": (*STOPS, *self._settings.stop)})
        prompt, dropped = conversation.ask(question, self._writer, settings, settings.max_new_tokens)
        if dropped:
            turns = "turn is" if dropped == 1 else f"{dropped} turns are"
            logger.info(f"the context is full: the oldest {turns} forgotten")
        written = self._write(prompt, settings, "Assistant: ", lambda row: row.continuation.lstrip())
        conversation.turns.append((question, written.continuation.strip()))

    def _write(
        self, prompt: Prompt, settings: ReplSettings, lead: str, text_of: Callable[[Completion], str]
    ) -> Completion:
        """Show an answer as it comes. Of one that Ctrl-C has stopped, what was shown counts."""
        if not self._has_told_sliding:
            self._has_told_sliding = tell_sliding(self._writer, [prompt])
        self._settings = self._settings.model_copy(update={"seed": self._settings.seed + 1})
        writing = self._writer.write([prompt], settings)
        rows = next(writing)  # they grow
        with suppress(KeyboardInterrupt):
            show(chain([rows], writing), live=True, lead=lead, text_of=text_of)
        return rows[0]


def _parsed(name: str, value: str) -> object:
    if name == "top_k" and value.lower() in ("0", "none", "null"):
        return None
    if name == "stop":
        try:
            return tuple(unescaped(stop) for stop in shlex.split(value) if stop)
        except ValueError:
            raise ConfigError(f"stop {value}: a quote is not closed") from None
    return value


def _spelt(value: object) -> str:
    """As `/set` takes it."""
    if isinstance(value, tuple):
        return " ".join(shlex.quote(stop.replace("\n", "\\n")) for stop in value) or '""'
    return "0" if value is None else str(value)


@contextmanager
def _line_history(terminal: bool) -> Iterator[None]:
    """On a terminal: editing of the line, and earlier lines, from earlier sessions too where they can be kept."""
    try:
        import readline
    except ImportError:  # Windows
        terminal = False
    if not terminal:
        yield
        return
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    file = Path(state).expanduser() / "nano-gpt" / "history"
    readline.set_history_length(HISTORY_LINES)
    with suppress(OSError):
        readline.read_history_file(file)
    try:
        yield
    finally:
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(file)
