"""Names that users type, looked up with a suggestion when they are misspelt, and loaded when first used.

What a name stands for is written as `"package.module:attribute"`, so that listing the names (for `--help`, for an
error) imports nothing.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any

from nano_gpt.errors import ConfigError


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that is not in `known`, with the nearest one or else the whole list."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
    return ConfigError(f"unknown {kind} {name!r}", hint)


def load(target: str) -> Any:
    """Import and return what `"package.module:attribute"` names."""
    module, attribute = target.split(":")
    return getattr(importlib.import_module(module), attribute)
