"""`nano-gpt sample --interactive` and `--chat`: in this process with lines that are typed for it, and on a terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from nano_gpt.cli.main import run
from nano_gpt.inference.writing import Completion, Prompt, Writer

Capture = pytest.CaptureFixture[str]
Typed = Callable[..., tuple[str, str]]


@pytest.fixture
def typed(folder: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Typed:
    """What the program writes to stdout and stderr when these lines are typed, then Ctrl-D."""

    def session(*lines: str | BaseException, flags: tuple[str, ...] = ("-i",)) -> tuple[str, str]:
        left = iter(lines)

        def read(prompt: str) -> str:
            line = next(left, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr("builtins.input", read)
        assert run(["sample", "--pretrained", folder, "--max-new-tokens=6", *flags]) == 0
        captured = capsys.readouterr()
        return captured.out, captured.err

    return session


def test_lines_are_continued_and_an_empty_one_goes_on(typed: Typed) -> None:
    out, err = typed("ab", "", "/reset", "", "cd")
    assert re.fullmatch(r"ab[a-z]{6}\n[a-z]{6}\n[a-z]{6}\ncd[a-z]{6}\n", out) and err == ""
    first, goes_on, _, last = out.splitlines()
    again, _ = typed("/seed 43", first, "/seed 45", "cd")
    assert again.splitlines() == [first + goes_on, last]  # each answer takes the next seed


@pytest.mark.parametrize("flags", [("-i",), ("--chat", "--system=S")])
def test_what_was_shown_of_a_stopped_answer_counts(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    real, read = Writer.write, []

    def interrupted(self: Writer, prompts: list[Prompt], *args: Any) -> Iterator[list[Completion]]:
        read.append(self.tokenizer.decode(prompts[0].ids))
        yield from islice(real(self, prompts, *args), 4 if len(read) == 1 else None)
        if len(read) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Writer, "write", interrupted)
    out, _ = typed("ab", "cd" if flags[0] == "--chat" else "", flags=flags)
    shown = out.splitlines()[0].removeprefix("Assistant: ")
    assert read[1] == (shown if flags == ("-i",) else f"{read[0]} {shown}\n\nUser: cd\n\nAssistant:")
    assert len(shown.removeprefix("ab")) == 3 and len(out.splitlines()) == 2


def test_settings(typed: Typed) -> None:
    out, err = typed(
        "/set temperature 0", "/set top-k 0", "/set max_new_tokens 3", "/set stop '\\n' \"x y\"", "/set", "a"
    )
    assert err == ""
    assert {"temperature 0.0", "top_k 0", "max_new_tokens 3", "stop '\\n' 'x y'", "seed 42"} <= set(out.splitlines())
    assert re.fullmatch(r"a[a-z]{3}", out.splitlines()[-1])
    shown = [line for line in out.splitlines() if " " in line]
    assert typed(*(f"/set {line}" for line in shown), "/set")[0].splitlines() == shown  # as shown, so typed
    assert typed('/set stop "a"', '/set stop ""', "/set stop")[0] == 'stop ""\n'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/set temprature 1", "no setting temprature\n  hint: did you mean temperature?"),
        ("/set prompt x", "no setting prompt"),
        ("/set temperature hot", "temperature = 'hot'"),
        ("/set temperature -1", "temperature = '-1'"),
        ("/set top_p nan", "top_p = 'nan'"),
        ("/set max_new_tokens 0", "max_new_tokens = '0'"),
        ("/set stop 'x", "a quote is not closed"),
        ("/seed x", "seed = 'x'"),
        ("/frobnicate", "there is no /frobnicate"),
        ("/", "there is no /"),
        ("x" * 65, "65 tokens and the model's context is 64"),
    ],
)
def test_a_fault_is_told_and_the_program_goes_on(typed: Typed, line: str, message: str) -> None:
    out, err = typed(line, "/set seed", "a")
    assert err.startswith("error: ") and message in err and "Traceback" not in err
    assert re.fullmatch(r"seed 42\na[a-z]{6}\n", out)


def test_help_quit_and_lines_that_are_no_text(typed: Typed) -> None:
    out, _ = typed("/help", "/quit", "a")
    assert "/set" in out and "\na" not in out.replace("\nan", "")
    out, err = typed(KeyboardInterrupt(), UnicodeDecodeError("utf-8", b"ab\xff", 2, 3, "bad"), "a")
    assert re.fullmatch(r"\na[a-z]{6}\n", out) and "this line is not UTF-8: byte 2" in err


def test_a_text_that_outgrows_the_context(typed: Typed) -> None:
    out, err = typed("/set max_new_tokens 50", "x" * 30, "y" * 30, "")
    assert err.count("past the context of 64 tokens") == 1 and "too long" not in err
    assert re.fullmatch(r"x{30}[a-z]{50}\ny{30}[a-z]{50}\n[a-z]{50}\n", out)
    _, err = typed("x" * 70, flags=("-i", "--truncate=left"))
    assert "a prompt of 70 tokens is too long: the last 58 are read" in err


def test_chat(typed: Typed) -> None:
    """24 tokens of question, 6 of answer: the second turn fills the context of 64, the third makes it forget."""
    out, err = typed("hi", "", "so", flags=("--chat", "--system=S"))
    assert re.fullmatch(r"Assistant: [a-z]{6}\nAssistant: [a-z]{6}\n", out)
    assert "the context is full: the oldest turn is forgotten" in err
    letter = out[len("Assistant: ") + 2]
    assert typed(f"/set stop {letter}", "hi", flags=("--chat", "--system=S"))[0] == out[: len("Assistant: ") + 2] + "\n"


class Terminal:
    """nano-gpt on a terminal of its own."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        main_end, other_end = os.openpty()
        start = (  # a process gets a controlling terminal, for which Ctrl-C is a signal, by its own doing only
            "import fcntl, os, sys, termios\n"
            "terminal = os.open(sys.argv[1], os.O_RDWR)\n"
            "fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)\n"
            "for number in range(3): os.dup2(terminal, number)\n"
            "os.execv(sys.executable, [sys.executable, '-m', 'nano_gpt', *sys.argv[2:]])"
        )
        command = [sys.executable, "-c", start, os.ttyname(other_end), *arguments]
        self.process = subprocess.Popen(command, start_new_session=True, env={**os.environ, **environment})
        os.set_blocking(main_end, False)
        self._end, self._other_end = main_end, other_end  # of which one must be open until the program has it
        self._output = ""

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def wait_for(self, pattern: str) -> str:
        """What came up to here, from the last time on."""
        deadline = time.monotonic() + 60
        while not (found := re.search(pattern, self._output, flags=re.DOTALL)):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self._output!r}"
            try:
                self._output += os.read(self._end, 65536).decode(errors="replace")
            except BlockingIOError:
                time.sleep(0.02)
        before, self._output = self._output[: found.end()], self._output[found.end() :]
        return before

    def close(self) -> int:
        code = self.process.wait(timeout=30)
        os.close(self._end)
        os.close(self._other_end)
        return code


