"""How likely a model finds given continuations of given contexts: the arithmetic under every multiple-choice test.

A row is a context and one continuation. Rows are sorted by length and padded on the right, where causal attention
does not look, and only the positions that predict a continuation are multiplied with the vocabulary. Neither
changes a score beyond float noise, whatever the batch size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nano_gpt.errors import DataError
from nano_gpt.evaluation.scoring import scoring_mode, target_log_probabilities
from nano_gpt.model.gpt import GPT
from nano_gpt.runtime.device import send
from nano_gpt.tokenizer.base import Tokenizer

Progress = Callable[[int, int], None]  # rows handed to the device so far, rows in all


@dataclass(frozen=True)
class Row:
    """`ids` are a context and its continuation, each of one id at least; the last `scored` are the continuation."""

    ids: list[int]
    scored: int


@dataclass(frozen=True)
class Accuracy:
    """`correct` of `total`."""

    correct: int
    total: int

    @property
    def value(self) -> float:
        return self.correct / self.total

    @property
    def stderr(self) -> float | None:
        """Standard error of the mean, from the sample's standard deviation (n - 1) as in lm-eval; None for one item."""
        return math.sqrt(self.value * (1 - self.value) / (self.total - 1)) if self.total > 1 else None


def encode_choices(tokenizer: Tokenizer, context: str, continuations: Sequence[str]) -> list[Row]:
    """Rows of `context + continuation`, as lm-eval makes them.

    The whole text is encoded, and what is left of it after as many ids as the context alone has is the continuation;
    white space at the end of the context belongs to the continuation; an empty context is `<|endoftext|>`. Raises
    DataError for a text that the tokenizer cannot spell, and for a continuation that adds no token.
    """
    stem = context.rstrip()
    space = context[len(stem) :]
    given = tokenizer.encode(stem) if stem else []
    rows = []
    for continuation in continuations:
        ids = tokenizer.encode(stem + space + continuation)
        scored = len(ids) - len(given)
        if scored <= 0:
            raise DataError(f"{continuation!r} adds no token to {context!r}")
        rows.append(Row(ids if given else [tokenizer.eot_id, *ids], scored))
    return rows


def windows(row: Row, context_length: int) -> Iterator[Row]:
    """What a model of this context length can read of a row: the left of a long context is cut off.

    A continuation that is itself longer comes in several windows, whose log-probabilities add up.
    """
    for start in range(len(row.ids) - row.scored, len(row.ids), context_length):
        end = min(start + context_length, len(row.ids))
        yield Row(row.ids[max(0, end - context_length - 1) : end], end - start)  # the last id is predicted, not read


def log_likelihoods(
    model: GPT,
    rows: Sequence[Row],
    *,
    batch_size: int = 32,
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> npt.NDArray[np.float64]:
    """(rows,) log-probability of each row's continuation, summed over its tokens, in nats.

    `batch_size` rows go through the model at a time, in products of `dtype`; log-softmax is in fp32. The device is
    waited for once, at the end.
    """
    sums = np.zeros(len(rows))
    if not rows:
        return sums
    pieces = [(index, piece) for index, row in enumerate(rows) for piece in windows(row, model.config.n_positions)]
    pieces.sort(key=lambda item: -len(item[1].ids))  # the longest first: if memory lacks, it is found out now
    parts = []
    with scoring_mode(model, dtype) as device:
        for start in range(0, len(pieces), batch_size):
            batch = [piece for _, piece in pieces[start : start + batch_size]]
            parts.append(_token_log_probabilities(model, batch, device))
            if progress:
                progress(start + len(batch), len(pieces))
    by_token = torch.cat(parts).cpu().double().numpy()  # sync: once
    row_of_token = np.repeat([index for index, _ in pieces], [piece.scored for _, piece in pieces])
    np.add.at(sums, row_of_token, by_token)
    return sums


def _token_log_probabilities(model: GPT, rows: Sequence[Row], device: torch.device) -> Tensor:
    """(tokens of all continuations,) in the order of the rows, which come longest first."""
    width = len(rows[0].ids) - 1
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    positions, targets = [], []  # of the tokens that are scored, in the flattened batch
    for index, row in enumerate(rows):
        end = len(row.ids) - 1
        ids[index, :end] = torch.tensor(row.ids[:-1])
        positions.append(torch.arange(end - row.scored, end) + index * width)
        targets.extend(row.ids[-row.scored :])
    hidden = model.hidden(send(ids, device)).flatten(0, 1)  # (B, T, C) -> (B * T, C)
    hidden = hidden[send(torch.cat(positions), device)]  # (scored, C)
    return target_log_probabilities(model, hidden, send(torch.tensor(targets), device))
