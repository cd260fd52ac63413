"""Adapters in PEFT's format: PEFT opens ours, we open PEFT's, and what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hub.small_models import small_model
from safetensors.torch import load_file, save_file

from nano_gpt.checkpoint.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter, merge, read_adapter
from nano_gpt.checkpoint.adapter import write_adapter_folder as write
from nano_gpt.checkpoint.folder import write_model_folder
from nano_gpt.checkpoint.source import load_model
from nano_gpt.config.lora import LoRAConfig
from nano_gpt.errors import CheckpointError
from nano_gpt.model.gpt import GPT
from nano_gpt.model.lora import add_adapters, trained_state
from nano_gpt.tokenizer import load_tokenizer

BYTE = load_tokenizer("byte")
LORA = LoRAConfig(rank=2, alpha=3.0)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    model = small_model()
    write_model_folder(tmp_path / "base", model.config, model.state_dict(), BYTE)
    return tmp_path / "base"


def trained_adapter(base: Path, folder: Path, lora: LoRAConfig = LORA) -> GPT:
    """The adapted model; its adapters are written to `folder`."""
    model = load_model(str(base)).model
    add_adapters(model, lora)
    torch.manual_seed(1)
    state = trained_state(model)
    for tensor in state.values():
        tensor.normal_(std=0.2)
    folder.mkdir()
    write(folder, Adapter(str(base), lora), state, BYTE)
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(20).view(2, 10)
    with torch.inference_mode():
        found = model(ids)
    return found if isinstance(found, torch.Tensor) else found.logits


def test_the_same_model_again(base: Path, tmp_path: Path) -> None:
    model = trained_adapter(base, tmp_path / "adapter")
    plain = load_model(str(base))
    for loaded in (load_model(checkpoint=tmp_path / "adapter"), load_model(str(base), adapter=tmp_path / "adapter")):
        assert loaded.adapter and loaded.tokenizer.fingerprint == BYTE.fingerprint
        assert loaded.model.state_dict().keys() == plain.model.state_dict().keys()
        torch.testing.assert_close(logits(loaded.model), logits(model), rtol=0, atol=1e-5)
        assert (logits(loaded.model) - logits(plain.model)).abs().max() > 0.01


@pytest.mark.parametrize("targets", [("attn",), ("attn", "mlp")])
def test_peft_opens_ours(base: Path, tmp_path: Path, targets: Any) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    model = trained_adapter(base, tmp_path / "adapter", LORA.model_copy(update={"targets": targets}))
    theirs = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter"
    ).eval()
    torch.testing.assert_close(logits(theirs), logits(model), rtol=0, atol=1e-5)


def test_we_open_pefts(base: Path, tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(base), config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    theirs.save_pretrained(tmp_path / "adapter")
    loaded = load_model(str(base), adapter=tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded.model), logits(theirs), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'; known is 'LORA'"),
        ({"use_dora": True}, "use_dora is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"rank_pattern": {"c_attn": 9}}, "rank_pattern"),
        ({"modules_to_save": ["wte"]}, "modules_to_save"),
    ],
)
def test_a_config_that_asks_for_something_else(
    base: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    trained_adapter(base, tmp_path / "adapter")
    file = tmp_path / "adapter" / ADAPTER_CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    with pytest.raises(CheckpointError, match=message):
        read_adapter(tmp_path / "adapter")


@pytest.mark.parametrize("fault", ["missing", "shape", "rank", "module", "name"])
def test_tensors_that_do_not_fit(base: Path, tmp_path: Path, fault: str) -> None:
    trained_adapter(base, tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / ADAPTER_WEIGHTS)
    name = "base_model.model.transformer.h.1.mlp.c_fc.lora_B.weight"
    tensor = tensors.pop(name)
    tensors |= {
        "missing": {},
        "shape": {name: tensor[:-1].contiguous()},
        "rank": {name: tensor[:, :-1].contiguous()},
        "module": {name.replace("h.1", "h.7"): tensor},
        "name": {name: tensor, "base_model.model.transformer.wte.weight": tensor.clone()},
    }[fault]
    save_file(tensors, tmp_path / "adapter" / ADAPTER_WEIGHTS)
    model = load_model(str(base)).model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"does not fit the model|is no adapter of a GPT-2|says rank 2"):
        merge(model, read_adapter(tmp_path / "adapter"))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_damaged_weights_are_named(base: Path, tmp_path: Path) -> None:
    trained_adapter(base, tmp_path / "adapter")
    (tmp_path / "adapter" / ADAPTER_WEIGHTS).write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors is damaged"):
        load_model(checkpoint=tmp_path / "adapter")
