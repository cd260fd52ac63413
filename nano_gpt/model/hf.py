"""Between our state dict and the folders that everyone reads: for each architecture a table of names, both directions.

    GPT2LMHeadModel         learned positions, LayerNorm
    Starcoder2ForCausalLM   RoPE, LayerNorm
    ArceeForCausalLM        RoPE, RMSNorm

Our names are OpenAI's, so GPT-2's folders differ in three things only: their Conv1D keeps matrices as (in, out), they
have no padding rows, and some have a `transformer.` prefix and a few redundant tensors. The others split c_attn in 3.
Where an architecture always has a bias, a model without biases has zeros in its folder, and nothing else is read there.
Pure: dicts in, dicts out, no files. `config.json` is in hf_config.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nano_gpt.config.model import GPTConfig, ModelType
from nano_gpt.errors import CheckpointError
from nano_gpt.model.hf_config import from_hf_config as from_hf_config
from nano_gpt.model.hf_config import to_hf_config as to_hf_config

_BLOCK = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
_GPT2 = ("wte", "wpe", *(f"h.*.{module}" for module in _BLOCK), "ln_f", "lm_head")
_LIKE_LLAMA = {
    "wte": ("model.embed_tokens",),
    "h.*.ln_1": ("model.layers.*.input_layernorm",),
    "h.*.attn.c_attn": tuple(f"model.layers.*.self_attn.{part}_proj" for part in "qkv"),
    "h.*.attn.c_proj": ("model.layers.*.self_attn.o_proj",),
    "h.*.ln_2": ("model.layers.*.post_attention_layernorm",),
    "h.*.mlp.c_fc": ("model.layers.*.mlp.up_proj",),
    "h.*.mlp.c_proj": ("model.layers.*.mlp.down_proj",),
    "ln_f": ("model.norm",),
    "lm_head": ("lm_head",),
}
# Our module -> theirs; where they are several, those hold its rows in equal parts. * is the number of the layer.
_MODULES: dict[ModelType, dict[str, tuple[str, ...]]] = {
    "gpt2": {module: (module,) for module in _GPT2},
    "starcoder2": {
        **_LIKE_LLAMA,
        "h.*.mlp.c_fc": ("model.layers.*.mlp.c_fc",),
        "h.*.mlp.c_proj": ("model.layers.*.mlp.c_proj",),
    },
    "arcee": _LIKE_LLAMA,
}
_TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")  # by GPT-2's Conv1D
_PADDED = ("wte.weight", "lm_head.weight")
_REDUNDANT = ("attn.bias", "attn.masked_bias")  # causal masks that old checkpoints carry as buffers


@dataclass(frozen=True)
class _Entry:
    """One of our tensors, and where a folder keeps it."""

    ours: str
    theirs: tuple[str, ...]
    shape: tuple[int, ...]
    """Of each of theirs."""
    transposed: bool
    zeros: bool
    """The folder has it and the model does not."""


def _entries(config: GPTConfig) -> Iterator[_Entry]:
    C, V = config.n_embd, config.vocab_size or 0
    sizes: dict[str, tuple[int, ...]] = {
        "wte": (V, C), "wpe": (config.n_positions, C), "lm_head": (V, C), "ln_1": (C,), "ln_2": (C,), "ln_f": (C,),
        "attn.c_attn": (3 * C, C), "attn.c_proj": (C, C), "mlp.c_fc": (4 * C, C), "mlp.c_proj": (C, 4 * C),
    }  # fmt: skip
    for module, theirs in _MODULES[config.model_type].items():
        if module == "lm_head" and config.tied:
            continue
        size = sizes[module.removeprefix("h.*.")]
        for kind in _kinds(module, config):
            rows, *columns = size if kind == "weight" else size[:1]
            shape = (rows // len(theirs), *columns)
            for layer in range(config.n_layer) if "*" in module else (0,):
                ours, *names = (f"{name}.{kind}".replace("*", str(layer)) for name in (module, *theirs))
                transposed = config.model_type == "gpt2" and ours.endswith(_TRANSPOSED)
                yield _Entry(
                    ours,
                    tuple(names),
                    shape[::-1] if transposed else shape,
                    transposed,
                    zeros=kind == "bias" and not config.bias,
                )


def _kinds(module: str, config: GPTConfig) -> tuple[str, ...]:
    """The tensors of a module in a folder, which has GPT-2's biases and those of LayerNorms whatever the model has."""
    if module in ("wte", "wpe", "lm_head"):
        return ("weight",)
    if ".ln_" in f".{module}":
        return ("weight", "bias") if config.norm == "layernorm" else ("weight",)
    return ("weight", "bias") if config.bias or config.model_type == "gpt2" else ("weight",)


def tensor_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor in a folder of this configuration."""
    return {name: entry.shape for entry in _entries(config) for name in entry.theirs}


def to_hf(state: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """Our state dict -> tensors of a folder (contiguous, tied head left out)."""
    tensors: dict[str, Tensor] = {}
    for entry in _entries(config):
        if entry.zeros:
            tensors[entry.theirs[0]] = state["wte.weight"].new_zeros(entry.shape)
            continue
        tensor = state[entry.ours]
        tensor = tensor[: config.vocab_size] if entry.ours in _PADDED else tensor
        tensor = tensor.t() if entry.transposed else tensor
        parts = tensor.chunk(len(entry.theirs))
        tensors |= {name: part.contiguous() for name, part in zip(entry.theirs, parts, strict=True)}
    return tensors


def from_hf(tensors: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """Tensors of a folder, under `tensor_shapes` names -> our state dict, in fp32.

    Copies: what came in may be views of a file, which must not change under the model. Raises CheckpointError for a
    bias that is not zero in a model that has none.
    """
    state = {}
    for entry in _entries(config):
        if entry.zeros:
            if tensors[entry.theirs[0]].any():
                raise CheckpointError(f"{entry.theirs[0]} is not zero, and config.json promises a model without biases")
            continue
        parts = [tensors[name].float() for name in entry.theirs]
        tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
        if entry.ours in _PADDED:
            padding = config.padded_vocab_size - tensor.size(0)
            state[entry.ours] = torch.nn.functional.pad(tensor, (0, 0, 0, padding))
        else:
            tensor = tensor.t() if entry.transposed else tensor
            state[entry.ours] = tensor.clone(memory_format=torch.contiguous_format)
    return state


def tied_to(config: GPTConfig) -> str | None:
    """The tensor that an `lm_head.weight` in the folder may only repeat; None where the head is its own."""
    return _MODULES[config.model_type]["wte"][0] + ".weight" if config.tied else None


def match_names(found: Mapping[str, Sequence[int]], config: GPTConfig) -> dict[str, str]:
    """Name as in `tensor_shapes` -> as in the folder, whose header says `found`: name -> shape.

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
        promised = f"the {config.model_type} of {config.n_layer} layers that config.json promises"
        raise CheckpointError(f"tensor {extra[0]} does not belong to {promised}")
    return {name: plain[name] for name in wanted}
