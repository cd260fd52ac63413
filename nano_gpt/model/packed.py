"""A copy of a model for inference: the same forward, its matrices laid out once for the products of this machine.

    fast = pack(model)                             # the same numbers, up to rounding
    fast = pack(model, torch.bfloat16)             # half the memory to read for a token, but for the head
    fast = pack(model, quantize="int8")            # a quarter

On a CPU one token is bound by the reading of the weights. Where it can be compiled, C of our own (native) reads them as
fast as memory gives them. Elsewhere oneDNN's products come nearer to that than torch's own, on weights that it has put
into its own order, and best with four rows or more: 154 MB of weights are read with 22 GB/s by four rows and with 17 by
one (fp32, one Zen 4 core; 33 is what reading alone does). Either way sums over a row are the same to the last bit
however many rows there are, so that a sequence does not depend on the batch it is in. oneDNN's are so from four rows
on, and rows that are missing are filled in.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano_gpt.errors import ConfigError
from nano_gpt.model.gpt import GPT
from nano_gpt.model.lora import AdaptedLinear
from nano_gpt.model.native.block import native_block
from nano_gpt.model.native.linear import Kind, native_linear

Quantization = Literal["int8"]

_FEWEST_ROWS = 4
_KINDS: dict[torch.dtype, Kind] = {torch.float32: "fp32", torch.bfloat16: "bf16"}


def pack(
    model: GPT,
    dtype: torch.dtype = torch.float32,
    *,
    quantize: Quantization | None = None,
    head: Tensor | None = None,
) -> GPT:
    """A GPT for inference that shares norms and embeddings with `model`, with matrix products in `dtype` or int8.

    The residual stream and norms stay in the type of the embeddings. So does the head, since GPT-2's logits reach -100,
    where rounding shows; or it is `head`, in that one's type. Adapters are added to their matrices.
    Raises ConfigError where int8 cannot be had.
    """
    device = model.wte.weight.device
    packed = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})  # modules anew, weights shared
    packed.config = model.config.model_copy(update={"tied": False})  # its head is laid out like the other matrices
    for name, module in model.h.named_modules():
        if isinstance(module, nn.Linear):
            packed.h.set_submodule(name, _packed(_merged(module), module.bias, dtype, quantize, device))
    for layer, block in enumerate(packed.h):
        packed.h[layer] = native_block(block) or block
    if head is None:
        head = model.head_weight[: model.config.vocab_size]
    packed.lm_head = _packed(head, None, head.dtype, quantize, device)  # type: ignore[assignment]
    return packed.eval()


def _merged(linear: nn.Linear) -> Tensor:
    if isinstance(linear, AdaptedLinear):
        return linear.weight + linear.scale * linear.lora_B @ linear.lora_A
    return linear.weight


@torch.no_grad()
def _packed(
    weight: Tensor, bias: Tensor | None, dtype: torch.dtype, quantize: Quantization | None, device: torch.device
) -> nn.Module:
    kind = quantize or _KINDS.get(dtype)
    if device.type == "cpu" and kind is not None and (native := native_linear(weight, bias, kind)) is not None:
        return native
    if quantize == "int8":
        if device.type == "cpu":
            return _Int8Linear(weight, bias)
        return _torchao_int8(weight, bias)
    if device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) and _has_onednn(dtype):
        return _OneDNNLinear(weight.to(dtype), None if bias is None else bias.to(dtype))
    return _CastLinear(weight.to(dtype), None if bias is None else bias.to(dtype))


class _CastLinear(nn.Module):
    """torch's own product, in the type of the weight."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._weight, self._bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self._weight.dtype), self._weight, self._bias)


class _OneDNNLinear(nn.Module):
    """oneDNN's product on weights in its own order."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._out, self._dtype, self._bias = len(weight), weight.dtype, bias
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 64)
        self._product: Any = torch.ops.mkldnn._linear_pointwise

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.size(-1)).to(self._dtype)  # (..., in) -> (R, in)
        product = self._product(_filled(rows), self._weight, self._bias, "none", [], "")
        return product[: len(rows)].view(*x.shape[:-1], self._out)  # type: ignore[no-any-return]


class _Int8Linear(nn.Module):
    """8-bit weights, a scale for every output; inputs are rounded to 8 bits as they come, a scale for every row.

    torch's kernel takes one scale for all rows, from the smallest and the largest value among them. Rows are brought to
    1 at most, and one more row holds -1 and 1: so the kernel's scale is always the same, and no row sees another.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.float()
        scale = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        zero = torch.zeros(len(weight), dtype=torch.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch means to drop the type, and has no other way in so far
            quantized = torch.quantize_per_channel(weight, scale.double(), zero, 0, torch.qint8)
        self._weight = torch.ops.quantized.linear_prepack(quantized, None)
        self._bias = torch.zeros(len(weight)) if bias is None else bias.float()
        self._bounds = torch.zeros(1, weight.size(1))
        self._bounds[0, :2] = torch.tensor([-1.0, 1.0])
        self._product: Any = torch.ops.quantized.linear_dynamic
        self._reduced = not torch.cpu._is_vnni_supported()  # 8 bits times 8 overflow the 16 of older instructions

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.size(-1)).float()  # (..., in) -> (R, in)
        scale = rows.abs().amax(dim=1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny)
        product = self._product(torch.cat((rows / scale, self._bounds)), self._weight, self._reduced)
        return torch.addcmul(self._bias, product[: len(rows)], scale).view(*x.shape[:-1], -1)


def _filled(rows: Tensor) -> Tensor:
    """At least four rows, the last one repeated."""
    missing = _FEWEST_ROWS - len(rows)
    return rows if missing <= 0 else torch.cat((rows, rows[-1:].expand(missing, -1)))


def _has_onednn(dtype: torch.dtype) -> bool:
    if not torch._C._has_mkldnn or "AVX" not in torch.backends.cpu.get_cpu_capability():
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _torchao_int8(weight: Tensor, bias: Tensor | None) -> nn.Module:
    """8-bit weights, products in bf16: what helps a GPU, which multiplies fast and waits for memory."""
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError:
        raise ConfigError("int8 on a GPU needs torchao", "pip install 'nano-gpt[int8]'") from None
    linear = nn.Linear(weight.size(1), len(weight), bias is not None, weight.device, torch.bfloat16)
    linear.weight.copy_(weight)
    if bias is not None:
        linear.bias.copy_(bias)
    wrapped = _Bf16Input(linear)
    quantize_(wrapped, Int8WeightOnlyConfig())
    return wrapped


class _Bf16Input(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.to(torch.bfloat16))  # type: ignore[no-any-return]
