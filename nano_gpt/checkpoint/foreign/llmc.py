"""llm.c's `gpt2_124M.bin`, `model_19552.bin` and so on: 256 numbers, then all parameters without a gap.

The order is that of `ParameterTensors` in its train_gpt2.cu: what is of one kind in all layers lies together. Of the
versions in use, 3 is fp32 and 5 is bf16; both have padding rows in the embedding.
"""

from __future__ import annotations

import struct
from itertools import accumulate, pairwise
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from nano_gpt.checkpoint.foreign.peer import PeerCheckpoint, peer_config
from nano_gpt.config.model import GPTConfig
from nano_gpt.errors import CheckpointError

_MODEL = 20240326
_OTHERS = {20240327: "activations for debugging", 20240328: "a tokenizer", 20240520: "tokens", 20240522: "HellaSwag"}
_OTHERS[20240527] = "an optimizer's state"
_HEADER = struct.Struct("<256i")
_DTYPES = {3: torch.float32, 5: torch.bfloat16}


def is_llmc(start: bytes) -> bool:
    """Whether a file that begins so is one of llm.c's, of whatever kind."""
    return int.from_bytes(start[:4], "little") in (_MODEL, *_OTHERS)


def read_llmc(path: Path) -> PeerCheckpoint:
    """Raises CheckpointError where the size of the file is not what its header promises."""
    with path.open("rb") as file:
        start = file.read(_HEADER.size)
    if len(start) < _HEADER.size:
        raise CheckpointError(f"it ends within its header: {len(start)} of {_HEADER.size} bytes")
    magic, version, *numbers = _HEADER.unpack(start)
    if magic != _MODEL:
        raise CheckpointError(f"it holds {_OTHERS[magic]}, not a model", "llm.c's models are model_NNNNNNNN.bin")
    if version not in _DTYPES:
        raise CheckpointError(
            f"it is of version {version}; known are 3 (fp32) and 5 (bf16)", "write it again with a newer llm.c"
        )
    keys = ("block_size", "vocab_size", "n_layer", "n_head", "n_embd")
    config, rows = peer_config(dict(zip(keys, numbers, strict=False))), numbers[len(keys)]
    vocab_size = config.vocab_size or 0
    if rows < vocab_size:
        raise CheckpointError(f"its header has {rows} rows for {vocab_size} ids")
    shapes = _shapes(rows, config)
    dtype, size = _DTYPES[version], path.stat().st_size
    promised = _HEADER.size + dtype.itemsize * sum(prod(shape) for shape in shapes.values())
    if size != promised:
        raise CheckpointError(f"it has {size:,} bytes and its header promises {promised:,}", "is it all there?")
    numbers_in_file = torch.from_file(str(path), size=size // dtype.itemsize, dtype=dtype)
    ends = accumulate((prod(shape) for shape in shapes.values()), initial=_HEADER.size // dtype.itemsize)
    whole = {
        name: numbers_in_file[start:end].view(shape)
        for (name, shape), (start, end) in zip(shapes.items(), pairwise(ends), strict=True)
    }
    return PeerCheckpoint("llm.c", config, _by_layer(whole, vocab_size))


def _shapes(rows: int, config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """In the order of the file; `*` stands for the layer, the first dimension."""
    L, C = config.n_layer, config.n_embd
    return {
        "wte.weight": (rows, C),
        "wpe.weight": (config.n_positions, C),
        "h.*.ln_1.weight": (L, C),
        "h.*.ln_1.bias": (L, C),
        "h.*.attn.c_attn.weight": (L, 3 * C, C),
        "h.*.attn.c_attn.bias": (L, 3 * C),
        "h.*.attn.c_proj.weight": (L, C, C),
        "h.*.attn.c_proj.bias": (L, C),
        "h.*.ln_2.weight": (L, C),
        "h.*.ln_2.bias": (L, C),
        "h.*.mlp.c_fc.weight": (L, 4 * C, C),
        "h.*.mlp.c_fc.bias": (L, 4 * C),
        "h.*.mlp.c_proj.weight": (L, C, 4 * C),
        "h.*.mlp.c_proj.bias": (L, C),
        "ln_f.weight": (C,),
        "ln_f.bias": (C,),
    }


def _by_layer(whole: dict[str, Tensor], vocab_size: int) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, tensor in whole.items():
        if "*" in name:
            tensors |= {name.replace("*", str(layer)): part for layer, part in enumerate(tensor)}
        else:
            tensors[name] = tensor[:vocab_size] if name == "wte.weight" else tensor
    return tensors
