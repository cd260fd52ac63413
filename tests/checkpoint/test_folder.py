"""The plain GPT-2 folder: the same model in transformers and here, and nothing but a whole one is read."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hub.small_models import TINY, redraw, write_folder
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from nano_gpt.checkpoint.folder import CONFIG, WEIGHTS, read_model_folder
from nano_gpt.config import GPTConfig
from nano_gpt.errors import CheckpointError

CONFIGS = {
    "padded vocabulary": TINY,
    "one layer, one head, vocabulary of whole rows": GPTConfig(
        vocab_size=320, n_positions=8, n_embd=16, n_layer=1, n_head=1, layer_norm_epsilon=1e-3
    ),
    "eleven layers": GPTConfig(vocab_size=260, n_positions=16, n_embd=8, n_layer=11, n_head=2, dropout=0.5),
}


@torch.inference_mode()
def difference(ours: Any, theirs: Any, config: GPTConfig) -> float:
    ids = torch.randint(config.vocab_size or 0, (2, config.n_positions), generator=torch.Generator().manual_seed(1))
    return float((ours(ids) - theirs.eval()(ids).logits).abs().max())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_transformers_reads_ours(tmp_path: Path, config: GPTConfig) -> None:
    model = write_folder(tmp_path / "model", config)
    theirs, info = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(info.values()), info
    assert difference(model, theirs, config) <= 1e-4
    again = read_model_folder(tmp_path / "model").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


def transformers_model(config: GPTConfig = TINY) -> GPT2LMHeadModel:
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.n_positions,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            layer_norm_epsilon=config.layer_norm_epsilon,
        )
    )
    redraw(theirs)
    return theirs


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_we_read_what_transformers_writes(tmp_path: Path, config: GPTConfig) -> None:
    theirs = transformers_model(config)
    theirs.save_pretrained(tmp_path)
    assert difference(read_model_folder(tmp_path), theirs, config) <= 1e-4


def test_old_checkpoints_with_masks_head_and_either_spelling(tmp_path: Path) -> None:
    theirs = transformers_model()
    theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    assert all(name.startswith("transformer.") for name in tensors)
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
    for layer in range(TINY.n_layer):
        tensors[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 32, 32)
        tensors[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, tmp_path / WEIGHTS)
    assert difference(read_model_folder(tmp_path), theirs, TINY) <= 1e-4
    save_file({name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}, tmp_path / WEIGHTS)
    assert difference(read_model_folder(tmp_path), theirs, TINY) <= 1e-4


def test_half_precision_is_read_as_fp32(tmp_path: Path) -> None:
    theirs = transformers_model().bfloat16()
    theirs.save_pretrained(tmp_path)
    model = read_model_folder(tmp_path)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert difference(model, theirs.float(), TINY) <= 1e-4


def test_the_model_does_not_change_with_the_file(tmp_path: Path) -> None:
    """safetensors gives views of the file; a model that keeps them changes, or dies, when the file is written to."""
    write_folder(tmp_path / "model")
    model = read_model_folder(tmp_path / "model")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    file = tmp_path / "model" / WEIGHTS
    with file.open("rb+") as open_file:
        open_file.seek(file.stat().st_size // 4)
        open_file.write(b"\x11" * (file.stat().st_size // 2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_others_may_read_the_weights(tmp_path: Path) -> None:
    write_folder(tmp_path / "model")
    assert (tmp_path / "model" / WEIGHTS).stat().st_mode == (tmp_path / "model" / CONFIG).stat().st_mode


def test_config_names_that_other_readers_need(tmp_path: Path) -> None:
    write_folder(tmp_path / "model")
    values = json.loads((tmp_path / "model" / CONFIG).read_text())
    assert values["n_ctx"] == values["n_positions"] == TINY.n_positions
    assert values["architectures"] == ["GPT2LMHeadModel"] and values["model_type"] == "gpt2"
    assert values["vocab_size"] == 257, "the padding of the embedding stays inside"
    names = load_file(tmp_path / "model" / WEIGHTS)
    assert "lm_head.weight" not in names and not any(name.startswith("transformer.") for name in names)


def refused(folder: Path) -> CheckpointError:
    """The error of reading `folder`, which must come before a model of the promised size is built."""
    start = time.perf_counter()
    with pytest.raises(CheckpointError) as caught:
        read_model_folder(folder)
    assert time.perf_counter() - start < 5
    assert "\n" not in caught.value.message
    return caught.value


Tensors = dict[str, torch.Tensor]
TENSOR_FAULTS: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "missing": (lambda t: t.pop("h.1.mlp.c_fc.bias"), "h.1.mlp.c_fc.bias is missing"),
    "shape": (lambda t: t.update({"wpe.weight": torch.zeros(33, 24)}), r"wpe.weight is \(33, 24\).* \(32, 24\)"),
    "not transposed": (lambda t: t.update({"h.0.mlp.c_fc.weight": torch.zeros(96, 24)}), "h.0.mlp.c_fc.weight is"),
    "extra": (lambda t: t.update({"h.2.ln_1.weight": torch.zeros(24)}), "h.2.ln_1.weight does not belong"),
    "stranger": (lambda t: t.update({"adapter": torch.zeros(1)}), "adapter does not belong"),
    "integers": (lambda t: t.update({"ln_f.bias": torch.zeros(24, dtype=torch.int64)}), "ln_f.bias is of type I64"),
    "untied head": (lambda t: t.update({"lm_head.weight": torch.zeros(257, 24)}), "untied head"),
    "empty": (lambda t: t.clear(), "too few"),
}


@pytest.mark.parametrize(("fault", "message"), TENSOR_FAULTS.values(), ids=TENSOR_FAULTS)
def test_strict_about_tensors(tmp_path: Path, fault: Callable[[Tensors], object], message: str) -> None:
    write_folder(tmp_path / "model")
    tensors = load_file(tmp_path / "model" / WEIGHTS)
    fault(tensors)
    save_file(tensors, tmp_path / "model" / WEIGHTS)
    with pytest.raises(CheckpointError, match=message):
        read_model_folder(tmp_path / "model")


CONFIG_LIES = [
    {"n_layer": 3},
    {"n_layer": 1},
    {"n_layer": 2**31 - 1},
    {"n_layer": "2"},
    {"n_layer": True},
    {"n_head": 5},
    {"n_head": 0},
    {"n_head": -3},
    {"n_embd": 48},
    {"n_embd": 24.0},
    {"n_positions": 1024},
    {"n_positions": None},
    {"vocab_size": 10**12},
    {"vocab_size": 2**31 - 1},
    {"vocab_size": 257e0},
    {"layer_norm_epsilon": "1e-5"},
    {"layer_norm_epsilon": float("nan")},
    {"layer_norm_epsilon": None},
    {"model_type": "llama"},
    {"model_type": None},
    {"activation_function": "relu"},
    {"activation_function": ["gelu_new"]},
    {"tie_word_embeddings": False},
    {"scale_attn_by_inverse_layer_idx": True},
    {"n_inner": 95},
]


@pytest.mark.parametrize("lie", CONFIG_LIES, ids=str)
def test_a_lying_config(tmp_path: Path, lie: dict[str, Any]) -> None:
    write_folder(tmp_path / "model")
    path = tmp_path / "model" / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **lie}))
    error = refused(tmp_path / "model")
    assert str(tmp_path / "model") in error.message


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"gpt2"', "[" * 100_000, "\udcff", '{"n_layer": ' + "9" * 5000 + "}"]
)
def test_a_config_that_is_no_json_object(tmp_path: Path, text: str) -> None:
    write_folder(tmp_path / "model")
    (tmp_path / "model" / CONFIG).write_text(text, errors="surrogateescape")
    assert CONFIG in refused(tmp_path / "model").message


def one_tensor(shape: list[int], size: int) -> bytes:
    """The header of a file with this tensor in it."""
    text = json.dumps({"wte.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(text)) + text


BAD_WEIGHTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half a length": lambda data: data[:5],
    "header cut": lambda data: data[:100],
    "data cut": lambda data: data[:-1],
    "trailing bytes": lambda data: data + b"\0",
    "header flipped": lambda data: data[:20] + bytes([data[20] ^ 0x80]) + data[21:],
    "header of 2^60 bytes": lambda data: struct.pack("<Q", 2**60) + data[8:],
    "header as long as allowed, and not there": lambda data: struct.pack("<Q", 99_000_000) + data[8:],
    "petabytes": lambda data: one_tensor([10**12, 1000], 4 * 10**15),
    "shape overflows": lambda data: one_tensor([2**63, 2**63], 4) + b"abcd",
    "no JSON": lambda data: struct.pack("<Q", 10_000) + b"x" * 20_000,
    "a pickle": lambda data: b"\x80\x02cposix\nsystem\n" * 100,
}


@pytest.mark.parametrize("spoil", BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_damaged_weights(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    write_folder(tmp_path / "model")
    path = tmp_path / "model" / WEIGHTS
    path.write_bytes(spoil(path.read_bytes()))
    assert str(path) in refused(tmp_path / "model").message


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    write_folder(tmp_path / "model")
    (tmp_path / "model" / WEIGHTS).rename(tmp_path / "model" / "pytorch_model.bin")
    error = refused(tmp_path / "model")
    assert "pickle" in error.message and error.hint == "convert it to safetensors first"


def test_what_is_not_there(tmp_path: Path) -> None:
    assert "no config.json" in refused(tmp_path).message
    (tmp_path / CONFIG).write_text("{}")
    assert "no model.safetensors" in refused(tmp_path).message
    (tmp_path / WEIGHTS).mkdir()
    assert "no model.safetensors" in refused(tmp_path).message


def test_the_embedding_is_padded_with_zeros(tmp_path: Path) -> None:
    transformers_model().save_pretrained(tmp_path)
    weight = read_model_folder(tmp_path).wte.weight
    assert weight.shape == (320, 24) and not weight[257:].any()
