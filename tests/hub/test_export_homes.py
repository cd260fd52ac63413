"""The proof of an export covers every architecture that a model is written as."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hub.small_models import TINY, small_model

from nano_gpt.checkpoint.folder import CONFIG
from nano_gpt.checkpoint.source import LoadedModel, load_model
from nano_gpt.errors import CheckpointError
from nano_gpt.hub import export as export_module
from nano_gpt.hub.export import export
from nano_gpt.hub.precision import Precision
from nano_gpt.tokenizer import load_tokenizer

HOMES = {
    "GPT2LMHeadModel": {"activation": "relu2", "bias": False, "tied": False},
    "Starcoder2ForCausalLM": {"positions": "rope", "rope_theta": 500.0},
    "ArceeForCausalLM": {"positions": "rope", "norm": "rmsnorm", "bias": False, "tied": False},
}


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def loaded_model(options: dict[str, Any]) -> LoadedModel:
    return LoadedModel(small_model(TINY.model_copy(update=options)), load_tokenizer("byte"), "a test")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("architecture", "options"), HOMES.items(), ids=HOMES)
def test_it_agrees_and_comes_back(architecture: str, options: dict[str, Any], precision: Precision) -> None:
    loaded = loaded_model(options)
    assert export(loaded, Path("export"), precision=precision).largest_difference <= 1e-4
    assert json.loads(Path("export", CONFIG).read_text())["architectures"] == [architecture]
    again = load_model("export").model
    assert again.config == loaded.model.config
    ids = torch.arange(16)[None]
    with torch.inference_mode():
        difference = float((again(ids) - loaded.model(ids)).abs().max())
    assert difference == 0.0 if precision == "fp32" else difference < 0.1


@pytest.mark.parametrize(
    ("architecture", "lie"),
    [
        ("GPT2LMHeadModel", {"activation_function": "gelu_new"}),
        ("Starcoder2ForCausalLM", {"hidden_act": "relu2"}),
        ("Starcoder2ForCausalLM", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
        ("ArceeForCausalLM", {"rms_norm_eps": 0.1}),
    ],
)
def test_an_export_that_says_something_else_is_not_made(
    architecture: str, lie: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these loads in transformers without an error."""
    honest = export_module.write_model_folder

    def lying(folder: Path, *arguments: Any) -> None:
        honest(folder, *arguments)
        (folder / CONFIG).write_text(json.dumps({**json.loads((folder / CONFIG).read_text()), **lie}))

    monkeypatch.setattr(export_module, "write_model_folder", lying)
    with pytest.raises(CheckpointError, match="logits differ"):
        export(loaded_model(HOMES[architecture]), Path("export"))
    assert not Path("export").exists()
