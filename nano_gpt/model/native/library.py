"""The C of this folder as one library, where it can be compiled."""

from __future__ import annotations

import ctypes
from pathlib import Path

from nano_gpt.runtime import compiled


def library() -> ctypes.CDLL | None:
    return compiled.load(Path(__file__).parent)
