"""Small GPT-2s whose every tensor matters, and runs that hold one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nano_gpt.checkpoint.adapter import Adapter, write_adapter_folder
from nano_gpt.checkpoint.folder import write_model_folder
from nano_gpt.checkpoint.store import Checkpoint, CheckpointStore
from nano_gpt.config import GPTConfig, RunConfig, to_yaml
from nano_gpt.config.lora import LoRAConfig
from nano_gpt.model.gpt import GPT
from nano_gpt.model.lora import add_adapters, trained_state
from nano_gpt.tokenizer import load_tokenizer

TINY = GPTConfig(vocab_size=257, n_positions=32, n_embd=24, n_layer=2, n_head=3)


def redraw(model: torch.nn.Module, seed: int = 0) -> None:
    """Every tensor at std 0.1, norm weights around 1: at the initial values many a fault does not show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
            if ".ln_" in f".{name}" and name.endswith(".weight"):
                parameter.add_(1.0)


def small_model(config: GPTConfig = TINY, seed: int = 0) -> GPT:
    model = GPT(config).eval()
    redraw(model, seed)
    with torch.no_grad():
        model.wte.weight[config.vocab_size :] = 0.0
    return model


def write_folder(folder: Path, config: GPTConfig = TINY, seed: int = 0) -> GPT:
    """A plain model folder with the byte tokenizer."""
    folder.mkdir(parents=True)
    model = small_model(config, seed)
    write_model_folder(folder, config, dict(model.state_dict()), load_tokenizer("byte"))
    return model


def write_adapter(folder: Path, base: str) -> None:
    """Adapters of `base`, of rank 2, with the byte tokenizer."""
    model, lora = small_model(), LoRAConfig(rank=2)
    add_adapters(model, lora)
    folder.mkdir(parents=True)
    write_adapter_folder(folder, Adapter(base, lora), trained_state(model), load_tokenizer("byte"))


def write_run(
    run: Path,
    step: int = 40,
    state: dict[str, Any] | None = None,
    events: Sequence[dict[str, Any]] = (),
    config: RunConfig | None = None,
) -> Path:
    """A run folder with one checkpoint, whose path is returned."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(to_yaml(config or RunConfig()), encoding="utf-8")
    (run / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    checkpoint = Checkpoint(
        dict(small_model().state_dict()), {"exp_avg/x": torch.zeros(3)}, {"step": step, **(state or {})}
    )
    return CheckpointStore(run / "checkpoints", keep=3).save(checkpoint, TINY, load_tokenizer("byte"), best=True)
