"""Adapters beside matrices: what they change, and what is trained."""

from __future__ import annotations

import copy

import pytest
import torch

from nano_gpt.config.lora import LoRAConfig
from nano_gpt.config.model import GPTConfig
from nano_gpt.model.gpt import GPT
from nano_gpt.model.lora import AdaptedLinear, add_adapters, is_adapter, trained_state

CONFIG = GPTConfig(vocab_size=40, n_positions=8, n_embd=12, n_layer=2, n_head=2)
IDS = torch.arange(16).view(2, 8)


def adapted(**lora: object) -> tuple[GPT, GPT]:
    torch.manual_seed(0)
    plain = GPT(CONFIG)
    model = copy.deepcopy(plain)
    add_adapters(model, LoRAConfig.model_validate({"rank": 3, **lora}))
    return plain, model


def test_they_change_nothing_at_first_and_names_stay() -> None:
    plain, model = adapted(dropout=0.5)
    assert torch.equal(plain(IDS), model(IDS))
    state = model.state_dict()
    assert {name for name in state if not is_adapter(name)} == plain.state_dict().keys()
    assert trained_state(model).keys() == {name for name in state if is_adapter(name)}
    assert trained_state(plain).keys() == plain.state_dict().keys()


@pytest.mark.parametrize(("targets", "modules"), [(("attn",), 2), (("mlp",), 2), (("mlp", "attn"), 4)])
def test_only_they_are_trained(targets: tuple[str, ...], modules: int) -> None:
    _, model = adapted(targets=targets)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == trained_state(model).keys() and len(trained) == 2 * 2 * modules
    assert all(f".{name.split('.')[2]}." in f".{'.'.join(targets)}." for name in trained)
    model(IDS, IDS).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == is_adapter(name)
        if name.endswith("lora_B"):  # A's is zero as long as B is
            assert parameter.grad is not None and parameter.grad.any()


@pytest.mark.parametrize(("alpha", "scale"), [(None, 2.0), (3.0, 1.0), (1.5, 0.5)])
def test_the_formula(alpha: float | None, scale: float) -> None:
    _, model = adapted(alpha=alpha)
    linear = model.h[1].mlp.c_fc
    assert isinstance(linear, AdaptedLinear)
    with torch.no_grad():
        linear.lora_B.normal_()
    x = torch.randn(2, 5, 12)
    whole = linear.weight + scale * linear.lora_B @ linear.lora_A
    torch.testing.assert_close(linear(x), torch.nn.functional.linear(x, whole, linear.bias))


def test_dropout_is_on_their_inputs_only() -> None:
    _, model = adapted(dropout=0.9)
    linear = model.h[0].attn.c_proj
    assert isinstance(linear, AdaptedLinear)
    x = torch.ones(4, 12)
    with torch.no_grad():
        linear.lora_B.fill_(1.0)
        assert torch.equal(linear.eval()(x)[0], linear(x)[1])
        in_training = linear.train()(x)
    rest = torch.nn.functional.linear(x, linear.weight, linear.bias)
    assert not torch.equal(in_training[0], in_training[1])
    assert (in_training - rest)[:, 0].allclose((in_training - rest)[:, 1], atol=1e-5)  # all of it is the adapter's
