"""The plain products of CPU training against the fused kernel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nano_gpt.model.attention import causal_attention, document_mask


@pytest.mark.parametrize(
    "shape",
    [(2, 3, 9, 8), (1, 1, 1, 4), (3, 2, 64, 16), (1, 2, 128, 4), (2, 1, 300, 8), (1, 1, 601, 4)],  # 1, 3 and 4 blocks
)
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


def test_gradient_with_dropout_is_that_of_the_weights_that_were_kept() -> None:
    """The loss is linear in v; for q and k a small step along the gradient is made with the same weights dropped."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        torch.manual_seed(7)
        return causal_attention(q, k, v, dropout=0.4)

    torch.manual_seed(0)
    inputs = [tensor.requires_grad_() for tensor in torch.randn(3, 1, 2, 140, 6, dtype=torch.float64).unbind()]
    upstream = torch.randn(1, 2, 140, 6, dtype=torch.float64)
    assert torch.equal(attend(*inputs), attend(*inputs))
    (attend(*inputs) * upstream).sum().backward()
    for index, tensor in enumerate(inputs):
        assert tensor.grad is not None
        ends = []
        for sign in (1, -1):
            moved = [t.detach().clone() for t in inputs]
            moved[index] += sign * 1e-6 * tensor.grad
            ends.append((attend(*[t.requires_grad_() for t in moved]) * upstream).sum().item())
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(tensor.grad.square().sum().item(), rel=1e-5)


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


@pytest.mark.parametrize("length", [16, 300])
def test_documents_do_not_see_each_other(length: int) -> None:
    """What the training path and the fused kernel give for two documents in a row is what each gives alone."""
    torch.manual_seed(0)
    cut = length // 3
    q, k, v = (torch.randn(2, 2, length, 8, requires_grad=True) for _ in range(3))
    documents = (torch.arange(length) >= cut).long().repeat(2, 1)
    mask = document_mask(documents)
    training = causal_attention(q, k, v, mask=mask)
    with torch.no_grad():
        fused = causal_attention(q, k, v, mask=mask)
    alone = torch.cat(
        [
            torch.nn.functional.scaled_dot_product_attention(
                *(x[:, :, part] for x in (q, k, v)), is_causal=True
            )
            for part in (slice(0, cut), slice(cut, length))
        ],
        dim=2,
    )  # fmt: skip
    assert torch.allclose(training, alone, atol=1e-5) and torch.allclose(fused, alone, atol=1e-5)
    weight = torch.randn_like(alone)
    expected = torch.autograd.grad((alone * weight).sum(), (q, k, v))
    found = torch.autograd.grad((training * weight).sum(), (q, k, v))
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(expected, found, strict=True))
    one_document = causal_attention(q, k, v, mask=document_mask(torch.zeros(2, length, dtype=torch.int64)))
    assert torch.allclose(one_document, causal_attention(q, k, v), atol=1e-6)
