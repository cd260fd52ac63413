"""The machine under a run: device, precision, peak speed, and whether torch.compile works here."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from nano_gpt.errors import ConfigError
from nano_gpt.runtime.logs import logger

# Dense bf16 peak in FLOP/s, from the vendors' data sheets (without sparsity). The first match of whole words counts,
# so longer names come first; a laptop's chip of the same name is another, slower one.
_PEAK_BF16_FLOPS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "H800": 989e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
    "A6000": 155e12,
    "RTX 5090": 210e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto`, or a torch device name; under torchrun every rank gets the GPU of its local rank."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device: torch.device | None = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"unknown device {name!r}", "auto, cpu, cuda, cuda:1, mps")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(f"--device {name}: this machine, or this build of torch, has no CUDA", "--device cpu")
        if device.index is None:
            device = torch.device("cuda", local_rank)
        if device.index >= torch.cuda.device_count():
            raise ConfigError(
                f"no GPU {device.index} on this machine, which has {torch.cuda.device_count()}",
                "start at most one process per GPU",
            )
        torch.cuda.set_device(device)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("--device mps: this machine has no Metal GPU", "--device cpu")
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type of the matrix products. `auto` is bf16 where the hardware multiplies in it, else fp32."""
    if name == "fp32":
        return torch.float32
    if name == "fp16":
        return torch.float16
    if name == "bf16" or _multiplies_bf16(device):
        return torch.bfloat16
    return torch.float32


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # Measured 2.5x on a step with these instructions; without them bf16 is emulated and slower than fp32.
        return _cpu_flag("_is_avx512_bf16_supported") or _cpu_flag("_is_amx_tile_supported")
    return False


def _cpu_flag(probe: str) -> bool:
    function = getattr(torch.cpu, probe, None)  # private, and not there in every build
    return function is not None and bool(function())


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Matrix products in `dtype`, weights and reductions in fp32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOP/s at 100%, or None where no data sheet is known: an invented peak makes an invented MFU."""
    if device.type != "cuda" or dtype != torch.bfloat16:
        return None
    name = torch.cuda.get_device_name(device)
    if "Laptop" in name:
        return None
    return next((peak for key, peak in _PEAK_BF16_FLOPS.items() if re.search(rf"\b{key}\b", name)), None)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on `device`; on CUDA without waiting for it.

    Elsewhere it is waited for: Metal may read the memory of the source after it was freed (pytorch issue 189690).
    """
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given, for honest timing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def can_compile(device: torch.device) -> bool:
    """Compile and run a two-line function; a machine without Triton or a C++ compiler says so in one line."""
    try:
        probe = torch.compile(lambda x: (x * 2 + 1).relu().sum())
        probe(torch.ones(8, device=device, requires_grad=True)).backward()
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        logger.info(f"torch.compile does not work here, going on without it: {reason}")
        return False
    return True
