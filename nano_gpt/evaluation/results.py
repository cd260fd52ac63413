"""What all results have in common: scores with their standard errors, a line, and the items that they are means of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Items = npt.NDArray[np.float64]
"""(items, 2): a value and its weight; the score is the sum of the values by the sum of the weights."""


class Result(Protocol):
    """Of one task."""

    @property
    def kind(self) -> str:
        """The task, as the line and JSON name it."""
        ...

    def fields(self) -> dict[str, Any]:
        """Scores, their standard errors and counts, for JSON."""
        ...

    def items(self) -> dict[str, Items]:
        """By score, for a comparison with another model's on the same items."""
        ...


def summary(result: Result) -> str:
    """`hellaswag: accuracy: 0.3560 | total: 2000 | correct: 712 | stderr: 0.0107 | acc: ...`"""
    return f"{result.kind}: {line(result.fields())}"


def line(fields: Mapping[str, Any]) -> str:
    """`loss: 1.8800 | tokens: 512 | stderr: -`"""
    return " | ".join(f"{name}: {show(value)}" for name, value in fields.items())


def show(value: float | str | None) -> str:
    """Counts and words as they are, scores with four digits, `-` for what is not known."""
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
