"""Flags that are settings: each is declared in one line, with the path of the setting that it stands for."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import typer


@dataclass(frozen=True)
class Flag:
    """A flag of a command, not given by default."""

    path: str
    """The setting, such as training.optimizer.learning_rate."""
    name: str
    """The flag's own, without dashes."""
    annotation: Any

    def parameter(self) -> inspect.Parameter:
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=self.annotation)


def flag(path: str, kind: Any, panel: str, help_: str, *spelt: str, name: str | None = None, **option: Any) -> Flag:
    """`--NAME`, by default the last part of `path`, with a value of `kind`; `spelt` and `option` go to typer.Option."""
    name = name or path.rpartition(".")[2]
    return Flag(path, name, Annotated[kind | None, typer.Option(*spelt, help=help_, rich_help_panel=panel, **option)])


def with_flags(flags: Iterable[Flag]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these flags besides its own parameters. It gets those that were given as `flags`, by path."""
    declared = tuple(flags)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [parameter for parameter in signature.parameters.values() if parameter.name != "flags"]

        @functools.wraps(command)
        def with_settings(**given: Any) -> None:
            values = {each.path: given.pop(each.name) for each in declared}
            command(**given, flags={path: value for path, value in values.items() if value not in (None, [])})

        parameters = [*own, *(each.parameter() for each in declared)]
        with_settings.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return with_settings

    return decorate
