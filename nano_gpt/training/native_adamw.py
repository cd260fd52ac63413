"""AdamW and the norm of the gradients on a CPU, each one call of C for all weights (model/native/optimizer.c).

torch's fused step is as fast for large tensors. Small models have many small ones, and a look at each takes longer than
its numbers: norm and step took 2.0 of the 14 ms that a step of 4 layers of 128 took, and take 1.3 here (two cores of a
Xeon of 2023, torch 2.13).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from nano_gpt.model.native.library import library
from nano_gpt.training.dtensor import local


class _Settings(ctypes.Structure):
    """As in optimizer.c."""

    _fields_ = tuple((name, ctypes.c_double) for name in ("lr", "beta1", "beta2", "eps", "weight_decay"))


def native_norm(tensors: Sequence[Tensor]) -> Tensor | None:
    """The L2 norm of all of them together, or None where C cannot be had for them."""
    native = library() if all(_fits(tensor) for tensor in tensors) else None
    if native is None:
        return None
    native.sum_of_squares.restype = ctypes.c_double
    squares = native.sum_of_squares(_pointers(tensors), _sizes(tensors), _count(tensors), torch.get_num_threads())
    return torch.tensor(squares, dtype=torch.float64).sqrt().float()


def can_step_natively(parameters: Sequence[Tensor]) -> bool:
    return all(_fits(local(parameter)) for parameter in parameters) and library() is not None


class NativeAdamW(AdamW):
    """Its state is torch's, and so are its steps, up to rounding. With a `found_inf` of 1.0 a step changes nothing."""

    found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        if self.found_inf is not None and self.found_inf:
            return
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            states = [self._state_of(parameter) for parameter in trained]
            if trained:
                _step(group, trained, states)

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state


def _step(group: dict[str, Any], parameters: Sequence[Tensor], states: Sequence[dict[str, Tensor]]) -> None:
    native = library()
    assert native is not None
    steps = [state["step"] for state in states]
    torch._foreach_add_(steps, 1)
    means, squares = ([local(state[name]) for state in states] for name in ("exp_avg", "exp_avg_sq"))
    weights, grads = (
        [local(p) for p in parameters],
        [local(p.grad).contiguous() for p in parameters if p.grad is not None],
    )
    native.adamw_step.restype = None
    native.adamw_step(
        ctypes.byref(_Settings(group["lr"], *group["betas"], group["eps"], group["weight_decay"])),
        *(_pointers(tensors) for tensors in (weights, grads, means, squares)),
        (ctypes.c_float * len(steps))(*map(float, steps)),
        _sizes(weights),
        _count(weights),
        torch.get_num_threads(),
    )


def _fits(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.is_contiguous()


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _sizes(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_long]:
    return (ctypes.c_long * len(tensors))(*(tensor.numel() for tensor in tensors))


def _count(tensors: Sequence[Tensor]) -> ctypes.c_long:
    return ctypes.c_long(len(tensors))
