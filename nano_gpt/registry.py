"""Names that users type, looked up with a suggestion when they are misspelt, loaded when first used.

A registry maps a name to `"package.module:attribute"`, so that listing the names (for `--help`, for an
error) imports nothing.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from nano_gpt.errors import ConfigError


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that is not in `known`, with the nearest one or else the whole list."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
    return ConfigError(f"unknown {kind} {name!r}", hint)


class Registry:
    """`kind` is what its names are called in errors: "dataset", "preset", ..."""

    def __init__(self, kind: str, targets: Mapping[str, str]) -> None:
        self.kind = kind
        self._targets = dict(targets)

    def names(self) -> tuple[str, ...]:
        return tuple(self._targets)

    def __contains__(self, name: str) -> bool:
        return name in self._targets

    def load(self, name: str) -> Any:
        """Import and return what `name` stands for. Raises ConfigError with a suggestion."""
        if name not in self._targets:
            raise unknown_name(self.kind, name, self._targets)
        module, attribute = self._targets[name].split(":")
        return getattr(importlib.import_module(module), attribute)
