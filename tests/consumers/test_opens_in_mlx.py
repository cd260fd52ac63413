"""MLX: `mlx_lm.generate --model FOLDER`. On Linux: pip install mlx[cpu] mlx-lm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nano_gpt.checkpoint.source import LoadedModel
from nano_gpt.inference.text import generate


@pytest.fixture(scope="module")
def mlx_lm() -> Any:
    return pytest.importorskip("mlx_lm", reason="needs mlx[cpu] and mlx-lm")


@torch.inference_mode()
def test_logits(mlx_lm: Any, loaded: LoadedModel, exported: Path, prompt: str) -> None:
    import mlx.core as mx

    model, tokenizer = mlx_lm.load(str(exported))
    ids = tokenizer.encode(prompt)
    assert ids == loaded.tokenizer.encode(prompt) and tokenizer.eos_token_id == loaded.tokenizer.eot_id
    found = np.array(model(mx.array([ids])))
    np.testing.assert_allclose(found, loaded.model(torch.tensor([ids])).numpy(), atol=1e-4, rtol=0)


def test_text(mlx_lm: Any, loaded: LoadedModel, exported: Path, prompt: str) -> None:
    model, tokenizer = mlx_lm.load(str(exported))
    text = mlx_lm.generate(model, tokenizer, prompt=prompt, max_tokens=12)
    assert prompt + text == generate(loaded, prompt, max_new_tokens=12, temperature=0.0)[0]
