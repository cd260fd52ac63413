"""The C that trains in bf16 on a CPU, called with tensors (products.c, causal.c, training.c).

Tokens are rows, of all windows together: R = B * T. The residual stream x and weights are fp32; what a product of rows
reads or gives is bf16.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nano_gpt.model.loss import IGNORED_TARGET
from nano_gpt.model.native.library import library

SIDE = 32
"""Rows, widths and heads are whole numbers of this: what is multiplied at a time."""

Into = Tensor | None
"""Where a sum over rows goes; None: nobody wants it."""

_TYPES = {"p": ctypes.c_void_p, "f": ctypes.c_float, "l": ctypes.c_long, "i": ctypes.c_int}
_ARGUMENTS = {  # pointers, numbers, and the number of threads
    "norm_forward": "ppppp" + "fll" + "i",
    "norm_backward": "pppppppppp" + "ll" + "i",
    "sum_rows": "pppp" + "ll" + "i",
    "linear_forward": "ppppp" + "lll" + "i",
    "linear_forward_add": "ppppp" + "lll" + "i",
    "linear_backward": "ppp" + "lll" + "i",
    "gelu_linear_backward": "pppppp" + "lll" + "i",
    "token_scores": "pppppp" + "llll" + "i",
    "weight_gradient": "ppp" + "lll" + "i",
    "cross_entropy": "ppp" + "llll" + "i",
    "causal_forward": "ppppp" + "llll" + "i",
    "causal_backward": "ppppp" + "llll" + "i",
}
_KNOWN = {Tensor, nn.Parameter, int, float, bool, type(None)}


def _call(name: str, *arguments: Tensor | float | None) -> None:
    if not _KNOWN.issuperset(map(type, arguments)):
        _check_that_fake(arguments)
        return
    native = library()
    assert native is not None
    values = [_value(argument) for argument in arguments]
    if _functions(native)[name](*values, torch.get_num_threads()):
        raise MemoryError(f"no memory for {name}")


def _check_that_fake(arguments: Sequence[object]) -> None:
    """They have shapes and no memory: training/memory.py asks what a step would keep."""
    from torch._subclasses.fake_tensor import FakeTensor  # loaded by who asks

    strange = {type(argument) for argument in arguments} - _KNOWN - {FakeTensor}
    assert not strange, f"C knows no {strange}"


def _value(argument: Tensor | float | None) -> float | None:
    if not isinstance(argument, Tensor):
        return argument
    assert argument.is_contiguous()
    return argument.data_ptr()


@functools.cache
def _functions(native: ctypes.CDLL) -> dict[str, ctypes._NamedFuncPointer]:
    functions = {name: getattr(native, name) for name in _ARGUMENTS}
    for name, function in functions.items():
        function.argtypes = [_TYPES[kind] for kind in _ARGUMENTS[name]]
    return functions


def can_train() -> bool:
    """Whether there is a compiler, and a CPU that multiplies in bf16."""
    native = library()
    return native is not None and hasattr(native, "causal_forward")


def _check(x: Tensor, weight: Tensor) -> None:
    """(R, in) and (out, in), for C looks at memory only."""
    assert x.size(1) == weight.size(1), (x.shape, weight.shape)
    assert not any(size % SIDE for size in (*x.shape, *weight.shape)), (x.shape, weight.shape)


def norm(x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float) -> tuple[Tensor, Tensor]:
    """LayerNorm of (R, C) -> (R, C) in bf16, and the moments of every row, which the gradient needs."""
    y, moments = torch.empty_like(x, dtype=torch.bfloat16), torch.empty(len(x), 2)
    _call("norm_forward", y, moments, x, weight, bias, epsilon, *x.shape)
    return y, moments


def norm_backward(
    into: tuple[Into, Into, Into], x: Tensor, moments: Tensor, weight: Tensor, grad_y: Tensor, passed: Tensor
) -> tuple[Tensor, Tensor]:
    """-> `passed` and what comes through the norm, and the same in bf16.

    Into: gradients of weight and bias, and the sum of the result over all rows.
    """
    grad, rounded = torch.empty_like(x), torch.empty_like(grad_y)
    to_weight, to_bias, sums = into
    _call("norm_backward", grad, rounded, sums, to_weight, to_bias, x, moments, weight, grad_y, passed, *x.shape)
    return grad, rounded


def round_and_sum(into: Into, x: Tensor) -> Tensor:
    """(R, C) -> the same in bf16. Into: (C,) the sum over all rows."""
    y = torch.empty_like(x, dtype=torch.bfloat16)
    _call("sum_rows", into, y, x, None, *x.shape)
    return y


def sum_rows(into: Into, x: Tensor) -> None:
    """Into: (C,) the sum over all rows of (R, C) in bf16."""
    _call("sum_rows", into, None, None, x, *x.shape)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(R, in) -> (R, out), by a weight (out, in) in fp32, which is rounded to bf16 on the way."""
    _check(x, weight)
    y = x.new_empty(len(x), len(weight))
    _call("linear_forward", y, None, x, weight, bias, len(x), *weight.shape)
    return y


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same, and its GELU."""
    _check(x, weight)
    y, activated = x.new_empty(len(x), len(weight)), x.new_empty(len(x), len(weight))
    _call("linear_forward", y, activated, x, weight, bias, len(x), *weight.shape)
    return y, activated


def gelu_of_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Its GELU alone."""
    _check(x, weight)
    activated = x.new_empty(len(x), len(weight))
    _call("linear_forward", None, activated, x, weight, bias, len(x), *weight.shape)
    return activated


