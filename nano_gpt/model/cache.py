"""Keys and values of the tokens that a model has already read, in memory that is allocated once."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from nano_gpt.config.model import GPTConfig


class KVCache:
    """Two tensors of (n_layer, B, nh, max_length, hs); `length` tokens of them are filled."""

    def __init__(
        self, config: GPTConfig, batch_size: int, max_length: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (config.n_layer, batch_size, config.n_head, max_length, config.head_dim)
        self.k = torch.empty(shape, device=device, dtype=dtype)
        self.v = torch.empty(shape, device=device, dtype=dtype)
        self.length = 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, nh, T, hs) of the new tokens of one layer; return all of them so far, (B, nh, length + T, hs)."""
        end = self.length + k.size(2)
        self.k[layer, :, :, self.length : end] = k
        self.v[layer, :, :, self.length : end] = v
        return self.k[layer, :, :, :end], self.v[layer, :, :, :end]

    def advance(self, tokens: int) -> None:
        """Every layer has stored `tokens` more."""
        self.length += tokens

    def repeat(self, rows: int) -> KVCache:
        """From one row to `rows` rows of the same tokens, each of which then goes its own way."""
        assert self.k.size(1) == 1, "only a single row is repeated"
        repeated = copy.copy(self)
        repeated.k = self.k.repeat(1, rows, 1, 1, 1)
        repeated.v = self.v.repeat(1, rows, 1, 1, 1)
        return repeated
