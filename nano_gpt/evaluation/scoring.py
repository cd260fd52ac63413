"""How a model is held while it is measured, and what it thinks of given tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nano_gpt.model.gpt import GPT
from nano_gpt.model.native.reading import NativeReader, native_reader
from nano_gpt.model.packed import pack
from nano_gpt.runtime.device import autocast
from nano_gpt.runtime.distributed import all_reduce_sum, from_environment, is_distributed

HEAD_POSITIONS = 128  # have logits at one time: 26 MB in fp32 with GPT-2's vocabulary, which malloc still uses again


@contextmanager
def scoring_mode(model: nn.Module, dtype: torch.dtype) -> Iterator[torch.device]:
    """No dropout, no gradients, matrix products in `dtype`; yields the model's device. Restores training mode."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), autocast(device, dtype):
            yield device
    finally:
        model.train(was_training)


@torch.no_grad()
def packed_for_scoring(model: GPT, dtype: torch.dtype) -> GPT:
    """A copy whose products, those with the vocabulary too, are in `dtype`, laid out for this CPU.

    GPT-2's logits lie around -100, where bf16 knows steps of a half only. Softmax does not see what they have in
    common, so the mean row is taken out of the head first: a log-probability then comes out as near as with a head in
    fp32, and HellaSwag is scored 1.25 times as fast (124M, two Zen 4 cores).
    """
    if dtype == torch.float32:
        return pack(model)
    if dtype == torch.bfloat16 and (reader := native_reader(model)) is not None:
        return reader
    head = model.head_weight[: model.config.vocab_size]
    return pack(model, dtype, head=(head - head.mean(dim=0)).to(dtype))


class TokenScores(NamedTuple):
    """What a model thinks of N tokens."""

    log_probabilities: Tensor
    """(N,) fp32, in nats."""
    likeliest: Tensor
    """(N,) bool: no other token is likelier."""


def score_tokens(model: GPT, hidden: Tensor, targets: Tensor, predicted_by: Tensor | None = None) -> TokenScores:
    """(N, C) of the last norm and the (N,) ids that follow; or (P, C), and (N,) which of them predicts each id.

    The vocabulary is far wider than the model, so its logits are made for some positions at a time; and in the place of
    the logits, since cross_entropy's copies take half as long as the product in bf16.
    """
    if isinstance(model, NativeReader):
        return TokenScores(*model.token_scores(hidden, targets, predicted_by))
    hidden = hidden if predicted_by is None else hidden[predicted_by]
    pieces = zip(torch.split(hidden, HEAD_POSITIONS), torch.split(targets, HEAD_POSITIONS), strict=True)
    parts = [_score_piece(model.head(x).float(), y) for x, y in pieces]
    return TokenScores(torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts]))


def _score_piece(logits: Tensor, targets: Tensor) -> TokenScores:
    """(n, V) logits, which are spent, and (n,) ids."""
    largest = logits.amax(1, keepdim=True)
    above = (logits.gather(1, targets.unsqueeze(1)) - largest).squeeze(1)  # 0 for the likeliest
    return TokenScores(above - logits.sub_(largest).exp_().sum(1).log(), above == 0)


def of_all_ranks(values: Tensor) -> Tensor:
    """(n, k) of every rank, n its own, one below the other in the order of the ranks. Every rank must call."""
    if not is_distributed():
        return values
    ranks = from_environment()
    sizes = torch.zeros(ranks.world_size, dtype=torch.int64)
    sizes[ranks.rank] = len(values)
    ends = all_reduce_sum(sizes).cumsum(0).tolist()
    whole = torch.zeros(ends[-1], *values.shape[1:], dtype=values.dtype)
    whole[ends[ranks.rank] - len(values) : ends[ranks.rank]] = values
    return all_reduce_sum(whole)
