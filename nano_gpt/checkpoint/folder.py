"""The plain GPT-2 folder that every checkpoint and every export is.

    model.safetensors  config.json  generation_config.json  + tokenizer files

Written so that `transformers`, vLLM, MLX and llama.cpp's converter read it; read strictly: names and shapes are
compared with config.json in the header of the weights, before any memory is taken.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nano_gpt.config.model import GPTConfig
from nano_gpt.errors import CheckpointError
from nano_gpt.model.gpt import GPT
from nano_gpt.model.hf import from_hf, from_hf_config, match_names, to_hf, to_hf_config
from nano_gpt.tokenizer.base import Tokenizer

WEIGHTS, CONFIG, GENERATION_CONFIG = "model.safetensors", "config.json", "generation_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")


def write_model_folder(
    folder: Path, config: GPTConfig, state: dict[str, Tensor], tokenizer: Tokenizer, extra: dict[str, Any] | None = None
) -> None:
    """Fill the existing `folder`. `state` is a GPT's state dict; `extra` are more keys for config.json."""
    save_file(to_hf(state, config), folder / WEIGHTS, metadata={"format": "pt"})
    _write_json(folder / CONFIG, {**to_hf_config(config, tokenizer.eot_id), **(extra or {})})
    _write_json(folder / GENERATION_CONFIG, {"bos_token_id": tokenizer.eot_id, "eos_token_id": tokenizer.eot_id})
    tokenizer.save(folder)


def is_model_folder(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` as it stands. Raises CheckpointError where there is none, or none that is JSON."""
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is not a model folder: it has no {CONFIG}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds no settings")
    return values


def read_model_folder(folder: Path) -> GPT:
    """The model in fp32 on the CPU, in eval mode. Raises CheckpointError naming the file and the tensor."""
    config = from_hf_config(read_config(folder))
    path = folder / WEIGHTS
    if not path.is_file():
        other = folder / "pytorch_model.bin"
        reason = "holds a pickle, which can run code when it is loaded" if other.exists() else f"has no {WEIGHTS}"
        raise CheckpointError(f"{folder} {reason}", "convert it to safetensors first" if other.exists() else None)
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (not a dict)
            names = match_names(shapes, config)
            tensors = {ours: file.get_tensor(theirs) for ours, theirs in names.items()}
            if "lm_head.weight" in shapes and not torch.equal(file.get_tensor("lm_head.weight"), tensors["wte.weight"]):
                raise CheckpointError("lm_head.weight is not wte.weight: an untied head")
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}", error.hint) from None
    with torch.device("meta"):
        model = GPT(config)
    model.load_state_dict(from_hf(tensors, config), assign=True)
    return model.eval()


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
