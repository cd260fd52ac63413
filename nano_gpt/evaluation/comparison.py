"""Is one model better than another? Item by item, since both meet the same hard and easy ones.

The interval is a paired bootstrap (Koehn, Statistical Significance Tests for Machine Translation Evaluation, 2004):
items are drawn anew, with their scores under both models, and the difference of the two means is taken again, 10,000
times; 95% of the differences lie within it. It is far narrower than two standard errors side by side suggest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nano_gpt.evaluation.results import Items, Result, line
from nano_gpt.evaluation.validation import ValidationResult
from nano_gpt.runtime.logs import logger

RESAMPLES, SEED = 10_000, 1337
_DRAWS = 2**20  # items drawn at a time


@dataclass(frozen=True)
class Difference:
    """Of one score, that of the first model less that of the second."""

    score: str
    """`hellaswag accuracy`"""
    first: float
    second: float
    interval: tuple[float, float]
    """95% of the differences between resamples lie in it."""
    items: int
    only_first: int | None = None
    """Items that the first model alone gets right; None where a score is no matter of right and wrong."""
    only_second: int | None = None

    def fields(self) -> dict[str, Any]:
        """For JSON."""
        low, high = self.interval
        values = {"difference": self.first - self.second, "low": low, "high": high}
        return {**values, **self._context()}

    def summary(self) -> str:
        """`a - b: hellaswag acc: -0.0220 | 95%: -0.0380 to -0.0060 | a: 0.2500 | b: 0.2720 | items: 500 | ...`"""
        low, high = self.interval
        found = f"{self.first - self.second:+.4f} | 95%: {low:+.4f} to {high:+.4f}"
        return f"a - b: {self.score}: {found} | {line(self._context())}"

    def _context(self) -> dict[str, Any]:
        alone = {} if self.only_first is None else {"only_a": self.only_first, "only_b": self.only_second}
        return {"a": self.first, "b": self.second, "items": self.items, **alone}


def compare(first: Sequence[Result], second: Sequence[Result], *, same_tokenizer: bool) -> Iterator[Difference]:
    """Every score that both have, by task. Where models cut text differently, their losses do not compare: bits do."""
    others = {result.kind: result for result in second}
    for one in first:
        other = others.get(one.kind)
        if other is None:
            continue
        if isinstance(one, ValidationResult) and isinstance(other, ValidationResult) and one.text != other.text:
            logger.info(
                f"val: not compared: a was measured on {one.text}, b on {other.text}; --dataset NAME or --text FILE "
                "measures both on one"
            )
            continue
        theirs = other.items()
        for score, items in one.items().items():
            if score == "loss" and not same_tokenizer:
                logger.info("val: only bits per byte are compared, since the two have different tokenizers")
            elif score in theirs:
                yield difference(f"{one.kind} {score}", items, theirs[score])


def difference(score: str, first: Items, second: Items) -> Difference:
    """Paired where the items are the same ones. Windows of other tokens are not: they are drawn for each by itself."""
    paired = len(first) == len(second) and bool(np.array_equal(first[:, 1], second[:, 1]))
    drawn = _bootstrap(first, second) if paired else _bootstrap(first) - _bootstrap(second, seed=SEED + 1)
    low, high = np.quantile(drawn, (0.025, 0.975)).tolist()
    found = Difference(score, _mean(first), _mean(second), (low, high), min(len(first), len(second)))
    if not (paired and all(np.isin(items, (0.0, 1.0)).all() and items[:, 1].all() for items in (first, second))):
        return found
    right, other = first[:, 0] > 0, second[:, 0] > 0
    return replace(found, only_first=int((right & ~other).sum()), only_second=int((other & ~right).sum()))


def _bootstrap(first: Items, second: Items | None = None, seed: int = SEED) -> npt.NDArray[np.float64]:
    """(RESAMPLES,) means of `first`, less those of `second` where there is one, over the same items drawn."""
    draw, count = np.random.default_rng(seed), len(first)
    rows = max(1, _DRAWS // count)
    parts = []
    for start in range(0, RESAMPLES, rows):
        chosen = draw.integers(count, size=(min(rows, RESAMPLES - start), count))
        part = _means(first, chosen)
        parts.append(part if second is None else part - _means(second, chosen))
    return np.concatenate(parts)


def _mean(items: Items) -> float:
    return float(items[:, 0].sum() / items[:, 1].sum())


def _means(items: Items, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    means: npt.NDArray[np.float64] = items[:, 0][chosen].sum(axis=1) / items[:, 1][chosen].sum(axis=1)
    return means
