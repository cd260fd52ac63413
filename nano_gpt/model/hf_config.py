"""Between GPTConfig and the `config.json` of each architecture that our models are written as.

Strict on the way in: a value that cannot be, or that asks for what we do not have, is an error and no guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nano_gpt.config.model import Activation, GPTConfig, ModelType
from nano_gpt.errors import CheckpointError

_CLASSES: dict[ModelType, str] = {
    "gpt2": "GPT2LMHeadModel",
    "starcoder2": "Starcoder2ForCausalLM",
    "arcee": "ArceeForCausalLM",
}
# Our name of an activation by theirs; the tanh form of GELU has two.
_ACTIVATIONS: dict[str, Activation] = {
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu": "gelu_exact",
    "relu2": "relu2",
}


def to_hf_config(config: GPTConfig, eot_id: int) -> dict[str, Any]:
    """`config.json` of the architecture that `config` is."""
    shape = _gpt2_values(config) if config.model_type == "gpt2" else _rope_values(config)
    return {
        "model_type": config.model_type,
        "architectures": [_CLASSES[config.model_type]],
        "vocab_size": config.vocab_size,
        **shape,
        "initializer_range": 0.02,
        "tie_word_embeddings": config.tied,
        "bos_token_id": eot_id,
        "eos_token_id": eot_id,
        "dtype": "float32",
    }


def from_hf_config(values: Mapping[str, Any]) -> GPTConfig:
    """`config.json` -> GPTConfig. Raises CheckpointError for another architecture or a value that cannot be."""
    if values.get("model_type") == "gpt2":
        return _from_gpt2(values)
    if values.get("model_type") in ("starcoder2", "arcee"):
        return _from_rope(values)
    raise CheckpointError(f"model_type is {values.get('model_type')!r}; this tool loads 'gpt2', 'starcoder2', 'arcee'")


def _gpt2_values(config: GPTConfig) -> dict[str, Any]:
    """n_ctx repeats n_positions because MLX and llama.cpp's converter read that name."""
    values = {
        "n_positions": config.n_positions,
        "n_ctx": config.n_positions,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": None,
        "activation_function": _theirs(config.activation, "gelu_new"),
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
    }
    # No key of theirs says that all biases are zero, which their model always has: ours does, and they keep it.
    return values if config.bias else {**values, "bias": False}


def _from_gpt2(values: Mapping[str, Any]) -> GPTConfig:
    n_embd, n_head = _width_and_heads(values, ("n_embd", 768), ("n_head", 12))
    _check(
        values,
        "GPT-2",
        {
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "reorder_and_upcast_attn": (False,),
            "add_cross_attention": (False,),
            "n_inner": (None, 4 * n_embd),
        },
    )
    return GPTConfig(
        vocab_size=_integer(values, "vocab_size", 50257),
        n_positions=_integer(values, "n_positions", 1024),
        n_embd=n_embd,
        n_layer=_integer(values, "n_layer", 12),
        n_head=n_head,
        layer_norm_epsilon=_epsilon(values, "layer_norm_epsilon"),
        activation=_activation(values, "activation_function", "gelu_new"),
        bias=_boolean(values, "bias", True),
        tied=_boolean(values, "tie_word_embeddings", True),
    )


def _rope_values(config: GPTConfig) -> dict[str, Any]:
    """rope_theta stands twice: transformers 5 has it in rope_parameters, transformers 4 and others beside it."""
    values = {
        "max_position_embeddings": config.n_positions,
        "hidden_size": config.n_embd,
        "intermediate_size": 4 * config.n_embd,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_head,
        "hidden_act": _theirs(config.activation, "gelu_pytorch_tanh"),
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_dropout": config.dropout,
    }
    if config.model_type == "starcoder2":
        return {
            **values,
            "norm_epsilon": config.layer_norm_epsilon,
            "use_bias": config.bias,
            "sliding_window": None,
            "residual_dropout": config.dropout,
            "embedding_dropout": config.dropout,
        }
    return {
        **values,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.layer_norm_epsilon,
        "attention_bias": config.bias,
        "mlp_bias": config.bias,
    }


