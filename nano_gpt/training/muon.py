"""Muon (Jordan et al. 2024): momentum, orthogonalised, for the matrices of the blocks; AdamW for everything else.

The same steps as torch.optim.Muon's up to the rounding of bf16, with what that one cannot do: matrices of one shape in
one batch of products (torch takes them one by one, and on a GPU each is too small to fill it), query, key and value of
the fused c_attn apart, weights that are split over ranks, steps that are skipped without the host waiting to know.

What it costs: 1.6e12 operations a step for 124M, whatever its batch, which is little beside half a million tokens, and
much beside a few thousand. CPU time of one thread (Zen 5, bf16, torch 2.13):

                                 10.8M (6 x 384)    124M
    AdamW, all parameters              9 ms           88 ms
    Muon, with AdamW's share         595 ms        8,711 ms
    forward, backward of 1,024       486 ms        7,137 ms
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from nano_gpt.training.dtensor import gathered, local, placed_like

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's quintic: steepest at zero, singular values end in 0.7 .. 1.2
_ITERATIONS = 5
_UPDATE_RMS = 0.2  # what AdamW's steps have, in units of the learning rate (Moonlight, Liu et al. 2025, section 2.2)


class Muon(Optimizer):
    """One optimizer over both: `param_groups` and `state` hold Muon's and AdamW's alike.

    With a tensor `found_inf` of 1.0 (see `optim.step_unless`) a step changes nothing.
    """

    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None

    def __init__(
        self, matrices: dict[str, nn.Parameter], adamw: AdamW, *, lr: float, weight_decay: float, momentum: float
    ) -> None:
        """`matrices` by their names in the model; `adamw` has all other parameters."""
        batches: dict[tuple[torch.Size, int], list[nn.Parameter]] = {}
        for name, matrix in matrices.items():
            # Query, key and value are three maps that share one weight (3C, C).
            parts = 3 if name.endswith("c_attn.weight") else 1
            batches.setdefault((matrix.shape, parts), []).append(matrix)
        groups = [{"params": batch, "parts": parts} for (_, parts), batch in batches.items()]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self._matrix_groups = list(self.param_groups)
        self._adamw = adamw
        self.param_groups += adamw.param_groups  # the same dicts: a new learning rate reaches both
        adamw.state = self.state

    def orthogonalises(self, parameter: nn.Parameter) -> bool:
        return any(parameter is matrix for group in self._matrix_groups for matrix in group["params"])

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self._matrix_groups:
            self._step_matrices(group)
        self._adamw.found_inf, self._adamw.grad_scale = self.found_inf, None  # type: ignore[attr-defined]
        self._adamw.step()

    def _step_matrices(self, group: dict[str, Any]) -> None:
        matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
        if not matrices:
            return
        lr, parts = group["lr"], group["parts"]
        # Every rank orthogonalises every matrix; where they are split it gathers them first, in bf16 (170 MB a step for
        # 124M). So a rank's time for this does not fall with their number. Each could do its share of the matrices and
        # hand the results round: worth it once this shows beside the rest of a step.
        ahead = torch.stack([gathered(self._look_ahead(matrix, group["momentum"]), matrix) for matrix in matrices])
        directions = orthogonalised(ahead.reshape(len(matrices) * parts, -1, ahead.size(2)))
        size = lr * (_UPDATE_RMS * math.sqrt(max(directions.shape[1:])))
        for matrix, direction in zip(matrices, directions.reshape(ahead.shape), strict=True):
            weight = local(matrix)
            moved = (weight * (1 - lr * group["weight_decay"])).add_(local(placed_like(direction, matrix)), alpha=-size)
            self._assign(weight, moved)

    def _look_ahead(self, matrix: nn.Parameter, decay: float) -> Tensor:
        """Nesterov's: this rank's part of what the momentum will be if the gradient stays, in bf16."""
        assert matrix.grad is not None
        if not self.state[matrix]:
            self.state[matrix]["momentum"] = torch.zeros_like(matrix)
        momentum, gradient = local(self.state[matrix]["momentum"]), local(matrix.grad)
        moved = momentum.lerp(gradient, 1 - decay)
        self._assign(momentum, moved)
        return gradient.lerp(moved, decay).bfloat16()

    def _assign(self, old: Tensor, new: Tensor) -> None:
        """In place, unless the step is to be skipped: a choice of the device, the host does not wait for it."""
        if self.found_inf is None:
            old.copy_(new)
        else:
            torch.where(self.found_inf.bool(), old, new, out=old)


def orthogonalised(matrices: Tensor) -> Tensor:
    """(n, rows, columns) -> about U V^T of each one's singular value decomposition U S V^T, in bf16.

    Newton-Schulz iteration with products only: https://kellerjordan.github.io/posts/muon/
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.size(1) > matrices.size(2)
    x = matrices.bfloat16()
    x = x.mT if tall else x  # the Gram matrix below is the smaller one
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # no singular value above 1
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
