"""A model for the commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nano_gpt.checkpoint.folder import write_model_folder
from nano_gpt.config.model import GPTConfig
from nano_gpt.model.gpt import GPT
from nano_gpt.tokenizer import load_tokenizer


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tiny byte model that writes printable ASCII, in ./model of an otherwise empty working folder."""
    tokenizer = load_tokenizer("byte")
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, n_positions=64, n_embd=16, n_layer=1, n_head=2))
    model.ln_f.weight.data[0], model.ln_f.bias.data[0] = 0.0, 1.0  # the head reads a constant in column 0,
    model.wte.weight.data[:, 0] = -10.0
    model.wte.weight.data[97:123, 0] = 10.0  # which only a .. z answer
    (tmp_path / "model").mkdir()
    write_model_folder(tmp_path / "model", model.config, model.state_dict(), tokenizer)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return "./model"
