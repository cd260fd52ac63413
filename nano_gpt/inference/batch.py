"""Sequences that are written side by side: their ids so far, their keys and values, and what the model expects next."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nano_gpt.inference.graphs import decoder
from nano_gpt.model.cache import KVCache
from nano_gpt.model.gpt import GPT

Ids = Sequence[int]

_TOGETHER = 2**14  # tokens that are read in one forward


class Batch:
    """`copies` rows of each prompt, with room for `room` more tokens. B rows, V logits."""

    def __init__(self, model: GPT, prompts: Sequence[Ids], *, copies: int, room: int) -> None:
        self._model, self._prompts, self._copies = model, prompts, copies
        self._device = model.wte.weight.device
        self._lengths = [len(prompt) for prompt in prompts for _ in range(copies)]
        width = max(self._lengths) + room
        self._text = torch.zeros(len(self._lengths), width, dtype=torch.int64)
        for row, length in enumerate(self._lengths):
            self._text[row, :length] = torch.tensor(prompts[row // copies])
        self._text = self._text.to(self._device)
        self._ends = torch.tensor(self._lengths, device=self._device)
        self._cache = self._new_cache(len(self._lengths), min(width, model.config.n_positions))
        self._decode = decoder(model, self._cache)

    def read_prompts(self) -> Tensor:
        """(B, V) logits of what follows. Every prompt is read once, in one forward with others of its length.

        Without padding, so that no row is computed otherwise than alone.
        """
        hidden = self._model.wte.weight.new_empty(len(self._lengths), self._model.config.n_embd)
        for some in _alike(self._prompts):
            ids = torch.tensor([list(self._prompts[number]) for number in some], device=self._device)
            cache = self._new_cache(*ids.shape)
            last = self._model.hidden(ids, cache)[:, -1]  # (prompts, C)
            rows = [number * self._copies + copy for number in some for copy in range(self._copies)]
            to_rows = torch.tensor(rows, device=self._device)
            from_rows = torch.arange(len(some), device=self._device).repeat_interleave(self._copies)
            self._cache.copy_rows(cache, from_rows, to_rows)
            hidden[to_rows] = last[from_rows].to(hidden.dtype)
        return self._model.head(hidden)

    def add(self, ids: Tensor) -> Tensor:
        """(B,) ids, one more for each row -> (B, V) logits of what follows them."""
        self._text.scatter_(1, self._ends.unsqueeze(1), ids.unsqueeze(1))
        self._ends += 1
        self._lengths = [length + 1 for length in self._lengths]
        context = self._model.config.n_positions
        slid = [row for row, length in enumerate(self._lengths) if length > context]
        if not slid:
            return self._decode(ids)
        rows = torch.tensor(slid, device=self._device)
        if len(slid) == len(self._lengths):
            return self._read_windows(rows)
        logits = self._decode(ids)
        logits[rows] = self._read_windows(rows)
        return logits

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self._text, self._ends = self._text[rows], self._ends[rows]
        self._lengths = [self._lengths[row] for row in rows.tolist()]
        self._cache = self._cache.select(rows)
        self._decode = decoder(self._model, self._cache)

    def seen(self, vocab_size: int) -> Tensor:
        """(B, vocab_size), True for ids that are in the row."""
        places = torch.arange(self._text.size(1), device=self._device)
        # What is empty repeats the row's first id, which is in it anyway.
        text = torch.where(places < self._ends.unsqueeze(1), self._text, self._text[:, :1])
        return torch.zeros(len(text), vocab_size, dtype=torch.bool, device=self._device).scatter_(1, text, True)

    def _read_windows(self, rows: Tensor) -> Tensor:
        """(R, V) logits of what follows the last n_positions tokens of `rows`, each window read as a text."""
        context = self._model.config.n_positions
        places = self._ends[rows, None] - context + torch.arange(context, device=self._device)
        windows = self._text[rows].gather(1, places)  # (R, context)
        hidden = [self._model.hidden(some)[:, -1] for some in torch.split(windows, max(1, _TOGETHER // context))]
        return self._model.head(torch.cat(hidden))

    def _new_cache(self, rows: int, capacity: int) -> KVCache:
        to_keys = self._model.get_submodule("h.0.attn.c_attn")
        dtype = to_keys(self._model.wte.weight[:1]).dtype  # under autocast, or packed, not the weight's own
        return KVCache(self._model.config, rows, capacity, self._device, dtype)


def _alike(prompts: Sequence[Ids]) -> Iterator[list[int]]:
    """Numbers of prompts that have one length, as many at a time as are read together."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        by_length[len(prompt)].append(number)
    for length, numbers in by_length.items():
        size = max(1, _TOGETHER // length)
        for start in range(0, len(numbers), size):
            yield numbers[start : start + size]
