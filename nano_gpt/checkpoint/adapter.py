"""Adapters as files, in PEFT's format: a few megabytes that PEFT itself loads onto the same base model.

adapter_model.safetensors  adapter_config.json  + tokenizer files
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nano_gpt.checkpoint.folder import read_json
from nano_gpt.config.lora import LoRAConfig
from nano_gpt.errors import CheckpointError
from nano_gpt.model.gpt import GPT
from nano_gpt.model.lora import is_adapter
from nano_gpt.tokenizer.base import Tokenizer

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model.transformer."  # PEFT's wrapper, its model, and GPT2LMHeadModel's


# What an adapter may be for its product to be all of it; PEFT leaves out, or writes null for, what is not used.
_KNOWN: dict[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "lora_bias": False,
    "use_rslora": False,
    "use_dora": False,
    "modules_to_save": [],
    "rank_pattern": {},
    "alpha_pattern": {},
    "layer_replication": [],
}


@dataclass(frozen=True)
class Adapter:
    """What adapters are adapters of, and how they are made."""

    base: str
    """The model, as `--pretrained` takes it."""
    config: LoRAConfig


def is_adapter_folder(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).is_file() and (folder / ADAPTER_WEIGHTS).is_file()


def write_adapter_folder(folder: Path, adapter: Adapter, state: Mapping[str, Tensor], tokenizer: Tokenizer) -> None:
    """Fill the existing `folder`. `state` has our names: `h.0.attn.c_attn.lora_A` and so on."""
    save_file({f"{_PREFIX}{name}.weight": tensor for name, tensor in state.items()}, folder / ADAPTER_WEIGHTS)
    values = _peft_values(adapter, sorted({name.split(".", 2)[2].rpartition(".")[0] for name in state}))
    (folder / ADAPTER_CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    (folder / ADAPTER_WEIGHTS).chmod((folder / ADAPTER_CONFIG).stat().st_mode)  # as in checkpoint/folder.py
    tokenizer.save(folder)


def _peft_values(adapter: Adapter, modules: list[str]) -> dict[str, Any]:
    config = adapter.config
    assert config.rank is not None
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base,
        "r": config.rank,
        "lora_alpha": config.scale * config.rank,
        "lora_dropout": config.dropout,
        "target_modules": modules,
        "fan_in_fan_out": True,  # their GPT-2 keeps matrices as (in, out)
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }


@dataclass(frozen=True)
class SavedAdapter:
    """What a folder holds."""

    folder: Path
    base: str
    scale: float
    """What an adapter adds is B A, times this."""
    state: dict[str, Tensor]
    """By our names."""


def read_adapter(folder: Path) -> SavedAdapter:
    """An adapter of a GPT-2, ours or PEFT's own. Raises CheckpointError for what is damaged, unknown or untrue."""
    values = read_json(folder / ADAPTER_CONFIG)
    try:
        base, rank, scale = _read_config(values)
        state = _read_tensors(folder / ADAPTER_WEIGHTS, rank)
        _check_targets(values.get("target_modules"), {name.rpartition(".")[0] for name in state})
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error.message}") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / ADAPTER_WEIGHTS} is damaged: {error}") from None
    return SavedAdapter(folder, base, scale, state)


def _read_config(values: dict[str, Any]) -> tuple[str, int, float]:
    """Base, rank and scale."""
    for key, known in _KNOWN.items():
        if values.get(key) not in (None, known):
            raise CheckpointError(f"{ADAPTER_CONFIG}: {key} is {_shown(values[key])}; known is {known!r}")
    base, rank, alpha = (values.get(key) for key in ("base_model_name_or_path", "r", "lora_alpha"))
    if not isinstance(base, str) or not base.isprintable() or not 0 < len(base) < 1024:
        raise CheckpointError(f"{ADAPTER_CONFIG} does not say its base model: {_shown(base)}")
    if type(rank) is not int or not 0 < rank < 2**31:
        raise CheckpointError(f"{ADAPTER_CONFIG}: its rank, r, is {_shown(rank)}")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not abs(alpha) < 2**31:  # nor is NaN
        raise CheckpointError(f"{ADAPTER_CONFIG}: lora_alpha is {_shown(alpha)}")
    return base, rank, alpha / rank


def _read_tensors(path: Path, rank: int) -> dict[str, Tensor]:
    """By our names: views of the file."""
    tensors = load_file(path)
    state = {name.removeprefix(_PREFIX).removesuffix(".weight"): tensor for name, tensor in tensors.items()}
    for name, tensor in state.items():
        if not is_adapter(name) or tensor.dim() != 2 or not tensor.is_floating_point():
            raise CheckpointError(f"tensor {_shown(name)} is no adapter of a GPT-2")
        if tensor.size(0 if name.endswith("lora_A") else 1) != rank:
            raise CheckpointError(
                f"tensor {_shown(name)} is {tuple(tensor.shape)}, and {ADAPTER_CONFIG} says rank {rank}"
            )
    return state


def _check_targets(targets: object, modules: set[str]) -> None:
    """PEFT names them by the ends of their names. A pattern, which it takes too, is left to it: the tensors tell."""
    if not isinstance(targets, list):
        return

    def fits(module: str, target: object) -> bool:
        return f".{module}".endswith(f".{target}")

    for target in targets:
        if not any(fits(module, target) for module in modules):
            raise CheckpointError(f"{ADAPTER_CONFIG}: target_modules has {_shown(target)}, of which there is no tensor")
    for module in sorted(modules):
        if not any(fits(module, target) for target in targets):
            raise CheckpointError(f"there are tensors of {_shown(module)}, and target_modules does not name it")


def _shown(value: object) -> str:
    """On one line that a terminal does not obey, since it is the file's."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


@torch.no_grad()
def merge(model: GPT, saved: SavedAdapter) -> GPT:
    """`model` with every adapter added to its matrix, in place. Raises CheckpointError, with nothing changed, where
    they do not fit."""
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    products = {}
    for module in {name.rpartition(".")[0] for name in saved.state}:
        thin = [saved.state.get(f"{module}.{part}") for part in ("lora_A", "lora_B")]
        linear, (A, B) = linears.get(module), thin
        if linear is None or A is None or B is None:
            raise CheckpointError(f"{saved.folder} does not fit the model: {module} is no matrix with an adapter")
        if (B.size(0), A.size(1)) != linear.weight.shape:
            raise CheckpointError(f"{saved.folder} does not fit the model: {module} is {tuple(linear.weight.shape)}")
        products[module] = saved.scale * (B.float() @ A.float())
    for module, product in products.items():
        linears[module].weight += product
    return model
