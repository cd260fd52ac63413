"""Products of a packed model in C of our own (linear.c), where it can be compiled; packed.py has what else there is.

One row or a few are multiplied as fast as memory gives the matrix, many rows as fast as oneDNN does it, and each row
becomes the same to the last bit whatever is beside it.
"""

from __future__ import annotations

import ctypes
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano_gpt.model.native.library import library

Kind = Literal["fp32", "bf16", "int8"]

_OUTPUTS = 32
_SLOT = 4  # bytes
_TYPES: dict[Kind, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


class _Matrix(ctypes.Structure):
    """As in native.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "start", "scale", "bias")),
        *((name, ctypes.c_long) for name in ("inputs", "slots", "outputs")),
    )


def native_linear(weight: Tensor, bias: Tensor | None, kind: Kind) -> nn.Module | None:
    """(..., in) -> (..., out), in the type of the inputs, by `weight` (out, in) in 32, 16 or 8 bits.

    None without a compiler.

    In bf16 inputs are rounded, too, and sums are kept in fp32. In int8 every output has its scale, and every row of
    inputs one of its own, found as it comes: the largest of it is 127.
    """
    native = library()
    return None if native is None else NativeLinear(getattr(native, f"linear_{kind}"), weight.float(), bias, kind)


class NativeLinear(nn.Module):
    """`product` and `matrix` are C's; block.py hands them on."""

    def __init__(self, product: Any, weight: Tensor, bias: Tensor | None, kind: Kind) -> None:
        super().__init__()
        self.outputs, self.inputs = weight.shape
        bias = _whole_tiles(torch.zeros(self.outputs) if bias is None else bias.float())
        scale = torch.empty(0)
        start = bias
        if kind == "int8":
            scale = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
            weight = (weight / scale.unsqueeze(1)).round()
            start = _whole_tiles(-128 * weight.sum(dim=1).to(torch.int32))  # inputs come as 1..255
            scale = _whole_tiles(scale)
        tiles = _tiles(weight.to(_TYPES[kind]))
        self._tensors = (tiles, start, scale, bias)  # what the matrix points to
        pointers = [tensor.data_ptr() or None for tensor in self._tensors]
        self.matrix = _Matrix(*pointers, self.inputs, tiles.size(1), self.outputs)
        self.product = product
        self.product.argtypes = (ctypes.c_void_p,) * 3 + (ctypes.c_long, ctypes.c_int)

    def forward(self, x: Tensor) -> Tensor:
        assert x.size(-1) == self.inputs
        read = x.float().contiguous()
        found = torch.empty(*x.shape[:-1], self.outputs)
        rows = read.numel() // self.inputs
        if self.product(ctypes.byref(self.matrix), found.data_ptr(), read.data_ptr(), rows, torch.get_num_threads()):
            raise MemoryError(f"no memory to multiply {rows} rows")
        return found.to(x.dtype)


def _whole_tiles(outputs: Tensor) -> Tensor:
    whole = outputs.new_zeros(-(-len(outputs) // _OUTPUTS) * _OUTPUTS)  # anew: C reads it in vectors, which are aligned
    whole[: len(outputs)] = outputs
    return whole


def _tiles(weight: Tensor) -> Tensor:
    """(out, in) -> (tiles, slots, 32) of 4 bytes: slot by slot a tile's outputs side by side, zeros where none is."""
    per_slot = _SLOT // weight.element_size()
    if weight.size(1) % per_slot:
        weight = F.pad(weight, (0, -weight.size(1) % per_slot))
    slots = weight.contiguous().view(torch.int32)  # (out, slots)
    whole = len(slots) // _OUTPUTS
    tiles = torch.empty(-(-len(slots) // _OUTPUTS), slots.size(1), _OUTPUTS, dtype=torch.int32)
    tiles[:whole] = slots[: whole * _OUTPUTS].view(whole, _OUTPUTS, slots.size(1)).transpose(1, 2)
    rest = slots[whole * _OUTPUTS :]
    tiles[whole:] = 0
    tiles[whole:, :, : len(rest)] = rest.T
    return tiles
