"""Keys and values of the tokens that a model has already read, in memory that is allocated once."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from nano_gpt.config.model import GPTConfig
from nano_gpt.model.attention import causal_attention
from nano_gpt.model.native.attention import native_attention

_STRIDE = 64
"""A step reads a multiple of so many places, blotting out what is empty, where attention is not compiled (native). Sums
over them then come out the same to the last bit, however long the other rows of the batch are: vectors of 64 have no
remainder to be added in another order."""


class KVCache:
    """Keys and values of B rows, each of its own length: two tensors of (n_layer, B, nh, capacity, hs).

    `lengths` (B,) counts the tokens of each row. A row is read once, from its start (`prefill`), and then takes one
    token at a time, beside the others. For one step all layers write to the same places and see the same ones, so both
    are worked out once, by `extend`.
    """

    def __init__(
        self, config: GPTConfig, batch_size: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        assert capacity <= config.n_positions, f"{capacity} tokens in a context of {config.n_positions}"
        places = -(-capacity // _STRIDE) * _STRIDE
        shape = (config.n_layer, batch_size, config.n_head, places, config.head_dim)
        self.k = torch.zeros(shape, device=device, dtype=dtype)  # not empty: what is blotted out must not be NaN
        self.v = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.capacity = capacity
        self.longest = 0
        """The largest of `lengths`, known without asking the device."""
        self._all_places = torch.arange(places, device=device)
        self._starts = torch.arange(batch_size * config.n_head, device=device) * places  # of every head of every row
        self.native = native_attention(self.k, self.v)
        self.places: Tensor | None = None
        """Of the new tokens, (B,); None while the prompts are read."""
        self._written: Tensor | None = None
        self._seen = 0

    def extend(self, tokens: int) -> tuple[Tensor, Tensor | None]:
        """Make room for `tokens` more in every row; gives their positions, (T,) or (B, 1), and the mask, if any.

        The mask is for `attend`: (B, 1, 1, S), 0 or -inf, to be added to the scores of one new token. A row that is
        full writes over its last place, and what follows from it means nothing.
        """
        if self.longest == 0:
            assert tokens <= self.capacity, f"{tokens} tokens in a cache of {self.capacity}"
            self.longest = self._seen = tokens
            self.lengths += tokens
            return self._all_places[:tokens], None
        assert tokens == 1, "after the prefill a cache takes one token at a time"
        self._seen = self.seen_next
        self.longest = min(self.longest + 1, self.capacity)
        self.places = self.lengths.clamp(max=self.capacity - 1)
        self.lengths += 1
        positions = self.places.unsqueeze(1)  # (B, 1)
        if self.native is not None:
            return positions, None
        self._written = (self._starts.view(len(positions), -1) + positions).flatten()  # (B * nh,)
        hidden = self._all_places[: self._seen] > positions
        mask = torch.zeros(hidden.shape, dtype=self.k.dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)
        return positions, mask[:, None, None, :]

    @property
    def seen_next(self) -> int:
        """Places that the next token looks at, S. On CUDA powers of two: each is recorded once (inference)."""
        filled = min(self.longest + 1, self.capacity)
        places = len(self._all_places)
        if self.lengths.device.type == "cuda":
            return min(max(2 * _STRIDE, 1 << (filled - 1).bit_length()), places)
        return -(-filled // _STRIDE) * _STRIDE

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Keep keys and values of the new tokens of one layer, and let their queries look; all are (B, nh, T, hs).

        The mask is that of `extend`.
        """
        if self.native is not None and self.places is not None:
            return self.native(layer, q, k, v, self.places)
        return causal_attention(q, *self._store(layer, k, v), mask=mask)

    def _store(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Gives all keys and values that the new tokens may look at, (B, nh, S, hs)."""
        keys, values = self.k[layer], self.v[layer]
        if self._written is None:
            keys[:, :, : self._seen], values[:, :, : self._seen] = k, v
            return k, v
        hs = k.size(-1)
        keys.view(-1, hs).index_copy_(0, self._written, k.reshape(-1, hs).to(keys.dtype))
        values.view(-1, hs).index_copy_(0, self._written, v.reshape(-1, hs).to(values.dtype))
        return keys[:, :, : self._seen], values[:, :, : self._seen]

    def select(self, rows: Tensor) -> KVCache:
        """A cache of these rows only."""
        selected = copy.copy(self)
        selected.k, selected.v, selected.lengths = self.k[:, rows], self.v[:, rows], self.lengths[rows]
        selected.native = native_attention(selected.k, selected.v)
        selected._starts = self._starts[: len(rows) * self.k.size(2)]
        return selected

    def copy_rows(self, source: KVCache, from_rows: Tensor, to_rows: Tensor) -> None:
        """Let the rows `to_rows` go on from rows of `source` (which they share, if `from_rows` names one twice)."""
        length = source.longest
        self.k[:, to_rows, :, :length] = source.k[:, from_rows, :, :length]
        self.v[:, to_rows, :, :length] = source.v[:, from_rows, :, :length]
        self.lengths[to_rows] = source.lengths[from_rows]
        self.longest = max(self.longest, length)
