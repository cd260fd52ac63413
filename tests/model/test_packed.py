"""A packed model: the same forward, to the rounding of its type; what a row becomes, whatever is beside it."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nano_gpt.config import GPTConfig
from nano_gpt.config.lora import LoRAConfig
from nano_gpt.errors import ConfigError
from nano_gpt.model import packed
from nano_gpt.model.gpt import GPT
from nano_gpt.model.lora import add_adapters
from nano_gpt.model.packed import pack

pytestmark = pytest.mark.usefixtures("multiplied")

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "GPT-2": {},
    "padded": {"vocab_size": 101},
    "all else": {"positions": "rope", "norm": "rmsnorm", "activation": "relu2", "bias": False, "tied": False},
}
WAYS: dict[str, dict[str, Any]] = {"fp32": {}, "bf16": {"dtype": torch.bfloat16}, "int8": {"quantize": "int8"}}
BOUNDS = {"fp32": 1e-5, "bf16": 0.02, "int8": 0.05}


def redrawn(**changes: Any) -> GPT:
    """Every tensor drawn anew, so that a part that is left out is seen."""
    model = GPT(GPTConfig(**{"vocab_size": 96, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4, **changes}))
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator) + ("ln_" in name)
    return model.eval()


def some_ids(rows: int = 3, length: int = 11) -> Tensor:
    return torch.randint(0, 96, (rows, length), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_forward_is_that_of_the_model(architecture: str, way: str) -> None:
    """The bound: of the mean difference, as a share of the spread of the logits."""
    model, ids = redrawn(**ARCHITECTURES[architecture]), some_ids()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.inference_mode():
        expected, found = model(ids), pack(model, **WAYS[way])(ids)
        assert torch.equal(model(ids), expected)  # the model itself is as it was
    assert model.state_dict().keys() == before.keys()
    assert found.shape == expected.shape and found.dtype == torch.float32
    difference = (found - expected).abs().mean() / expected.std()
    assert difference < BOUNDS[way]
    if way != "fp32":
        assert difference > 1e-4  # it is another way


@pytest.mark.parametrize("way", WAYS)
def test_a_row_is_the_same_to_the_last_bit_alone_and_among_others(way: str) -> None:
    """In every product; what is around them does not mix rows at all."""
    model = pack(redrawn(), **WAYS[way])
    x = torch.randn(9, 32, generator=torch.Generator().manual_seed(1))
    x[4] *= 100  # a row that would decide a common scale
    x[5] = 0.0
    for name in ("h.0.attn.c_attn", "h.1.mlp.c_fc", "lm_head"):
        product = model.get_submodule(name)
        together = product(x)
        assert together.isfinite().all()
        for count in (1, 2, 3, 5):
            assert torch.equal(product(x[3 : 3 + count]), together[3 : 3 + count])


@pytest.mark.parametrize("way", WAYS)
def test_adapters_are_part_of_their_matrices(way: str) -> None:
    model, ids = redrawn(), some_ids()
    add_adapters(model, LoRAConfig(rank=4, targets=("attn", "mlp"), dropout=0.3))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_B"):
            nn.init.normal_(parameter, std=0.1)
    model.eval()
    with torch.inference_mode():
        found, expected = pack(model, **WAYS[way])(ids), model(ids)
    assert (found - expected).abs().mean() < BOUNDS[way] * expected.std()


def test_without_onednn_products_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = redrawn(), some_ids()
    monkeypatch.setattr("nano_gpt.model.packed._has_onednn", lambda dtype: False)
    with torch.inference_mode():
        torch.testing.assert_close(pack(model)(ids), model(ids), rtol=1e-4, atol=1e-4)
        assert (pack(model, torch.bfloat16)(ids) - model(ids)).abs().mean() < 0.02 * model(ids).std()


def test_int8_on_a_gpu_without_torchao_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ConfigError, match="torchao"):
        packed._torchao_int8(torch.ones(3, 4), None)


def test_int8_by_torchao_as_a_gpu_has_it() -> None:
    """Its products run on a CPU too."""
    pytest.importorskip("torchao")
    linear = redrawn().get_submodule("h.0.mlp.c_fc")
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found, expected = packed._torchao_int8(linear.weight, linear.bias)(x).float(), linear(x)
    assert (found - expected).abs().mean() < 0.02 * expected.std()
