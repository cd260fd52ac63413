"""Models that have shapes and no memory: to be given weights that are there already, or to be counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_DRAWING = (nn.init.normal_, nn.init.kaiming_uniform_, nn.init.uniform_)


@contextmanager
def shapes_only() -> Iterator[None]:
    """What is built inside is on torch's "meta" device, and draws no values.

    Drawing nothing on "meta" sounds free, but a normal distribution there goes through Python, which loads torch's
    compiler for it: 1.6 s of the 3.7 that `nano-gpt sample` took to its first word.
    """
    with torch.device("meta"), _NothingDrawn():
        yield


class _NothingDrawn(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWING:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
