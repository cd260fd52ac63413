"""How likely a model finds given continuations of given contexts: the arithmetic under every multiple-choice test.

A row is a context and one continuation. Rows that begin alike are read as one tree (sharing.py); trees are sorted by
length and filled up on the right, where causal attention does not look; and only the positions that predict a
continuation are multiplied with the vocabulary. None of it changes a score beyond float noise, whatever the batch size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from nano_gpt.errors import DataError
from nano_gpt.evaluation.scoring import TokenScores, score_tokens, scoring_mode
from nano_gpt.evaluation.sharing import Row, TreeBatch, batches, grow, lay_out
from nano_gpt.model.gpt import GPT
from nano_gpt.model.native.reading import NativeReader
from nano_gpt.runtime.device import send
from nano_gpt.tokenizer.base import Tokenizer

Progress = Callable[[int, int], None]  # rows handed to the device so far, rows in all
# In one forward on a CPU: with four times as many GPT-2 124M scores 0.75 times as many items a second. A reader fills
# nothing up, and lays its weights out in each of them: with 4096 it scores 1.05 times as many as with 1024.
_CPU_TOKENS, _READER_TOKENS = 512, 4096


class RowScores(NamedTuple):
    """What a model makes of the continuations of some rows."""

    log_likelihoods: npt.NDArray[np.float64]
    """(rows,) in nats, summed over the tokens."""
    greedy: npt.NDArray[np.bool_]
    """(rows,): whether every token is the likeliest, so that drawing at temperature 0 would write it."""


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


def score_rows(
    model: GPT,
    rows: Sequence[Row],
    *,
    batch_size: int = 32,
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> RowScores:
    """What the model thinks of each row's continuation.

    As many tokens go through the model at a time as `batch_size` rows of its whole context have, in products of
    `dtype`; log-softmax is in fp32. The device is waited for once, at the end.
    """
    longest = model.config.n_positions
    pieces = [(index, piece) for index, row in enumerate(rows) for piece in windows(row, longest)]
    pieces.sort(key=lambda piece: piece[1].ids)
    sums, greedy = np.zeros(len(rows)), np.ones(len(rows), dtype=bool)
    if not pieces:
        return RowScores(sums, greedy)
    # The longest first: if memory lacks, it is found out now.
    trees = sorted(grow((piece for _, piece in pieces), longest), key=len, reverse=True)
    parts, done = [], 0
    with scoring_mode(model, dtype) as device:
        for batch in batches(trees, _tokens(batch_size, model, device)):
            parts.append(_score_batch(model, lay_out(batch), device))
            done += sum(len(tree.rows) for tree in batch)
            if progress:
                progress(done, len(pieces))
    in_order = [pieces[number] for tree in trees for number in tree.rows]
    row_of_token = [index for index, piece in in_order for _ in range(piece.scored)]
    log_probabilities, likeliest = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))  # sync: once
    np.add.at(sums, row_of_token, log_probabilities.astype(np.float64))
    np.logical_and.at(greedy, row_of_token, likeliest)
    return RowScores(sums, greedy)


def _tokens(batch_size: int, model: GPT, device: torch.device) -> int:
    """In one forward."""
    tokens = batch_size * model.config.n_positions
    if device.type != "cpu":
        return tokens
    return min(tokens, _READER_TOKENS if isinstance(model, NativeReader) else _CPU_TOKENS)


def _score_batch(model: GPT, batch: TreeBatch, device: torch.device) -> TokenScores:
    """Of all rows' continuations, row after row."""
    hidden = model.read(  # (P, C)
        send(batch.ids, device),
        send(batch.positions, device),
        wanted=send(batch.predicting, device),
        ends=None if batch.ends is None else send(batch.ends, device),
        lengths=send(batch.lengths, device),
    )
    return score_tokens(model, hidden, send(batch.targets, device), send(batch.predicted_by, device))
