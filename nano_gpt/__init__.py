"""nano-gpt: the whole life of a GPT-2, as one command and as a library.

    from nano_gpt import GPT, GPTConfig, generate, load_model, train

The names below load on first use, so that `import nano_gpt` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nano_gpt.checkpoint.source import load_model as load_model
    from nano_gpt.config import GPTConfig as GPTConfig
    from nano_gpt.config import RunConfig as RunConfig
    from nano_gpt.config import resolve as resolve
    from nano_gpt.inference.text import generate as generate
    from nano_gpt.model.gpt import GPT as GPT
    from nano_gpt.training.setup import train as train

_LAZY = {
    "GPT": "nano_gpt.model.gpt",
    "GPTConfig": "nano_gpt.config",
    "RunConfig": "nano_gpt.config",
    "resolve": "nano_gpt.config",
    "load_model": "nano_gpt.checkpoint.source",
    "generate": "nano_gpt.inference.text",
    "train": "nano_gpt.training.setup",
}

__all__ = ["GPT", "GPTConfig", "RunConfig", "__version__", "generate", "load_model", "resolve", "train"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'nano_gpt' has no attribute {name!r}")
