"""From logits to the next token: pure functions on (B, V), with no state and no wait for the device.

Randomness comes in as one uniform number per row. A row's numbers are a function of (seed, row), so that its text
is the same alone and in any batch, and the same on every device up to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nano_gpt.runtime.seeding import generator

BROKEN = -1  # the "token" of a row whose logits are not numbers

_COLDEST = 1e-6  # below it a division overflows fp32, and nothing but the likeliest token is left anyway


def uniforms(seed: int, rows: int, steps: int, device: torch.device | str = "cpu") -> Tensor:
    """(steps, rows) numbers in [0, 1): column i depends on (seed, i) alone. Drawn on the CPU, moved once."""
    columns = [torch.rand(steps, generator=generator(seed, "sample", row)) for row in range(rows)]
    return torch.stack(columns, dim=1).to(device)


def sample(
    logits: Tensor, uniform: Tensor, *, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0
) -> Tensor:
    """(B, V) logits and (B,) uniform numbers -> (B,) token ids. Temperature 0 takes the likeliest token.

    A row that holds NaN or +inf, or nothing but -inf, gives BROKEN: the caller reads the ids anyway and sees it there
    without a second wait.
    """
    logits = logits.float()
    works = logits.amax(dim=-1).isfinite()
    if temperature == 0:
        return torch.where(works, logits.argmax(dim=-1), BROKEN)
    logits = apply_temperature(logits, temperature)
    if top_k is not None:
        logits = apply_top_k(logits, top_k)
    if top_p < 1:
        logits = apply_top_p(logits, top_p)
    return torch.where(works, draw(logits, uniform), BROKEN)


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Sharper below 1, flatter above. The largest logit becomes 0, which leaves the probabilities as they are."""
    return (logits - logits.amax(dim=-1, keepdim=True)) / max(temperature, _COLDEST)


def apply_top_k(logits: Tensor, k: int) -> Tensor:
    """-inf for all but the k likeliest tokens (and what ties with the last of them). k > V keeps all."""
    smallest = logits.topk(min(k, logits.size(-1)), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < smallest, -torch.inf)


def apply_top_p(logits: Tensor, p: float) -> Tensor:
    """-inf for all but the smallest set of tokens whose probability is at least p (Holtzman et al. 2020, 3.1)."""
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(dim=-1)
    likelier = probabilities.cumsum(dim=-1) - probabilities  # what the tokens before this one already have together
    removed = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, likelier >= p)
    return logits.masked_fill(removed, -torch.inf)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the cumulated probability passes `uniform`: (B, V), (B,) -> (B,). Never one that is -inf.

    One number per row decides, where Gumbel noise would take V of them. Exact to fp32: about 1e-7 per token.
    """
    probabilities = logits.softmax(dim=-1)
    cumulated = probabilities.cumsum(dim=-1)
    passed = (cumulated > uniform.unsqueeze(-1) * cumulated[..., -1:]) & (probabilities > 0)
    # Where rounding lets no token pass, at the far end of the range, the likeliest one stands in.
    return torch.where(passed.any(dim=-1), passed.byte().argmax(dim=-1), logits.argmax(dim=-1))