def linear_add(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same, added to a residual in fp32, (R, out) or with R in two dimensions, as which it comes back."""
    _check(x, weight)
    y = torch.empty_like(residual)
    _call("linear_forward_add", y, residual, x, weight, bias, len(x), *weight.shape)
    return y


def linear_backward(grad: Tensor, weight: Tensor) -> Tensor:
    """(R, out) -> (R, in): the gradient of what a weight (out, in) in fp32 multiplied."""
    _check(grad, weight.t())
    y = grad.new_empty(len(grad), weight.size(1))
    _call("linear_backward", y, grad, weight, len(grad), *weight.shape)
    return y


def gelu_linear_backward(into: Into, grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of x where gelu(x) was multiplied, and that again. Into: the sum of the gradient over all rows."""
    _check(grad, weight.t())
    y, activated = torch.empty_like(x), torch.empty_like(x)
    _call("gelu_linear_backward", y, activated, into, grad, x, weight, len(grad), *weight.shape)
    return y, activated


def weight_gradient(into: Into, grad: Tensor, x: Tensor) -> None:
    """Into: (out, in) in fp32, grad^T x of (R, out) and (R, in)."""
    if into is not None:
        _check(grad, into.t())
        _call("weight_gradient", into, grad, x, len(x), *into.shape)


def cross_entropy(logits: Tensor, targets: Tensor, vocab_size: int) -> Tensor:
    """(R, V or more) and (R,) -> (R,) losses in nats over the first V; the gradient takes the place of the logits."""
    losses = torch.empty(len(logits))
    _call(
        "cross_entropy", losses, logits, targets.contiguous(), IGNORED_TARGET, len(logits), vocab_size, logits.size(1)
    )
    return losses


def token_scores(x: Tensor, weight: Tensor, targets: Tensor, firsts: Tensor, vocab_size: int) -> tuple[Tensor, Tensor]:
    """(R, C) that the head reads, its weight (V or more, C), (N,) targets and (R + 1,) which is the first of each row
    -> (N,) their log-probabilities in nats, over the first V, and (N,) whether none is likelier."""
    _check(x, weight)
    assert targets.dtype == firsts.dtype == torch.int64 and len(firsts) == len(x) + 1
    log_chances, likeliest = torch.empty(len(targets)), torch.empty(len(targets), dtype=torch.bool)
    _call("token_scores", log_chances, likeliest, x, weight, targets, firsts, vocab_size, len(x), *weight.shape)
    return log_chances, likeliest


def attend(qkv: Tensor, length: int, n_head: int) -> tuple[Tensor, Tensor]:
    """(R, 3C), windows of `length` -> (R, C), and (nh, R) logarithms of what chances were divided by, by windows."""
    y, log_sums = qkv.new_empty(len(qkv), qkv.size(1) // 3), torch.empty(n_head, len(qkv))
    _call("causal_forward", y, log_sums, qkv, None, None, *_windows(qkv, length, n_head))
    return y, log_sums


def attend_texts(qkv: Tensor, starts: Tensor, longest: int, n_head: int, ends: Tensor | None) -> Tensor:
    """(R, 3C) -> (R, C), of texts of any length, one behind the other, and then 31 rows or more that belong to none.

    (texts + 1,) starts: the first row of each, and the one behind all. (R,) ends, int32: of a tree's tokens, as
    attention.tree_mask has them.
    """
    assert starts.dtype == torch.int64 and (ends is None or ends.dtype == torch.int32)
    y = qkv.new_zeros(len(qkv), qkv.size(1) // 3)
    size = qkv.size(1) // 3 // n_head
    _call("causal_forward", y, None, qkv, ends, starts, len(starts) - 1, longest, n_head, size)
    return y


def attend_backward(qkv: Tensor, y: Tensor, grad: Tensor, log_sums: Tensor, length: int, n_head: int) -> Tensor:
    """The gradient of qkv."""
    to_qkv = torch.empty_like(qkv)
    _call("causal_backward", to_qkv, qkv, y, grad, log_sums, *_windows(qkv, length, n_head))
    return to_qkv


def _windows(qkv: Tensor, length: int, n_head: int) -> tuple[int, int, int, int]:
    """How many, their length, heads and the size of one."""
    return len(qkv) // length, length, n_head, qkv.size(1) // 3 // n_head
