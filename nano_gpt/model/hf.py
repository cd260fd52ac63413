"""Between our state dict and the GPT-2 folder that everyone reads: one table of names, both directions.

Our names are OpenAI's, so the only differences are three: their Conv1D keeps matrices as (in, out), they have no
padding rows in the embedding, and folders differ in a `transformer.` prefix and a few redundant tensors.
Pure: dicts in, dicts out, no files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nano_gpt.config.model import GPTConfig
from nano_gpt.errors import CheckpointError

_BLOCK = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
_TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_REDUNDANT = ("attn.bias", "attn.masked_bias")  # causal masks that old checkpoints carry as buffers
_TANH_GELU = ("gelu_new", "gelu_pytorch_tanh")


def tensor_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor in a GPT-2 folder of this configuration."""
    C, V = config.n_embd, config.vocab_size or 0
    out = {"ln_1": C, "attn.c_attn": 3 * C, "attn.c_proj": C, "ln_2": C, "mlp.c_fc": 4 * C, "mlp.c_proj": C}
    inside = {"attn.c_attn": C, "attn.c_proj": C, "mlp.c_fc": C, "mlp.c_proj": 4 * C}
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (V, C), "wpe.weight": (config.n_positions, C)}
    for layer in range(config.n_layer):
        for module in _BLOCK:
            weight = (inside[module], out[module]) if module in inside else (out[module],)
            shapes[f"h.{layer}.{module}.weight"] = weight
            shapes[f"h.{layer}.{module}.bias"] = (out[module],)
    return {**shapes, "ln_f.weight": (C,), "ln_f.bias": (C,)}


def to_hf(state: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """Our state dict -> tensors of a GPT-2 folder (contiguous, tied head left out)."""
    return {name: _convert(name, state[name], config) for name in tensor_shapes(config)}


def _convert(name: str, tensor: Tensor, config: GPTConfig) -> Tensor:
    if name.endswith(_TRANSPOSED):
        return tensor.t().contiguous()
    return tensor[: config.vocab_size].contiguous() if name == "wte.weight" else tensor


def from_hf(tensors: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """Tensors of a GPT-2 folder, under `tensor_shapes` names -> our state dict, in fp32."""
    state = {}
    for name in tensor_shapes(config):
        tensor = tensors[name].float()
        if name.endswith(_TRANSPOSED):
            tensor = tensor.t().contiguous()
        elif name == "wte.weight":
            padding = config.padded_vocab_size - tensor.size(0)
            tensor = torch.nn.functional.pad(tensor, (0, 0, 0, padding))
        else:
            tensor = tensor.clone()  # what came in may be a view of a file, which must not change under the model
        state[name] = tensor
    return state


def match_names(found: Mapping[str, Sequence[int]], config: GPTConfig) -> dict[str, str]:
    """Our name -> the folder's name, for every tensor that is needed; `found` is name -> shape, as in its header.

    Raises CheckpointError for a tensor that is missing, unknown or of another shape, before any is read: others fill
    the gaps with random numbers.
    """
    plain = {name.removeprefix("transformer."): name for name in found}
    if config.n_layer > len(found):  # before a table of a billion layers is built
        raise CheckpointError(f"{len(found)} tensors are too few; config.json promises {config.n_layer} layers")
    wanted = tensor_shapes(config)
    for name, shape in wanted.items():
        if name not in plain:
            raise CheckpointError(f"tensor {name} is missing; config.json promises {config.n_layer} layers")
        if tuple(found[plain[name]]) != shape:
            raise CheckpointError(f"tensor {name} is {tuple(found[plain[name]])}; config.json promises {shape}")
    extra = [
        name for name in plain if name not in wanted and name != "lm_head.weight" and not name.endswith(_REDUNDANT)
    ]
    if extra:
        raise CheckpointError(f"tensor {extra[0]} does not belong to a GPT-2 of {config.n_layer} layers")
    return {name: plain[name] for name in wanted}


def to_hf_config(config: GPTConfig, eot_id: int) -> dict[str, Any]:
    """`config.json`. n_ctx repeats n_positions because MLX and llama.cpp's converter read that name."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_positions": config.n_positions,
        "n_ctx": config.n_positions,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": None,
        "activation_function": "gelu_new",
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "initializer_range": 0.02,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "tie_word_embeddings": True,
        "bos_token_id": eot_id,
        "eos_token_id": eot_id,
        "dtype": "float32",
    }


def from_hf_config(values: Mapping[str, Any]) -> GPTConfig:
    """`config.json` -> GPTConfig. Raises CheckpointError for another architecture or a value that cannot be."""
    if values.get("model_type") != "gpt2":
        raise CheckpointError(f"model_type is {values.get('model_type')!r}; this tool loads 'gpt2'")
    for key, allowed in {
        "activation_function": _TANH_GELU,
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "reorder_and_upcast_attn": (False,),
        "add_cross_attention": (False,),
        "tie_word_embeddings": (True,),
        "n_inner": (None, 4 * _integer(values, "n_embd", 768)),
    }.items():
        if values.get(key, allowed[0]) not in allowed:
            raise CheckpointError(f"config.json: {key} {values[key]!r} is not GPT-2's {allowed[0]!r}")
    n_embd, n_head = _integer(values, "n_embd", 768), _integer(values, "n_head", 12)
    if n_embd % n_head:
        raise CheckpointError(f"config.json: n_embd {n_embd} is not divisible by n_head {n_head}")
    return GPTConfig(
        vocab_size=_integer(values, "vocab_size", 50257),
        n_positions=_integer(values, "n_positions", 1024),
        n_embd=n_embd,
        n_layer=_integer(values, "n_layer", 12),
        n_head=n_head,
        layer_norm_epsilon=_epsilon(values),
    )


def _integer(values: Mapping[str, Any], key: str, default: int) -> int:
    value = values.get(key, default)
    if type(value) is not int or not 0 < value < 2**31:
        raise CheckpointError(f"config.json: {key} is {value!r}, not a positive whole number")
    return value


def _epsilon(values: Mapping[str, Any]) -> float:
    value = values.get("layer_norm_epsilon", 1e-5)
    if type(value) not in (int, float) or not 0 < value < 1:
        raise CheckpointError(f"config.json: layer_norm_epsilon is {value!r}, not a small positive number")
    return float(value)
