"""A block of GPT-2 in one call of C (block.c) for one new token of every row.

Op by op, what is between the products takes as long as they do in 8 bits: 0.13 of 0.5 ms (124M, one Zen 4 core).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nano_gpt.model.activation import ACTIVATIONS
from nano_gpt.model.cache import KVCache
from nano_gpt.model.gpt import Block
from nano_gpt.model.native.library import library
from nano_gpt.model.native.linear import NativeLinear

_POINTERS = (
    *("product", "c_attn", "attn_proj", "c_fc", "mlp_proj"),
    *("ln_1_weight", "ln_1_bias", "ln_2_weight", "ln_2_bias"),
)


class _Block(ctypes.Structure):
    """As in block.c."""

    _fields_ = (*((name, ctypes.c_void_p) for name in _POINTERS), ("epsilon", ctypes.c_float))


class NativeBlock(Block):
    """A block with packed products. It reads a prompt as any other, and one new token of every row in C."""

    def __init__(
        self,
        block: Block,
        step: ctypes._NamedFuncPointer,
        linears: Sequence[NativeLinear],
        norms: Sequence[nn.LayerNorm],
    ) -> None:
        nn.Module.__init__(self)
        self.ln_1, self.attn, self.ln_2, self.mlp = block.ln_1, block.attn, block.ln_2, block.mlp
        self._step = step
        self._step.argtypes = (ctypes.c_void_p,) * 6 + (ctypes.c_int,)
        self._block = _Block(
            ctypes.cast(linears[0].product, ctypes.c_void_p),
            *(ctypes.addressof(linear.matrix) for linear in linears),
            *(None if tensor is None else tensor.data_ptr() for norm in norms for tensor in (norm.weight, norm.bias)),
            norms[0].eps,
        )
        C = linears[0].inputs
        self._room = 3 * C + max(linear.outputs for linear in linears)

    def forward(
        self,
        x: Tensor,
        cache: KVCache | None,
        layer: int,
        mask: Tensor | None = None,
        rotary: Tensor | None = None,
    ) -> Tensor:
        if cache is None or cache.native is None or cache.places is None or rotary is not None:
            return super().forward(x, cache, layer, mask, rotary)
        x = x.contiguous()  # (B, 1, C)
        y, room = torch.empty_like(x), torch.empty(len(x), self._room)
        structures = (ctypes.byref(self._block), ctypes.byref(cache.native.layers[layer]))
        pointers = (y.data_ptr(), x.data_ptr(), cache.places.data_ptr(), room.data_ptr())
        if self._step(*structures, *pointers, torch.get_num_threads()):
            raise MemoryError(f"no memory for a new token of {len(x)} rows")
        return y


def native_block(block: nn.Module) -> NativeBlock | None:
    """None without a compiler, and for what is not as in GPT-2: norms, activation, fp32 between packed products."""
    assert isinstance(block, Block)
    products = (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
    linears = [linear for linear in products if isinstance(linear, NativeLinear)]
    norms = [norm for norm in (block.ln_1, block.ln_2) if isinstance(norm, nn.LayerNorm)]
    own = len(norms) == 2 and norms[0].weight.dtype == torch.float32 and block.mlp.activation is ACTIVATIONS["gelu"]
    native = library()
    if native is None or not own or len(linears) < len(products):
        return None
    return NativeBlock(block, native.block, linears, norms)
