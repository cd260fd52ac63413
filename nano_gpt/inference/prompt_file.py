"""Many prompts from a file, and as many lines of JSON out, in the same order.

A line of output is the line of input that it answers, with what was written, by which model and with which settings. So
a second call can see what is already there, go on behind it, and refuse to mix what does not belong together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from nano_gpt.config.inference import SamplingConfig
from nano_gpt.errors import ConfigError, DataError
from nano_gpt.inference.writing import Completion, Prompt, Writer, in_order

_LINES_OF_JSON = (".jsonl", ".ndjson")
_WRITTEN = ("index", "text", "tokens", "logprobs", "finish_reason", "model", "sampling")


@dataclass(frozen=True)
class Task:
    """A line of the input."""

    where: str
    """For errors: the file and the line."""
    fields: dict[str, Any]
    """"prompt", and whatever else the line says."""

    @property
    def prompt(self) -> str:
        return str(self.fields["prompt"])


def read_tasks(path: Path) -> list[Task]:
    """The prompts of a .jsonl file, or the lines of any other; blank lines are left out.

    Raises DataError for a file that cannot be read, is empty, or has a line that is no object with a "prompt".
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: byte {error.start}") from None
    read = _task if path.suffix in _LINES_OF_JSON else _plain_task
    tasks = [read(f"{path} line {number}", line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not tasks:
        raise DataError(f"{path} holds no prompts", 'a prompt per line, or .jsonl: {"prompt": "Once", "id": 1}')
    return tasks


def _plain_task(where: str, line: str) -> Task:
    return Task(where, {"prompt": line.removesuffix("\r")})


def _task(where: str, line: str) -> Task:
    try:
        fields = json.loads(line)
        json.dumps(fields, allow_nan=False)  # Python reads NaN, which is no JSON
    except (ValueError, RecursionError):
        raise DataError(f"{where} is not JSON: {line[:60]!r}") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("prompt"), str):
        raise DataError(f'{where} is no object with a text as "prompt": {line[:60]!r}')
    if taken := [name for name in _WRITTEN if name in fields]:
        raise DataError(f'{where} has a field "{taken[0]}", which the output has too', "rename it")
    return Task(where, fields)


@dataclass(frozen=True)
class Job:
    """All that decides the lines of output, of which each task has `config.num_sequences`."""

    tasks: Sequence[Task]
    config: SamplingConfig
    origin: dict[str, Any]
    """"model" and "sampling", as every line says them."""

    def __len__(self) -> int:
        return len(self.tasks) * self.config.num_sequences

    def line(self, number: int, completion: Completion | None = None) -> dict[str, Any]:
        """A line, or what is known of it before it is written."""
        task, index = divmod(number, self.config.num_sequences)
        new = {} if completion is None else written(completion)
        return {**self.tasks[task].fields, "index": index, **new, **self.origin}

    def lines(self, writer: Writer, prompts: Sequence[Prompt], *, done: int, batch_size: int) -> Iterator[str]:
        """The lines from number `done` on, each as soon as it and those before it are written.

        `prompts` are those of `tasks`; about `batch_size` sequences are written side by side, on which no text depends.
        """
        copies = self.config.num_sequences
        some = max(1, batch_size // copies)
        first = done // copies
        batches = (prompts[start : start + some] for start in range(first, len(prompts), some))
        writing = (in_order(writer.write(batch, self.config, logprobs=True)) for batch in batches)
        for number, completion in enumerate(chain.from_iterable(writing), start=first * copies):
            if number >= done:
                yield json.dumps(self.line(number, completion), allow_nan=False)

    def count_done(self, output: Path) -> int:
        """How many lines of this job `output` has; a last one that was cut short is cut off.

        Raises ConfigError if it holds anything else: another prompt, other settings, another model.
        """
        if not output.exists():
            return 0
        *lines, rest = output.read_bytes().split(b"\n")
        for number, line in enumerate(lines):
            difference = _difference(line, self.line(number)) if number < len(self) else "is one too many"
            if difference is not None:
                raise ConfigError(
                    f"{output} is of another job: line {number + 1} {difference}",
                    "--overwrite starts it anew, or name another --output",
                )
        if rest:
            os.truncate(output, output.stat().st_size - len(rest))
        return len(lines)


def written(completion: Completion) -> dict[str, Any]:
    """A sequence as JSON has it; with the prompt, that is all of it."""
    logprobs = completion.logprobs
    return {
        "text": completion.text,
        "tokens": completion.tokens,
        "logprobs": None if logprobs is None else [round(logprob, 6) for logprob in logprobs],
        "finish_reason": completion.finish_reason,
    }


def _difference(line: bytes, expected: dict[str, Any]) -> str | None:
    try:
        found = _flat(json.loads(line))
    except (ValueError, TypeError, LookupError, AttributeError):
        return "is something else"
    expected = _flat(json.loads(json.dumps(expected)))
    name = next((name for name, value in expected.items() if found.get(name) != value), None)
    return None if name is None else f"has {name} {_short(found.get(name))}, which now is {_short(expected[name])}"


def _flat(line: dict[str, Any]) -> dict[str, Any]:
    """With every setting by its path."""
    settings = {f"sampling.{name}": value for name, value in line["sampling"].items()}
    return {**{name: value for name, value in line.items() if name != "sampling"}, **settings}


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
