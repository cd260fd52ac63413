"""The types in which weights can be written. Ours are fp32 in memory, always."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nano_gpt.errors import CheckpointError

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def cast(name: str, tensor: Tensor, precision: Precision) -> Tensor:
    """`tensor` rounded to `precision`; itself where it is of that type.

    Raises CheckpointError, naming the tensor, for a value that would become infinite, as in fp16 all above 65504 do,
    or that is no number already.
    """
    rounded = tensor.to(DTYPES[precision])
    if bool(rounded.isfinite().all()):
        return rounded
    if not bool(tensor.isfinite().all()):
        raise CheckpointError(f"tensor {name} has values that are infinite or no numbers", "take another checkpoint")
    largest, end = float(tensor.abs().max()), torch.finfo(rounded.dtype).max
    raise CheckpointError(
        f"tensor {name} reaches {largest:g}, and {precision} ends at {end:g}",
        "--dtype bf16 has the range of fp32" if precision == "fp16" else "--dtype fp32",
    )
