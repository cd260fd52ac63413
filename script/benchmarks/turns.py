"""Processes that do a piece of work when they are told to, so that several ways can take turns on one machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent

# What `nano-gpt` sets for itself on a quiet machine (runtime/threads.py); peers get what they have without it.
COMMAND_LINE = {"GOMP_SPINCOUNT": "30000"}


class WayFailed(Exception):  # noqa: N818 - it names the event, as subprocess does
    """A process that works has ended."""


class Way:
    """A process that answers each line on its standard input by a line of JSON."""

    def __init__(self, name: str, program: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / program), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            text=True,
        )

    def ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WayFailed(f"{self.name} ended with {self._process.wait()}; its last words are above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # the end of its input is the end of it


def in_turn(ways: Sequence[Way], number: int) -> Sequence[Way]:
    """Every way once, beginning with another one in each round."""
    first = number % len(ways)
    return (*ways[first:], *ways[:first])


def answer(commands: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """The other side: a line like `steps 3` calls `commands["steps"](3)`."""
    for line in sys.stdin:
        name, *numbers = line.split()
        print(json.dumps(commands[name](*map(int, numbers))), flush=True)
