"""Adapters that lie, are damaged, or lead back to themselves: refused in one line, before memory is taken for them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint.peer_files import little_memory
from hub.small_models import write_adapter, write_folder
from safetensors.torch import load_file, save_file

from nano_gpt.checkpoint.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from nano_gpt.checkpoint.source import load_model
from nano_gpt.errors import CheckpointError

ADAPTER = Path("adapter")


@pytest.fixture(autouse=True)
def adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """./adapter, of ./model."""
    monkeypatch.chdir(tmp_path)
    write_folder(Path("model"))
    write_adapter(ADAPTER, "model")
    load_model(checkpoint=ADAPTER)  # good, and what loads on first use is loaded


def tell(folder: Path = ADAPTER, **values: Any) -> None:
    """Other values for its config; ... removes one."""
    path = folder / ADAPTER_CONFIG
    changed = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in changed.items() if value is not ...}))


def refused() -> CheckpointError:
    with little_memory(), pytest.raises(CheckpointError) as caught:
        load_model(checkpoint=ADAPTER)
    message = caught.value.message
    assert message.isprintable() and len(message) < 400 and str(ADAPTER) in message
    return caught.value


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "ten to the twelfth ranks": ({"r": 10**12}, "its rank, r, is 1000000000000"),
    "one rank more": ({"r": 3}, r"says rank 3"),
    "rank -1": ({"r": -1}, "its rank, r, is -1"),
    "rank 0": ({"r": 0}, "its rank, r, is 0"),
    "a rank in words": ({"r": "2"}, "its rank, r, is '2'"),
    "a true rank": ({"r": True}, "its rank, r, is True"),
    "half a rank": ({"r": 2.0}, r"its rank, r, is 2\.0"),
    "no rank": ({"r": ...}, "its rank, r, is None"),
    "no number": ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
    "without end": ({"lora_alpha": float("-inf")}, "lora_alpha is -inf"),
    "more than a float holds": ({"lora_alpha": 10**400}, "lora_alpha is 1000"),
    "a true alpha": ({"lora_alpha": False}, "lora_alpha is False"),
    "alpha in words": ({"lora_alpha": "16"}, "lora_alpha is '16'"),
    "no alpha": ({"lora_alpha": None}, "lora_alpha is None"),
    "escapes": ({"peft_type": "\x1b[2J\n" * 99}, r"peft_type is '\\x1b\[2J\\n"),
    "another model's matrices": ({"target_modules": ["q_proj"]}, "target_modules has 'q_proj', of which there is no"),
    "fewer matrices": ({"target_modules": ["c_attn"]}, r"tensors of 'h\.\d\.\S+', and target_modules does not name"),
    "numbers for matrices": ({"target_modules": [3]}, "target_modules has 3"),
    "a list for a base": ({"base_model_name_or_path": ["model"]}, r"base model: \['model'\]"),
    "no base": ({"base_model_name_or_path": ...}, "base model: None"),
    "an empty base": ({"base_model_name_or_path": ""}, "base model: ''"),
    "a base that clears the screen": ({"base_model_name_or_path": "\x1b[2J"}, r"base model: '\\x1b"),
    "an endless base": ({"base_model_name_or_path": "a" * 10**6}, "base model: 'aaa"),
    "a name that no disk takes": ({"base_model_name_or_path": "a" * 999}, "cannot be opened: File name too long"),
}


@pytest.mark.parametrize(("values", "message"), LIES.values(), ids=LIES)
def test_a_lying_config(values: dict[str, Any], message: str) -> None:
    tell(**values)
    assert re.search(message, refused().message)


@pytest.mark.parametrize("base", ["gone", "runs/one/checkpoints/step_000100"])
def test_a_base_that_is_gone(base: str) -> None:
    tell(base_model_name_or_path=base)
    error = refused()
    assert "adapter holds adapters, and the model that they adapt cannot be opened: there is no folder" in error.message
    assert error.hint is not None and "--pretrained BASE --adapter adapter" in error.hint
    load_model("model", adapter=ADAPTER)  # as the hint says


def test_an_adapter_of_itself() -> None:
    for base in ("adapter", "./model/../adapter", str(ADAPTER.absolute())):
        tell(base_model_name_or_path=base)
        assert "adapts itself" in refused().message
    write_adapter(Path("other"), "adapter")
    tell(base_model_name_or_path="other")
    assert "adapts itself" in refused().message


def test_an_adapter_of_an_adapter() -> None:
    """Which is what comes of training adapters on a run of adapters."""
    tensors = load_file(ADAPTER / ADAPTER_WEIGHTS)
    save_file({name: torch.full_like(tensor, 0.1) for name, tensor in tensors.items()}, ADAPTER / ADAPTER_WEIGHTS)
    shutil.copytree(ADAPTER, "second")
    tell(Path("second"), base_model_name_or_path="adapter")
    plain, one, two = (load_model(checkpoint=name) for name in ("model", "adapter", "second"))
    name = "h.0.attn.c_attn.weight"
    weights = [loaded.model.state_dict()[name] for loaded in (plain, one, two)]
    torch.testing.assert_close(weights[2] - weights[1], weights[1] - weights[0])
    assert not torch.equal(weights[0], weights[1]) and two.origin == "second on adapter on model"


def test_flipped_bytes_of_a_header() -> None:
    """Without a manifest that tells of it: whatever such bytes mean, it is one line, or other numbers."""
    whole = (ADAPTER / ADAPTER_WEIGHTS).read_bytes()
    for place in range(0, 8 + int.from_bytes(whole[:8], "little"), 7):
        (ADAPTER / ADAPTER_WEIGHTS).write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        try:
            with little_memory():
                load_model(checkpoint=ADAPTER)
        except CheckpointError as error:
            assert error.message.isprintable() and error.message.startswith("adapter")


def test_a_header_of_exabytes() -> None:
    (ADAPTER / ADAPTER_WEIGHTS).write_bytes((2**60).to_bytes(8, "little") + b"{}" * 100)
    assert "adapter_model.safetensors is damaged" in refused().message


@pytest.mark.parametrize("tensor", [torch.ones(2, 24, dtype=torch.int64), torch.ones(24), torch.ones(2, 24, 1)])
def test_tensors_that_are_no_matrices(tensor: torch.Tensor) -> None:
    tensors = load_file(ADAPTER / ADAPTER_WEIGHTS)
    tensors["base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"] = tensor
    save_file(tensors, ADAPTER / ADAPTER_WEIGHTS)
    assert r"'h.0.attn.c_attn.lora_A' is no adapter" in refused().message
