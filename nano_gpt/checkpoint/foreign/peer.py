"""What a peer's file holds, and the GPT that it makes.

All of them keep OpenAI's names and PyTorch's (out, in) matrices, as we do; they differ in prefixes. A file is believed
in nothing: every tensor must have the name and the shape that its settings promise, and lie in it, before memory is
taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nano_gpt.config.model import Activation, GPTConfig
from nano_gpt.errors import CheckpointError
from nano_gpt.model.gpt import GPT
from nano_gpt.model.outline import shapes_only

_PREFIXES = ("_orig_mod.", "module.", "_orig_mod.", "transformer.")  # of torch.compile, of DDP around or inside it
_REDUNDANT = (".attn.bias", ".attn.masked_bias")  # causal masks that some carry as buffers


@dataclass(frozen=True)
class PeerCheckpoint:
    """One file, with nothing of its tensors in memory yet."""

    trainer: str
    """Who wrote it, as its users call it."""
    config: GPTConfig
    """`vocab_size` is the number of rows of its embedding that are ids, or may be."""
    tensors: Mapping[str, Tensor]
    """Under the peer's names: views of the file."""
    progress: str = ""
    """How far it was trained, in words; empty where the file does not say."""


def peer_config(values: Mapping[str, Any], activation: Activation = "gelu") -> GPTConfig:
    """The settings that every peer has, under their common names. Raises CheckpointError for one that cannot be."""
    for key in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd"):
        value = values.get(key)
        if type(value) is not int or not 0 < value < 2**31:
            shown = value if isinstance(value, int | float | str) else type(value).__name__
            raise CheckpointError(f"its {key} is {shown!r}, not a positive whole number")
    if values["n_embd"] % values["n_head"]:
        raise CheckpointError(f"its n_embd {values['n_embd']} is not divisible by its n_head {values['n_head']}")
    if type(values.get("bias", True)) is not bool:
        raise CheckpointError("its bias is neither True nor False")
    return GPTConfig(
        vocab_size=values["vocab_size"],
        n_positions=values["block_size"],
        n_layer=values["n_layer"],
        n_head=values["n_head"],
        n_embd=values["n_embd"],
        bias=values.get("bias", True),
        activation=activation,
    )


def build(peer: PeerCheckpoint, file_bytes: int) -> GPT:
    """The model in fp32 on the CPU, in eval mode. Raises CheckpointError naming the tensor that does not fit."""
    config = peer.config
    tensors = {_plain(name): tensor for name, tensor in peer.tensors.items()}
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or not tensor.is_contiguous():  # a stride of 0 makes petabytes of one number
            raise CheckpointError(f"tensor {name} is not stored whole, row after row")
    if config.n_layer > len(tensors):  # before a model of a billion layers is built
        raise CheckpointError(f"{len(tensors)} tensors are too few for its {config.n_layer} layers")
    embeddings = {
        "wte.weight": (config.vocab_size or 0, config.n_embd),
        "wpe.weight": (config.n_positions, config.n_embd),
    }
    _check_shapes(embeddings, tensors)  # these bound the others, which are computed from their sizes
    with shapes_only():
        model = GPT(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} | embeddings
    _check_shapes(wanted, tensors)
    for name in tensors:
        if name not in wanted and name != "lm_head.weight" and not name.endswith(_REDUNDANT):
            raise CheckpointError(f"tensor {name} does not belong to a GPT-2 of {config.n_layer} layers")
    if sum(tensors[name].nbytes for name in wanted) > file_bytes:
        raise CheckpointError("its tensors share their bytes: together they are larger than the file")
    wte = tensors["wte.weight"]
    if not torch.equal(tensors.get("lm_head.weight", wte), wte):
        raise CheckpointError("lm_head.weight is not wte.weight, but its trainer ties them", "the file may be damaged")
    # Copies: what came in are views of the file, which must not change under the model.
    state = {name: tensors[name].detach().to(torch.float32, copy=True) for name in wanted if name != "wte.weight"}
    state["wte.weight"] = padded(wte.detach(), config)
    model.load_state_dict(state, assign=True)
    return model.eval()


def padded(embedding: Tensor, config: GPTConfig) -> Tensor:
    """(V, C) -> (V and padding, C), a copy in fp32."""
    rows = torch.zeros(config.padded_vocab_size, config.n_embd)
    rows[: embedding.size(0)] = embedding
    return rows


def _plain(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _check_shapes(wanted: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]) -> None:
    for name, shape in wanted.items():
        if name not in tensors:
            raise CheckpointError(f"tensor {name} is missing")
        if tuple(tensors[name].shape) != shape:
            raise CheckpointError(f"tensor {name} is {tuple(tensors[name].shape)}; its settings promise {shape}")
        if not tensors[name].is_floating_point():
            raise CheckpointError(f"tensor {name} is of type {tensors[name].dtype}, which weights never are")
