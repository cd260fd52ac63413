"""Loss scaling for fp16, whose gradients would vanish below 6e-8 (Micikevicius et al. 2018, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_GROW_AFTER = 2000  # steps without an overflow


class LossScale:
    """A factor on the device: halved after a step that overflowed, doubled after 2,000 that did not.

    torch's GradScaler does the same, but asks the host before every step whether to make it; here the step is skipped
    on the device (training/guard.py).
    """

    def __init__(self, device: torch.device, initial: float = 2.0**16) -> None:
        self._scale = torch.full((), initial, device=device)
        self._without_overflow = torch.zeros((), device=device)

    def apply(self, loss: Tensor) -> Tensor:
        return loss * self._scale

    def remove(self, gradients: Iterable[Tensor]) -> None:
        """Divide them, in place."""
        torch._foreach_div_(list(gradients), self._scale)

    def update(self, skipped: Tensor) -> None:
        """`skipped` is 1.0 after a step that was not applied."""
        self._without_overflow = (self._without_overflow + 1) * (1 - skipped)
        grown = (self._without_overflow >= _GROW_AFTER).float()
        self._without_overflow *= 1 - grown
        self._scale *= 1 + grown - 0.5 * skipped

    def state_dict(self) -> dict[str, float]:
        return {"scale": float(self._scale), "without_overflow": float(self._without_overflow)}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        self._scale.fill_(values["scale"])
        self._without_overflow.fill_(values["without_overflow"])


class NoScale:
    """For types with the exponents of fp32."""

    def apply(self, loss: Tensor) -> Tensor:
        return loss

    def remove(self, gradients: Iterable[Tensor]) -> None: ...

    def update(self, skipped: Tensor) -> None: ...

    def state_dict(self) -> dict[str, float]:
        return {}

    def load_state_dict(self, values: dict[str, Any]) -> None: ...