def test_on_a_terminal(folder: str, tmp_path: Path) -> None:
    """Streamed answers, Ctrl-C in the middle of one, earlier lines by arrow up, Ctrl-D."""
    pytest.importorskip("termios")
    pytest.importorskip("readline")
    environment = {"XDG_STATE_HOME": str(tmp_path / "state"), "TERM": "dumb", "PYTHONIOENCODING": "utf-8"}
    terminal = Terminal(["sample", "--pretrained", folder, "-i", "--max-new-tokens=5"], environment)
    try:
        terminal.wait_for("Ctrl-D leaves\r\n> ")
        terminal.type("ab\n")
        terminal.wait_for(r"\r\nab[a-z]{5}\r\n> ")
        terminal.type("/set max_new_tokens 1000000\n")
        terminal.wait_for("> ")
        terminal.type("begin\n")
        terminal.wait_for(r"\r\nbegin[a-z]{100}")
        terminal.type("\x03")
        terminal.wait_for(r"\r\n> $")
        assert terminal.process.poll() is None
        terminal.type("/set max_new_tokens 4\n")
        terminal.wait_for("> ")
        terminal.type("half a line")
        terminal.wait_for("half a line")
        terminal.type("\x03")
        terminal.wait_for(r"\r\n> $")
        terminal.type("\x1b[A\x1b[A\x1b[A\x1b[A\n")  # four lines back
        terminal.wait_for(r"ab\r\nab[a-z]{4}\r\n> $")
        terminal.type("\x04")
        terminal.wait_for(r"\r\n")
        assert terminal.close() == 0
    finally:
        terminal.process.kill()
    history = tmp_path / "state" / "nano-gpt" / "history"
    assert history.read_text().splitlines()[-5:-1] == [
        "ab",
        "/set max_new_tokens 1000000",
        "begin",
        "/set max_new_tokens 4",
    ]
    assert history.stat().st_mode & 0o777 == 0o600
