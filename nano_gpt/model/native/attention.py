"""Attention of one new token in C (attention.c), where it can be compiled; cache.py has what else there is."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from nano_gpt.model.native.library import library


class _Layer(ctypes.Structure):
    """As in native.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("keys", "values", "scores")),
        *((name, ctypes.c_long) for name in ("rows", "heads", "places", "size")),
    )


class NativeAttention:
    """For a cache of keys and values, two tensors of (n_layer, B, nh, S, hs). A row depends on no other."""

    def __init__(self, attend: ctypes._NamedFuncPointer, keys: Tensor, values: Tensor) -> None:
        assert keys.is_contiguous() and values.is_contiguous() and keys.dtype == values.dtype == torch.float32
        self._attend = attend
        self._attend.argtypes = (ctypes.c_void_p,) * 6 + (ctypes.c_long,) * 3 + (ctypes.c_int,)
        self._attend.restype = None
        self._shape = (keys.size(1), keys.size(2), 1, keys.size(4))
        self._scores = torch.empty(keys.shape[1:4])  # room to work in, for one layer after the other
        self._tensors = (keys, values)  # what the layers point to
        self.layers = [
            _Layer(k.data_ptr(), v.data_ptr(), self._scores.data_ptr(), *keys.shape[1:])
            for k, v in zip(keys, values, strict=True)
        ]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, places: Tensor) -> Tensor:
        """(B, nh, 1, hs) q, k, v -> (B, nh, 1, hs). k and v are kept at (B,) places, and q looks at all up to there."""
        assert q.stride(1) == k.stride(1) == v.stride(1) == q.size(3)
        y = torch.empty(self._shape)
        pointers = (y.data_ptr(), q.data_ptr(), k.data_ptr(), v.data_ptr(), places.data_ptr())
        rows = (q.stride(0), k.stride(0), v.stride(0))
        self._attend(ctypes.byref(self.layers[layer]), *pointers, *rows, torch.get_num_threads())
        return y


def native_attention(keys: Tensor, values: Tensor) -> NativeAttention | None:
    """None without a compiler, and for what is not fp32 on a CPU."""
    if keys.device.type != "cpu" or keys.dtype != torch.float32:
        return None
    native = library()
    return None if native is None else NativeAttention(native.attend, keys, values)
