"""Rotary position embedding (RoPE, Su et al. 2021): the place of a token turns its queries and keys.

A query at place m and a key at place n meet as if turned by m - n, so what attention sees are distances. Column i
turns with column i + hs / 2, as in GPT-NeoX and LLaMA, whose way `transformers` took over; in the paper with i + 1.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_table(positions: Tensor, head_dim: int, theta: float) -> Tensor:
    """(..., T) places -> (2, ..., T, hs), cosines and sines of place * theta^(-2 i / hs) in columns i and i + hs / 2.

    In fp32 whatever the model is in: bf16 cannot tell place 257 from 256. Made anew in every forward pass, which costs
    less than a norm, so that no buffer has to be moved, saved or left out.
    """
    exponent = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions[..., None].float() * (1.0 / theta**exponent)  # (..., T, hs / 2)
    angles = torch.cat((angles, angles), dim=-1)
    return torch.stack((angles.cos(), angles.sin()))


def rotated(x: Tensor, rotary: Tensor) -> Tensor:
    """(B, nh, T, hs) queries or keys, turned by the table of their (T,) or (B, T) places; the type stays."""
    cos, sin = rotary.unsqueeze(-3).unbind()  # alike for all heads
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)
