"""The plain model folder that every checkpoint and every export is.

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
from nano_gpt.model.hf import from_hf, from_hf_config, match_names, tied_to, to_hf, to_hf_config
from nano_gpt.model.outline import shapes_only
from nano_gpt.tokenizer.base import Tokenizer

WEIGHTS, CONFIG, GENERATION_CONFIG = "model.safetensors", "config.json", "generation_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
MODEL_FILES = (WEIGHTS, CONFIG, GENERATION_CONFIG, *TOKENIZER_FILES)
_FLOATS = ("F64", "F32", "F16", "BF16")


def write_model_folder(
    folder: Path, config: GPTConfig, state: dict[str, Tensor], tokenizer: Tokenizer, extra: dict[str, Any] | None = None
) -> None:
    """Fill the existing `folder`. `state` is a GPT's state dict; `extra` are more keys for config.json."""
    save_file(to_hf(state, config), folder / WEIGHTS, metadata={"format": "pt"})
    _write_json(folder / CONFIG, {**to_hf_config(config, tokenizer.eot_id), **(extra or {})})
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)  # safetensors lets nobody else read what it writes
    _write_json(folder / GENERATION_CONFIG, {"bos_token_id": tokenizer.eot_id, "eos_token_id": tokenizer.eot_id})
    tokenizer.save(folder, config.n_positions)


def is_model_folder(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` as it stands. Raises CheckpointError where there is none, or none that is JSON."""
    try:
        return read_json(folder / CONFIG)
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is not a model folder: it has no {CONFIG}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises FileNotFoundError, or CheckpointError for anything else than a JSON object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is not a JSON object but {type(values).__name__}")
    return values


def read_model_folder(folder: Path) -> GPT:
    """The model in fp32 on the CPU, in eval mode. Raises CheckpointError naming the file and the tensor."""
    values = read_config(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        pickled = (folder / "pytorch_model.bin").exists()
        reason = "holds a pickle, which can run code when it is loaded" if pickled else f"has no {WEIGHTS}"
        raise CheckpointError(f"{folder} {reason}", "convert it to safetensors first" if pickled else None)
    try:
        # n_ctx: the old name of n_positions, and its only one in what allenporter/nano-gpt exports
        config = from_hf_config({"n_positions": values["n_ctx"], **values} if "n_ctx" in values else values)
        state = from_hf(_read_tensors(path, config), config)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is damaged: {error}", "take another of the run's checkpoints, or fetch it anew"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error.message}", error.hint) from None
    with shapes_only():
        model = GPT(config)
    model.load_state_dict(state, assign=True)
    return model.eval()


def _read_tensors(path: Path, config: GPTConfig) -> dict[str, Tensor]:
    """The tensors that `config` needs, under our names: views of the file, so that they take no memory of their own."""
    with safe_open(path, framework="pt") as file:
        headers = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        shapes = {name: header.get_shape() for name, header in headers.items()}
        names = match_names(shapes, config)
        for name in names.values():
            if headers[name].get_dtype() not in _FLOATS:
                raise CheckpointError(
                    f"tensor {name} is of type {headers[name].get_dtype()}; known: {', '.join(_FLOATS)}"
                )
        tensors = {ours: file.get_tensor(theirs) for ours, theirs in names.items()}
        tied = tied_to(config)
        if tied and "lm_head.weight" in shapes and not torch.equal(file.get_tensor("lm_head.weight"), tensors[tied]):
            raise CheckpointError(f"lm_head.weight is not {tied}: an untied head, which config.json says is tied")
        return tensors


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
