"""Parts of a model that keep their weights: which they are, and that they do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from running import train

from nano_gpt.checkpoint.source import load_model
from nano_gpt.cli.main import run
from nano_gpt.config import GPTConfig, RunConfig, build
from nano_gpt.errors import ConfigError
from nano_gpt.model.gpt import GPT
from nano_gpt.training import overview
from nano_gpt.training.freezing import freeze
from nano_gpt.training.memory import step_memory

SHAPE = {"vocab_size": 32, "n_positions": 8, "n_embd": 8, "n_layer": 3, "n_head": 2}


def frozen(*patterns: str, **shape: Any) -> set[str]:
    model = GPT(build(GPTConfig, {**SHAPE, **shape}))
    freeze(model, patterns)
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def test_parts_by_name() -> None:
    assert frozen() == set()
    assert frozen("wte", "ln_f") == {"wte.weight", "ln_f.weight", "ln_f.bias"}
    assert frozen("ln_1.1") == {"h.1.ln_1.weight", "h.1.ln_1.bias"}
    assert {name.split(".")[1] for name in frozen("attn.0-1")} == {"0", "1"}
    assert all(".attn." in name for name in frozen("attn"))
    assert len(frozen("mlp")) == 3 * len(frozen("mlp.2"))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("atn", "no such part"),
        ("attn.", "no such part"),
        ("wte.1", "no such part"),
        ("mlp.3", "blocks 0 to 2"),
        ("mlp.2-1", "blocks 0 to 2"),
        ("mlp.0-3", "blocks 0 to 2"),
        ("lm_head", "has no lm_head"),
        ("", "no such part"),
    ],
)
def test_what_is_no_part_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        frozen("wte", pattern)


def test_something_must_be_left_to_train() -> None:
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        frozen("wte", "wpe", "ln_f", "attn", "mlp", "ln_1", "ln_2")


def test_frozen_parts_take_no_gradients_and_no_moments() -> None:
    def memory(optimizer: str, *patterns: str) -> dict[str, int]:
        training = {"freeze": patterns, "optimizer": {"name": optimizer}}
        config = build(RunConfig, {"model": {**SHAPE, "vocab_size": 64}, "training": training})
        fixed = step_memory(config, torch.device("cpu"), torch.float32).fixed
        assert overview._checkpoint_bytes(config) == fixed["weights"] + fixed["optimizer"]
        return fixed

    for optimizer in ("adamw", "muon"):
        whole, part = memory(optimizer), memory(optimizer, "mlp", "wte")
        matrices, vectors, table = 3 * 8 * 8 * 8, 3 * 5 * 8, 64 * 8
        assert whole["weights"] == part["weights"]
        assert whole["gradients"] - part["gradients"] == 4 * (matrices + vectors + table)
        moments = (1 if optimizer == "muon" else 2) * matrices + 2 * (vectors + table)
        assert whole["optimizer"] - part["optimizer"] == 4 * moments


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_keeps_their_weights(workplace: Path, optimizer: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--freeze", "wte,attn.0,mlp.1", "--optimizer", optimizer, "--weight-decay", "0.5")
    assert train("runs/a", *flags, "--checkpoint-steps", "3", "--max-steps", "6") == 0
    assert "frozen: wte, attn.0, mlp.1; " in capsys.readouterr().err
    before, after = (load_model(checkpoint=f"runs/a/checkpoints/step_{step:06d}").model for step in (3, 6))
    kept = {
        name
        for (name, first), last in zip(before.named_parameters(), after.parameters(), strict=True)
        if torch.equal(first, last)
    }
    assert kept == frozen("wte", "attn.0", "mlp.1", n_layer=2)

    assert run(["verify-resume", "runs/a", "--steps", "2"]) == 0
    capsys.readouterr()
    assert run(["train", "--resume", "runs/a", "--max-steps", "8", "--freeze", "wte"]) == 1
    assert "training.freeze was" in capsys.readouterr().err
