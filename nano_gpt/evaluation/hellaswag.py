"""HellaSwag: which of four endings does the model find likeliest? Three named scores from one pass over the items.

    accuracy   build-nanogpt's: text as it is, mean log-likelihood per token (GPT-2 124M: 0.2955)
    acc        lm-eval's: cleaned text, summed log-likelihood (GPT-2 124M: 0.2892)
    acc_norm   lm-eval's: cleaned text, summed log-likelihood per character (GPT-2 124M: 0.3114)

Each comes with its standard error. Ranks take every world_size-th item, so that none is scored twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from nano_gpt.errors import DataError
from nano_gpt.evaluation.choices import Accuracy, Progress, encode_choices, score_rows
from nano_gpt.evaluation.hellaswag_items import LEAVE_OUT, Item
from nano_gpt.evaluation.results import Items
from nano_gpt.evaluation.scoring import of_all_ranks
from nano_gpt.evaluation.sharing import Row
from nano_gpt.model.gpt import GPT
from nano_gpt.tokenizer.base import Tokenizer

SCORES = ("accuracy", "acc", "acc_norm")


@dataclass(frozen=True, eq=False)
class HellaSwagResult:
    """The scores over all ranks' items."""

    right: npt.NDArray[np.bool_]
    """(items, 3), in the order of the items and of SCORES: whether the model chose the right ending."""

    kind: ClassVar[str] = "hellaswag"

    @property
    def accuracy(self) -> Accuracy:
        """By the mean log-likelihood per token of the text as it is: the "karpathy" score."""
        return self._score(0)

    @property
    def acc(self) -> Accuracy:
        """lm-eval's `acc`."""
        return self._score(1)

    @property
    def acc_norm(self) -> Accuracy:
        """lm-eval's `acc_norm`."""
        return self._score(2)

    def _score(self, column: int) -> Accuracy:
        return Accuracy(int(self.right[:, column].sum()), len(self.right))

    def fields(self) -> dict[str, Any]:
        """For a metrics event and for JSON; the first three are the predecessor's."""
        return {
            "accuracy": self.accuracy.value,
            "total": self.accuracy.total,
            "correct": self.accuracy.correct,
            "stderr": self.accuracy.stderr,
            "acc": self.acc.value,
            "acc_stderr": self.acc.stderr,
            "acc_norm": self.acc_norm.value,
            "acc_norm_stderr": self.acc_norm.stderr,
        }

    def items(self) -> dict[str, Items]:
        weights = np.ones(len(self.right))
        return {name: np.stack([self.right[:, column], weights], axis=1) for column, name in enumerate(SCORES)}


@dataclass(frozen=True)
class ItemScores:
    """What the model makes of one item: (endings,) log-likelihoods in nats under either rendering, and its choices."""

    label: int
    as_is: npt.NDArray[np.float64]
    as_is_tokens: npt.NDArray[np.int64]
    cleaned: npt.NDArray[np.float64]
    cleaned_characters: npt.NDArray[np.int64]

    @property
    def right(self) -> tuple[bool, bool, bool]:
        """By the rules of SCORES."""
        return self.choice == self.label, self.choice_acc == self.label, self.choice_acc_norm == self.label

    @property
    def choice(self) -> int:
        """By the mean over the tokens of the text as it is."""
        return int(np.argmax(self.as_is / self.as_is_tokens))

    @property
    def choice_acc(self) -> int:
        return int(np.argmax(self.cleaned))

    @property
    def choice_acc_norm(self) -> int:
        """An ending of which cleaning left nothing is never chosen."""
        characters = self.cleaned_characters
        return int(np.argmax(np.where(characters > 0, self.cleaned / np.maximum(characters, 1), -np.inf)))


class HellaSwagTest:
    """This rank's items as token ids, made once and scored as often as wanted."""

    def __init__(self, items: Sequence[Item], tokenizer: Tokenizer, *, rank: int = 0, world_size: int = 1) -> None:
        """Raises DataError, on all ranks or on none, where the tokenizer cannot spell an item."""
        encoded = []
        for index, item in enumerate(items):  # all of them, so that the ranks agree on whether it can be done
            try:
                encoded.append(_EncodedItem(item, tokenizer))
            except DataError as error:
                raise DataError(f"HellaSwag item {index}: {error.message}", LEAVE_OUT) from None
        self._items = encoded[rank::world_size]
        self._numbers = range(rank, len(encoded), world_size)

    def score(
        self,
        model: GPT,
        *,
        batch_size: int = 32,
        dtype: torch.dtype = torch.float32,
        progress: Progress | None = None,
    ) -> list[ItemScores]:
        """This rank's items in their order. `batch_size` as in `score_rows`."""
        rows = [row for item in self._items for row in item.rows]
        sums = score_rows(model, rows, batch_size=batch_size, dtype=dtype, progress=progress).log_likelihoods
        ends = np.cumsum([len(item.rows) for item in self._items], dtype=np.int64)
        parts = np.split(sums, ends)[:-1]  # the last one is what follows the last item: nothing
        return [item.scores(part) for item, part in zip(self._items, parts, strict=True)]

    def evaluate(
        self,
        model: GPT,
        *,
        batch_size: int = 32,
        dtype: torch.dtype = torch.float32,
        progress: Progress | None = None,
    ) -> HellaSwagResult:
        """Score, and put the ranks' items together; every rank must call, and gets the same result."""
        scores = self.score(model, batch_size=batch_size, dtype=dtype, progress=progress)
        mine = [(number, *item.right) for number, item in zip(self._numbers, scores, strict=True)]
        found = of_all_ranks(torch.tensor(mine, dtype=torch.int64).view(-1, 1 + len(SCORES))).numpy()
        return HellaSwagResult(found[np.argsort(found[:, 0]), 1:].astype(bool))


class _EncodedItem:
    """One item's rows: its endings as they are, then cleaned. A space joins an ending to the context."""

    def __init__(self, item: Item, tokenizer: Tokenizer) -> None:
        self._label = item.label
        self._as_is = _rows(item.as_is(), tokenizer)
        self._cleaned = _rows(item.cleaned(), tokenizer)
        self._cleaned_characters = np.array([len(ending) for ending in item.cleaned()[1]])

    @property
    def rows(self) -> list[Row]:
        return self._as_is + self._cleaned

    def scores(self, sums: npt.NDArray[np.float64]) -> ItemScores:
        as_is, cleaned = np.split(sums, [len(self._as_is)])
        tokens = np.array([row.scored for row in self._as_is])
        return ItemScores(self._label, as_is, tokens, cleaned, self._cleaned_characters)


def _rows(rendering: tuple[str, tuple[str, ...]], tokenizer: Tokenizer) -> list[Row]:
    context, endings = rendering
    return encode_choices(tokenizer, context, [f" {ending}" for ending in endings])
