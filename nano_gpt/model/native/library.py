"""The C of this folder as one library, where it can be compiled."""

from __future__ import annotations

import ctypes
from pathlib import Path

from nano_gpt.runtime import compiled

_FOLDER = Path(__file__).parent  # once: a training step asks some hundred times


def library() -> ctypes.CDLL | None:
    return compiled.load(_FOLDER)