def _from_rope(values: Mapping[str, Any]) -> GPTConfig:
    """Starcoder2 and Arcee. The shape must be there; the rest has their defaults."""
    arcee = values["model_type"] == "arcee"
    n_embd, n_head = _width_and_heads(values, ("hidden_size", None), ("num_attention_heads", None))
    if n_embd // n_head % 2:
        raise CheckpointError(f"config.json: hidden_size {n_embd} / num_attention_heads {n_head} is odd")
    _check(
        values,
        "Arcee" if arcee else "Starcoder2",
        {
            "intermediate_size": (4 * n_embd,),
            "num_key_value_heads": (n_head, None),
            "head_dim": (n_embd // n_head, None),
            "sliding_window": (None,),
            "rope_scaling": (None,),
            "mlp_bias": (values.get("attention_bias", False),),
        },
    )
    return GPTConfig(
        vocab_size=_integer(values, "vocab_size", None),
        n_positions=_integer(values, "max_position_embeddings", None),
        n_embd=n_embd,
        n_layer=_integer(values, "num_hidden_layers", None),
        n_head=n_head,
        layer_norm_epsilon=_epsilon(values, "rms_norm_eps" if arcee else "norm_epsilon"),
        positions="rope",
        rope_theta=_rope_theta(values),
        norm="rmsnorm" if arcee else "layernorm",
        activation=_activation(values, "hidden_act", "relu2" if arcee else "gelu_pytorch_tanh"),
        bias=_boolean(values, "attention_bias", False) if arcee else _boolean(values, "use_bias", True),
        tied=_boolean(values, "tie_word_embeddings", not arcee),
    )


def _theirs(activation: Activation, tanh_gelu: str) -> str:
    """Their name; `tanh_gelu` is the one that an architecture has for the tanh form."""
    return {"gelu": tanh_gelu, "gelu_exact": "gelu", "relu2": "relu2"}[activation]


def _activation(values: Mapping[str, Any], key: str, default: str) -> Activation:
    name = values.get(key, default)
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise CheckpointError(f"config.json: {key} is {name!r}; known: {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _rope_theta(values: Mapping[str, Any]) -> float:
    parameters = values.get("rope_parameters")
    parameters = {} if parameters is None else parameters
    if not isinstance(parameters, Mapping):
        raise CheckpointError(f"config.json: rope_parameters is {parameters!r}, not an object")
    if unknown := parameters.keys() - {"rope_type", "rope_theta"}:
        raise CheckpointError(f"config.json: rope_parameters has {min(unknown)}, which this tool does not know")
    _check(parameters, "RoPE", {"rope_type": ("default",)})
    theta = parameters.get("rope_theta", values.get("rope_theta", 10000.0))
    if type(theta) not in (int, float) or not 1 < theta < math.inf:
        raise CheckpointError(f"config.json: rope_theta is {theta!r}, not a number above 1")
    return float(theta)


def _check(values: Mapping[str, Any], owner: str, known: Mapping[str, tuple[Any, ...]]) -> None:
    """Every key that is there has one of its known values; the first of them is what the architecture has by itself."""
    for key, allowed in known.items():
        if values.get(key, allowed[0]) not in allowed:
            raise CheckpointError(f"config.json: {key} {values[key]!r} is not {owner}'s {allowed[0]!r}")


def _width_and_heads(
    values: Mapping[str, Any], width: tuple[str, int | None], heads: tuple[str, int | None]
) -> tuple[int, int]:
    """Each is given by its key and its default."""
    n_embd, n_head = _integer(values, *width), _integer(values, *heads)
    if n_embd % n_head:
        raise CheckpointError(f"config.json: {width[0]} {n_embd} is not divisible by {heads[0]} {n_head}")
    return n_embd, n_head


def _integer(values: Mapping[str, Any], key: str, default: int | None) -> int:
    value = values.get(key, default)
    if type(value) is not int or not 0 < value < 2**31:
        raise CheckpointError(f"config.json: {key} is {value!r}, not a positive whole number")
    return value


def _boolean(values: Mapping[str, Any], key: str, default: bool) -> bool:
    value = values.get(key, default)
    if type(value) is not bool:
        raise CheckpointError(f"config.json: {key} is {value!r}, not true or false")
    return value


def _epsilon(values: Mapping[str, Any], key: str) -> float:
    value = values.get(key, 1e-5)
    if type(value) not in (int, float) or not 0 < value < 1:
        raise CheckpointError(f"config.json: {key} is {value!r}, not a small positive number")
    return float(value)
