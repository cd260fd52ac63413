"""The loss whose gradient takes the place of the logits, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nano_gpt.model import loss as loss_module
from nano_gpt.model.loss import IGNORED_TARGET, summed_cross_entropy

V, PADDED = 37, 64


def case(rows: int = 11, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    targets = torch.randint(V, (rows,))
    targets[[2, rows - 1]] = IGNORED_TARGET
    return torch.randn(rows, 5), torch.randn(PADDED, 5) * scale, targets


@pytest.mark.parametrize("chunk", [1, 3 * V, 2**19])
def test_loss_and_gradients_are_those_of_pytorch(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(loss_module, "_CHUNK", chunk)
    x, weight, targets = case()
    found = []
    for own in (True, False):
        inputs = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        logits = F.linear(*inputs)
        value = (
            summed_cross_entropy(logits, targets, V)
            if own
            else F.cross_entropy(logits[:, :V], targets, ignore_index=IGNORED_TARGET, reduction="sum")
        )
        (value * 0.25).backward()
        found.append([value.detach(), *(tensor.grad for tensor in inputs)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not found[0][2][V:].any()  # padding rows of the embedding never move


def test_bf16_logits_give_an_fp32_loss() -> None:
    x, weight, targets = case(rows=300)
    logits = F.linear(x, weight).bfloat16()
    expected = F.cross_entropy(logits[:, :V].float(), targets, ignore_index=IGNORED_TARGET, reduction="sum")
    loss = summed_cross_entropy(logits.requires_grad_().clone(), targets, V)
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-6)


def test_logits_of_any_size() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], requires_grad=True)
    loss = summed_cross_entropy(logits.clone(), torch.tensor([1, 2]), 3)
    assert float(loss.detach()) == pytest.approx(2e4 + 1.0986, rel=1e-6)
    loss.backward()
    expected = torch.tensor([[1.0, -1.0, 0.0], [1 / 3, 1 / 3, -2 / 3]])
    torch.testing.assert_close(logits.grad, expected)


def test_no_target_no_loss() -> None:
    logits = torch.randn(4, PADDED, requires_grad=True)
    loss = summed_cross_entropy(logits.clone(), torch.full((4,), IGNORED_TARGET), V)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not logits.grad.any()


def test_fp16_keeps_its_small_gradients_for_the_loss_scale() -> None:
    """Written over fp16 logits, a chance of 1e-9 would be 0 before the factor of 2**20 makes it 1e-3."""
    logits = torch.tensor([[0.0, 20.7]], dtype=torch.float16, requires_grad=True)
    (summed_cross_entropy(logits * 1, torch.tensor([1]), 2) * 2**20).backward()
    assert float(logits.grad[0, 0]) == pytest.approx(1e-9 * 2**20, rel=0.1)


def test_what_is_not_trained_keeps_its_logits() -> None:
    x, weight, targets = case()
    logits = F.linear(x, weight)
    before = logits.clone()
    summed_cross_entropy(logits, targets, V)
    assert torch.equal(logits, before)
