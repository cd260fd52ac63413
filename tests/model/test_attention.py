"""The plain products of CPU training against the fused kernel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nano_gpt.model.attention import causal_attention


@pytest.mark.parametrize("shape", [(2, 3, 9, 8), (1, 1, 1, 4), (3, 2, 64, 16)])
def test_training_path_equals_the_fused_kernel(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    q, k, v, upstream = torch.randn(4, *shape)
    gradients = []
    for function in (
        lambda q, k, v: causal_attention(q, k, v),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    ):
        inputs = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
        output = function(*inputs)
        output.backward(upstream)
        gradients.append([output, *(tensor.grad for tensor in inputs)])
    for plain, fused in zip(*gradients, strict=True):
        assert torch.allclose(plain, fused, atol=1e-5)


def test_dropout_drops_weights_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 8, 4, 32, 16).unbind()
    v = torch.ones(8, 4, 32, 16)
    output = causal_attention(q.requires_grad_(), k, v, dropout=0.5).detach()
    assert float(output.std()) > 0.1
    assert float(output.mean()) == pytest.approx(1.0, abs=0.05)


def test_one_new_token_sees_the_whole_cache() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 6, 8)
    assert torch.allclose(causal_attention(q, k, v)[:, :, -1:], causal_attention(q[:, :, -1:], k, v), atol=1e-6)
