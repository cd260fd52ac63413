"""One step of decoding as a function, on CUDA recorded once and replayed: hundreds of small kernels, one launch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nano_gpt.model.cache import KVCache
from nano_gpt.model.gpt import GPT

_WARM_UP = 2  # steps before the recording, in which libraries allocate what they need


def decoder(model: GPT, cache: KVCache) -> Callable[[Tensor], Tensor]:
    """A function of (B,) ids that follow what `cache` holds; gives (B, V) logits, and the cache has one token more.

    What it gives may be overwritten by the next call.
    """

    def step(ids: Tensor) -> Tensor:
        return model.head(model.hidden(ids.unsqueeze(1), cache)[:, -1])

    return _Recorded(step, cache) if model.wte.weight.device.type == "cuda" else step


class _Recorded:
    """A CUDA graph for every number of places that a step looks at (`KVCache.seen_next`)."""

    def __init__(self, step: Callable[[Tensor], Tensor], cache: KVCache) -> None:
        self._step, self._cache = step, cache
        self._ids = torch.zeros(len(cache.lengths), dtype=torch.int64, device=cache.lengths.device)
        self._recordings: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def __call__(self, ids: Tensor) -> Tensor:
        seen = self._cache.seen_next
        self._ids.copy_(ids)
        if seen not in self._recordings:
            self._recordings[seen] = self._record()
        graph, logits = self._recordings[seen]
        graph.replay()
        self._cache.longest += 1
        return logits

    def _record(self) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """The steps done here write the next token's place, as the first replay will again."""
        lengths, longest = self._cache.lengths.clone(), self._cache.longest
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self._step(self._ids)
                self._go_back(lengths, longest)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self._step(self._ids)
        self._go_back(lengths, longest)
        return graph, logits

    def _go_back(self, lengths: Tensor, longest: int) -> None:
        self._cache.lengths.copy_(lengths)
        self._cache.longest = longest
