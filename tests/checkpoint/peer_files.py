"""Small files in the formats of other trainers, written by our own code."""

from __future__ import annotations

import dataclasses
import resource
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from nano_gpt.config import GPTConfig
from nano_gpt.model.gpt import GPT

Values = dict[str, Any]


def settings_of(config: GPTConfig) -> Values:
    """Under the names that all of them use."""
    return {
        "block_size": config.n_positions,
        "vocab_size": config.vocab_size,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
    }


def weights_of(model: GPT, prefix: str = "transformer.") -> dict[str, Tensor]:
    """A state dict as they keep it: without our padding rows, and with the tied head once more."""
    state = {prefix + name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    embedding = state[prefix + "wte.weight"][: model.config.vocab_size].clone()
    return {
        **state,
        prefix + "wte.weight": embedding,
        prefix.replace("transformer.", "") + "lm_head.weight": embedding,
    }


def nanogpt_values(model: GPT, prefix: str = "transformer.") -> Values:
    return {
        "model": weights_of(model, prefix),
        "optimizer": {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3)}}, "param_groups": []},
        "model_args": {**settings_of(model.config), "bias": model.config.bias, "dropout": 0.0},
        "iter_num": 5000,
        "best_val_loss": torch.tensor(1.46971),
        "config": {"dataset": "shakespeare_char", "device": "cuda", "compile": True},
    }


def write_nanogpt(path: Path, model: GPT) -> None:
    torch.save(nanogpt_values(model), path)


def write_nanogpt_compiled(path: Path, model: GPT) -> None:
    """With parameters where others keep tensors: forks do."""
    values = nanogpt_values(model, "_orig_mod.transformer.")
    torch.save(
        {**values, "model": {name: torch.nn.Parameter(tensor) for name, tensor in values["model"].items()}}, path
    )


def write_build_nanogpt(path: Path, model: GPT) -> None:
    """Its settings are a dataclass of the script itself, which the pickle names `__main__.GPTConfig`."""
    settings = settings_of(model.config)
    theirs = dataclasses.make_dataclass("GPTConfig", settings)
    theirs.__module__, theirs.__qualname__ = "__main__", "GPTConfig"
    values = {"model": weights_of(model), "config": theirs(**settings), "step": 19072, "val_loss": 3.0538}
    with mock.patch.object(sys.modules["__main__"], "GPTConfig", theirs, create=True):
        torch.save(values, path)


def write_predecessor(path: Path, model: GPT) -> None:
    weights = weights_of(model, "_orig_mod.transformer.")
    for layer in range(model.config.n_layer):
        weights[f"_orig_mod.transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 4, 4).tril()
    values = {
        "model_state_dict": weights,
        "config": settings_of(model.config),
        "step": 250,
        "val_loss_accum": None,
        "optimizer_state_dict": None,
        "train_config": {"checkpoint_dir": "checkpoints", "max_lr": 6e-4},
        "name": None,
    }
    torch.save(values, path)


def llmc_header(config: GPTConfig, version: int = 3, magic: int = 20240326) -> list[int]:
    shape = [config.n_positions, config.vocab_size or 0, config.n_layer, config.n_head, config.n_embd]
    return [magic, version, *shape, config.padded_vocab_size, *[0] * 248]


def llmc_bytes(header: list[int], model: GPT) -> bytes:
    """The order is llm.c's: what is of one kind in all layers lies together."""
    state, layers = model.state_dict(), range(model.config.n_layer)
    kinds = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    names = [f"h.{layer}.{kind}.{part}" for kind in kinds for part in ("weight", "bias") for layer in layers]
    ordered = [state[name] for name in ("wte.weight", "wpe.weight", *names, "ln_f.weight", "ln_f.bias")]
    numbers = torch.cat([tensor.detach().flatten() for tensor in ordered])
    body = numbers.numpy().tobytes() if header[1] == 3 else numbers.bfloat16().view(torch.int16).numpy().tobytes()
    return struct.pack("<256i", *header) + body


def write_llmc(path: Path, model: GPT) -> None:
    path.write_bytes(llmc_bytes(llmc_header(model.config), model))


def write_llmc_bf16(path: Path, model: GPT) -> None:
    """Exact only for weights that bf16 holds."""
    path.write_bytes(llmc_bytes(llmc_header(model.config, version=5), model))


@contextmanager
def little_memory(more: int = 2**28) -> Iterator[None]:
    """Whoever asks for more than `more` bytes in here gets a MemoryError (on Linux; elsewhere nothing is limited)."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        yield
        return
    used = int(statm.read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
