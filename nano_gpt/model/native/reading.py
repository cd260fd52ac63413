"""A copy of GPT-2 that scores texts in bf16 on a CPU, with the C of training's forward pass (products.c, causal.c).

    reader = native_reader(model)      # or None
    hidden = reader.read(ids, positions, wanted=wanted)
    log_probabilities, likeliest = reader.token_scores(hidden, targets)

Many tokens at once are bound by the speed of products, where a new token waits for memory (block.py): weights stay in
fp32 as they are. Texts lie one behind the other: what fills up a batch is left out, and no logits are written.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano_gpt.model.cache import KVCache
from nano_gpt.model.gpt import GPT, Block
from nano_gpt.model.native import kernels
from nano_gpt.model.native.training import is_gpt2


class _Texts(NamedTuple):
    """Where they lie in the rows that are read, and what sees what: as kernels.attend_texts has it."""

    starts: Tensor
    longest: int
    ends: Tensor | None


class NativeReader(GPT):
    """Shares the weights of the model that it is a copy of, but for the head."""

    scoring_head: Tensor

    def hidden(
        self,
        ids: Tensor,
        cache: KVCache | None = None,
        *,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        assert cache is None and mask is None, "it reads texts, and knows what tokens see by where they end"
        positions = torch.arange(ids.size(1)) if positions is None else positions
        return self.read(ids, positions, wanted=torch.arange(ids.numel())).view(*ids.shape, -1)

    def read(
        self,
        ids: Tensor,
        positions: Tensor,
        *,
        wanted: Tensor,
        ends: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        B, T = ids.shape
        lengths = torch.full((B,), T) if lengths is None else lengths
        read = torch.arange(T) < lengths.unsqueeze(1)  # (B, T)
        texts = _Texts(
            starts=F.pad(lengths.cumsum(0), (1, 0)),
            longest=T,
            ends=None if ends is None else ends[read].to(torch.int32),
        )
        rows = (read.flatten().cumsum(0) - 1)[wanted]  # (P,)
        x = self.wte(ids[read]) + self.wpe(positions.expand(B, T)[read])  # (R, C)
        x = _filled(x, len(x) + kernels.SIDE - 1)  # as many rows as attention looks at
        for block in self.h[:-1]:
            x = self._block(block, x, texts)
        return self.ln_f(self._block(self.h[-1], x, texts, _filled(rows))[: len(rows)])  # type: ignore[no-any-return]

    @staticmethod
    def _block(block: nn.Module, x: Tensor, texts: _Texts, wanted: Tensor | None = None) -> Tensor:
        """(R, C) -> (R, C), or of the `wanted` rows only: they have looked at the others when attention is done."""
        assert isinstance(block, Block)
        attn, mlp, ln_1, ln_2 = block.attn, block.mlp, block.ln_1, block.ln_2
        assert isinstance(ln_1, nn.LayerNorm) and isinstance(ln_2, nn.LayerNorm)
        read, _ = kernels.norm(x, ln_1.weight, ln_1.bias, ln_1.eps)
        qkv = kernels.linear(read, attn.c_attn.weight, attn.c_attn.bias)
        attended = kernels.attend_texts(qkv, texts.starts, texts.longest, attn.n_head, texts.ends)
        if wanted is not None:
            x, attended = x[wanted], attended[wanted]
        x = kernels.linear_add(x, attended, attn.c_proj.weight, attn.c_proj.bias)
        read, _ = kernels.norm(x, ln_2.weight, ln_2.bias, ln_2.eps)
        activated = kernels.gelu_of_linear(read, mlp.c_fc.weight, mlp.c_fc.bias)
        return kernels.linear_add(x, activated, mlp.c_proj.weight, mlp.c_proj.bias)

    def token_scores(
        self, hidden: Tensor, targets: Tensor, predicted_by: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(P, C) of the last norm, (N,) ids, and which of the P predicts each if they are not as many -> (N,)
        log-probabilities in nats, and (N,) whether no other token is likelier."""
        predicted_by = torch.arange(len(hidden)) if predicted_by is None else predicted_by
        rows = _filled(hidden.bfloat16())
        by_row = predicted_by.argsort(stable=True)
        firsts = torch.searchsorted(predicted_by[by_row], torch.arange(len(rows) + 1))
        assert self.config.vocab_size is not None
        found = kernels.token_scores(rows, self.scoring_head, targets[by_row], firsts, self.config.vocab_size)
        in_order = by_row.argsort()
        return found[0][in_order], found[1][in_order]


def _filled(x: Tensor, least: int = 0) -> Tensor:
    """(n, ...) with zeros behind it: `least` rows or more, in whole tiles."""
    rows = -(-max(len(x), least) // kernels.SIDE) * kernels.SIDE
    return F.pad(x, (0, 0) * (x.dim() - 1) + (0, rows - len(x)))


@torch.no_grad()
def native_reader(model: GPT) -> NativeReader | None:
    """None where C cannot be had, or for what is not GPT-2.

    The mean row is taken out of the head: GPT-2's logits lie around -100, where steps of bf16 are large, and softmax
    does not see what they have in common.
    """
    blocks = [block for block in model.h if isinstance(block, Block) and is_gpt2(block)]
    on_cpu = model.wte.weight.device.type == "cpu" and model.wte.weight.dtype == torch.float32
    if not (kernels.can_train() and on_cpu and len(blocks) == len(model.h) and model.config.positions == "learned"):
        return None
    reader = copy.copy(model)
    reader.__class__ = NativeReader
    assert isinstance(reader, NativeReader)
    head = model.head_weight
    reader.scoring_head = head - head[: model.config.vocab_size].mean(dim=0)
    return reader
