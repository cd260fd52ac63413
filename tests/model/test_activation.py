"""The chunked GELU of bf16 training against the formula in double precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nano_gpt.model import activation
from nano_gpt.model.activation import tanh_gelu


def exact(x: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    double = x.detach().double().requires_grad_()
    y = F.gelu(double, approximate="tanh")
    y.backward(upstream.double())
    assert double.grad is not None
    return y.detach(), double.grad


@pytest.mark.parametrize("chunk", [7, 1000, 2**18])
def test_value_and_gradient_are_those_of_the_formula(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """All bf16 numbers between -12 and 12, in pieces with a rest: each rounded once (2**-9), the gradient once more."""
    monkeypatch.setattr(activation, "_CHUNK", chunk)
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    x = every[every.abs() < 12].requires_grad_()
    upstream = torch.linspace(0.5, 2.0, len(x), dtype=torch.bfloat16)
    expected_y, expected_grad = exact(x, upstream)
    y = tanh_gelu(x)
    y.backward(upstream)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), expected_y, rtol=2**-8, atol=1e-6)
    torch.testing.assert_close(x.grad.double(), expected_grad, rtol=2**-7, atol=1e-6)


def test_far_out_it_is_the_identity_or_nothing() -> None:
    x = torch.tensor([-3e38, -100.0, -0.0, 0.0, 100.0, 3e38], dtype=torch.bfloat16, requires_grad=True)
    y = tanh_gelu(x)
    assert torch.equal(y, F.gelu(x.detach(), approximate="tanh"))


def test_any_layout() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 5, dtype=torch.bfloat16).t().requires_grad_()
    y = tanh_gelu(x)
    expected, gradient = exact(x, torch.ones(5, 6))
    y.backward(torch.ones(5, 6, dtype=torch.bfloat16))
    torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=1e-6)
    torch.testing.assert_close(x.grad.double(), gradient, rtol=2**-7, atol=1e-6)


def test_a_second_backward_pass_is_refused_not_wrong() -> None:
    """The first one writes over what was kept."""
    x = torch.randn(4, dtype=torch.bfloat16, requires_grad=True)
    y = tanh_gelu(x).sum()
    y.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_other_work_is_left_to_pytorch() -> None:
    torch.manual_seed(0)
    for x in (torch.randn(9, requires_grad=True), torch.randn(9, dtype=torch.bfloat16)):
        assert torch.equal(tanh_gelu(x), F.gelu(x, approximate="tanh"))
