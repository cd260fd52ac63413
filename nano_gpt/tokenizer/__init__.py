"""Text <-> ids: GPT-2's BPE, bytes, characters, and BPE trained on a corpus.

The names below load on first use, so that importing this package imports neither numpy nor tiktoken.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nano_gpt.tokenizer.base import Tokenizer as Tokenizer
    from nano_gpt.tokenizer.loading import load_tokenizer as load_tokenizer
    from nano_gpt.tokenizer.training import needs_corpus as needs_corpus
    from nano_gpt.tokenizer.training import train_tokenizer as train_tokenizer

_LAZY = {
    "Tokenizer": "nano_gpt.tokenizer.base",
    "load_tokenizer": "nano_gpt.tokenizer.loading",
    "needs_corpus": "nano_gpt.tokenizer.training",
    "train_tokenizer": "nano_gpt.tokenizer.training",
}

__all__ = ["Tokenizer", "load_tokenizer", "needs_corpus", "train_tokenizer"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'nano_gpt.tokenizer' has no attribute {name!r}")
