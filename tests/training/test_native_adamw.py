"""AdamW and the norm in C against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from nano_gpt.model.native.library import library
from nano_gpt.training.native_adamw import NativeAdamW, can_step_natively, native_norm
from nano_gpt.training.optim import step_unless

SHAPES = ((300, 41), (5,), (1, 1), (64, 129))
SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8}

pytestmark = [
    pytest.mark.skipif(library() is None, reason="nothing can be compiled here"),
    pytest.mark.usefixtures("threads"),
]


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def groups(weights: list[nn.Parameter]) -> list[dict[str, object]]:
    return [{"params": weights[::2], "weight_decay": 0.1}, {"params": weights[1::2], "weight_decay": 0.0}]


def draw_gradients(step: int, *sets: list[nn.Parameter]) -> None:
    generator = torch.Generator().manual_seed(step)
    for weights in zip(*sets, strict=True):
        gradient = torch.randn(weights[0].shape, generator=generator)
        for weight in weights:
            weight.grad = gradient.to(weight.dtype)


def furthest(found: list[nn.Parameter], expected: list[nn.Parameter]) -> float:
    return max(float((a.detach() - b.detach()).abs().max()) for a, b in zip(found, expected, strict=True))


def test_steps_are_those_of_double_precision() -> None:
    ours, theirs, exact = parameters(), parameters(), parameters(torch.float64)
    optimizers = [
        NativeAdamW(groups(ours), **SETTINGS),
        AdamW(groups(theirs), **SETTINGS, fused=True),
        AdamW(groups(exact), **SETTINGS),
    ]
    for step in range(30):
        draw_gradients(step, ours, theirs, exact)
        for optimizer in optimizers:
            optimizer.step()
    assert furthest(ours, exact) < 1.5 * furthest(theirs, exact)


def test_its_state_is_torchs() -> None:
    ours, theirs = parameters(), parameters()
    native, fused = NativeAdamW(groups(ours), **SETTINGS), AdamW(groups(theirs), **SETTINGS, fused=True)
    for step in range(3):
        draw_gradients(step, ours, theirs)
        native.step()
        fused.step()
    fused.load_state_dict(native.state_dict())
    for mine, their in zip(native.state.values(), fused.state.values(), strict=True):
        assert mine.keys() == their.keys()
        assert all(torch.equal(mine[name], their[name]) for name in mine)


def test_a_step_that_is_skipped_changes_nothing() -> None:
    weights = parameters()
    optimizer = NativeAdamW(groups(weights), **SETTINGS)
    draw_gradients(0, weights)
    optimizer.step()
    kept = [[*map(Tensor.clone, (weight.detach(), *optimizer.state[weight].values()))] for weight in weights]
    draw_gradients(1, weights)
    step_unless(optimizer, torch.tensor(1.0))
    for weight, before in zip(weights, kept, strict=True):
        after = [weight.detach(), *optimizer.state[weight].values()]
        assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    step_unless(optimizer, torch.tensor(0.0))
    assert float(optimizer.state[weights[0]]["step"]) == 2.0


def test_what_has_no_gradient_stays() -> None:
    weights = parameters()
    optimizer = NativeAdamW(groups(weights), **SETTINGS)
    draw_gradients(0, weights)
    weights[0].grad = None
    before = weights[0].detach().clone()
    optimizer.step()
    assert torch.equal(weights[0], before) and not optimizer.state[weights[0]]
    assert float(optimizer.state[weights[2]]["step"]) == 1.0


def test_the_norm() -> None:
    tensors = [torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in (*SHAPES, (100_000,))]
    found = native_norm(tensors)
    assert found is not None and found.dtype == torch.float32
    assert float(found) == pytest.approx(float(torch.cat([t.double().flatten() for t in tensors]).norm()), rel=1e-6)
    tensors[1][2] = float("nan")
    assert torch.isnan(native_norm(tensors))  # type: ignore[arg-type]
    tensors[1][2] = float("inf")
    assert torch.isinf(native_norm(tensors))  # type: ignore[arg-type]
    assert native_norm([]) == 0.0


def test_what_c_cannot_have_is_left_to_torch() -> None:
    assert native_norm([torch.randn(4, 4).T]) is None
    assert native_norm([torch.randn(4, dtype=torch.float64)]) is None
    assert not can_step_natively([torch.randn(4).bfloat16()])
    assert can_step_natively([torch.randn(4)])
