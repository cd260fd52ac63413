"""Causal attention: PyTorch's fused kernel, and plain products where that one is slow."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_FEWEST_ROWS, _MOST_BLOCKS = 128, 4


def causal_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, mask: Tensor | None = None) -> Tensor:
    """(B, nh, T, hs) queries on (B, nh, S, hs) keys and values -> (B, nh, T, hs).

    T = S: every token sees itself and what came before it, or what a mask (B, 1, T, S) lets it see: it is True there,
    or added to the scores. T = 1: a new token sees all S, or what the mask leaves of them.
    """
    if q.device.type == "cpu" and q.requires_grad:
        return _PlainAttention.apply(q, k, v, dropout, mask)  # type: ignore[no-any-return, no-untyped-call]
    if q.device.type == "cpu" and q.size(2) == 1 and mask is not None and mask.is_floating_point():
        return _one_query(q, k, v, mask)
    causal = mask is None and q.size(2) > 1
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout)


def _one_query(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """(B, nh, 1, hs) on (B, nh, S, hs), in two products a head, which come out the same whatever else is in the batch.

    Nor does their time grow with bf16, as that of the fused kernel does: 0.9 and 7.2 ms for (5, 12, 1024, 64) (one
    Zen 4 core, torch 2.13).
    """
    scores = torch.matmul(q * q.size(-1) ** -0.5, k.transpose(2, 3)).add_(mask)  # (B, nh, 1, S)
    return torch.matmul(scores.softmax(dim=-1), v)


def document_mask(documents: Tensor) -> Tensor:
    """(B, T) numbers of documents -> (B, 1, T, T), True where a token may look: its own document, up to itself."""
    return (documents[:, None, :, None] == documents[:, None, None, :]).tril()


def tree_mask(ends: Tensor) -> Tensor:
    """(B, T) -> (B, 1, T, T), True where a token may look: at itself and what it continues.

    Tokens lie behind the one that they continue, and all that continues a token, up to its end, lies behind it at once.
    """
    places = torch.arange(ends.size(1), device=ends.device)
    return (ends[:, None, None, :] > places[:, None]).tril()


class _PlainAttention(torch.autograd.Function):
    """The same in batched products, for training on a CPU: a few blocks of queries, each on the keys that it may see.

    The CPU's fused kernel multiplies tile by tile, in products too small to be fast: forward and backward in bf16 take
    88 ms there and 37 ms here for (16, 6, 256, 64), 9.2 and 1.3 ms for (12, 4, 64, 32) (one Zen 4 core, torch 2.13).
    Blocks leave out most of what a mask would blot out: (1, 12, T, 64) take 0.78 of the time of one block at T = 512
    and 0.75 at T = 1024, and less memory.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, dropout: float, mask: Tensor | None) -> Tensor:
        shape = q.shape
        T, hs = shape[-2:]
        q, k, v = (tensor.reshape(-1, T, hs) for tensor in (q, k, v))  # (B, nh, T, hs) -> (N, T, hs)
        future = torch.full((T, T), float("-inf"), dtype=q.dtype).triu(1)
        outputs: list[Tensor] = []
        weights: list[Tensor] = []
        kept: list[Tensor | None] = []
        for start, end in _blocks(T):
            rows, seen = slice(start, end), slice(0, end)
            scores = _scaled_bmm(q[:, rows], k[:, seen].transpose(1, 2), hs**-0.5)  # (N, rows, seen)
            if mask is None:
                scores[:, :, rows] += future[rows, rows]
            else:
                scores.view(*shape[:2], end - start, end).masked_fill_(~mask[:, :, rows, seen], float("-inf"))
            weights.append(scores.softmax(dim=-1))
            kept.append(torch.empty_like(scores, dtype=torch.bool).bernoulli_(1 - dropout) if dropout else None)
            outputs.append(torch.bmm(_dropped(weights[-1], kept[-1], dropout), v[:, seen]))
        ctx.save_for_backward(q, k, v, *weights, *kept)
        ctx.dropout = dropout
        return torch.cat(outputs, dim=1).view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, *saved = ctx.saved_tensors
        shape, (T, hs) = grad.shape, q.shape[-2:]
        grad = grad.reshape(-1, T, hs)
        blocks = _blocks(T)
        weights, kept = saved[: len(blocks)], saved[len(blocks) :]
        grads_q: list[Tensor] = []
        for (start, end), weight, keep in reversed(list(zip(blocks, weights, kept, strict=True))):
            rows, seen = slice(start, end), slice(0, end)
            to_v = torch.bmm(_dropped(weight, keep, ctx.dropout).transpose(1, 2), grad[:, rows])
            grad_weight = _dropped(torch.bmm(grad[:, rows], v[:, seen].transpose(1, 2)), keep, ctx.dropout)
            grad_scores = torch._softmax_backward_data(grad_weight, weight, -1, weight.dtype)
            grads_q.insert(0, _scaled_bmm(grad_scores, k[:, seen], hs**-0.5))
            to_k = _scaled_bmm(grad_scores.transpose(1, 2), q[:, rows], hs**-0.5)
            if end == T:  # the last rows come first: they have seen every key
                grad_k, grad_v = to_k, to_v
            else:
                grad_k[:, seen] += to_k
                grad_v[:, seen] += to_v
        return torch.cat(grads_q, dim=1).view(shape), grad_k.view(shape), grad_v.view(shape), None, None


def _blocks(length: int) -> list[tuple[int, int]]:
    """First and last + 1 row of each block: smaller ones skip more of the future, larger ones multiply faster."""
    rows = max(_FEWEST_ROWS, -(-length // _MOST_BLOCKS))
    return [(start, min(start + rows, length)) for start in range(0, length, rows)]


def _scaled_bmm(a: Tensor, b: Tensor, scale: float) -> Tensor:
    return torch.baddbmm(a.new_empty(()), a, b, beta=0, alpha=scale)  # the first is not read


def _dropped(weights: Tensor, kept: Tensor | None, dropout: float) -> Tensor:
    return weights if kept is None else (weights * kept).mul_(1 / (1 - dropout))
