"""What GPTConfig's options change about the network, and what they leave as it is. Parity is in tests/parity."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from nano_gpt.config import GPTConfig
from nano_gpt.model.activation import squared_relu
from nano_gpt.model.attention import document_mask
from nano_gpt.model.cache import KVCache
from nano_gpt.model.gpt import GPT
from nano_gpt.model.rope import rotary_table, rotated

ROPE: dict[str, Any] = {"positions": "rope"}
MODERN: dict[str, Any] = {"positions": "rope", "norm": "rmsnorm", "activation": "relu2", "bias": False, "tied": False}
MIXES = {
    "rope": ROPE,
    "modern": MODERN,
    "no biases": {"bias": False},
    "untied": {"tied": False},
    "relu2": {"activation": "relu2"},
    "rope without biases": {**ROPE, "bias": False},
    "rmsnorm with biases": {**ROPE, "norm": "rmsnorm"},
}


def config_of(options: dict[str, Any]) -> GPTConfig:
    return GPTConfig(vocab_size=101, n_positions=16, n_embd=32, n_layer=3, n_head=4, **options)


@pytest.fixture(params=MIXES.values(), ids=MIXES)
def config(request: pytest.FixtureRequest) -> GPTConfig:
    return config_of(request.param)


def redrawn(config: GPTConfig) -> GPT:
    torch.manual_seed(0)
    model = GPT(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(mean=float(".ln_" in f".{name}" and name.endswith("weight")), std=0.2)
    return model


def some_ids(rows: int = 2, length: int = 16) -> torch.Tensor:
    return torch.randint(0, 101, (rows, length), generator=torch.Generator().manual_seed(1))


def test_the_parameters_are_those_that_the_options_name(config: GPTConfig) -> None:
    names = dict(GPT(config).named_parameters())
    assert ("wpe.weight" in names) == (config.positions == "learned")
    assert ("lm_head.weight" in names) == (not config.tied)
    assert ("h.0.attn.c_attn.bias" in names) == config.bias
    assert ("ln_f.bias" in names) == (config.bias and config.norm == "layernorm")
    assert config.bias or not any(name.endswith("bias") for name in names)


def test_initialisation_of_a_head_of_its_own() -> None:
    torch.manual_seed(0)
    model = GPT(config_of(MODERN))
    head = model.lm_head.weight
    assert head.shape == (128, 32) and not torch.equal(head, model.wte.weight)
    assert float(head[:101].detach().std()) == pytest.approx(0.02, rel=4 / math.sqrt(2 * 101 * 32))
    assert not head[101:].any() and not model.wte.weight[101:].any()
    assert all(norm.weight.eq(1).all() for norm in (model.ln_f, model.h[0].ln_1, model.h[0].ln_2))
    assert float(model.h[0].mlp.c_proj.weight.detach().std()) == pytest.approx(0.02 / math.sqrt(6), rel=0.1)


def test_padding_of_an_untied_head_stays_zero() -> None:
    model = GPT(config_of({"tied": False})).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        ids = some_ids()
        optimizer.zero_grad()
        model(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step()
    assert model(some_ids()).shape == (2, 16, 101)
    assert not model.lm_head.weight[101:].any() and model.lm_head.weight[:101].any(dim=1).all()
    assert not model.wte.weight[101:].any()


@pytest.mark.parametrize("prefill", [1, 7, 16])
def test_cached_equals_uncached(config: GPTConfig, prefill: int) -> None:
    model, ids = redrawn(config), some_ids()
    cache = KVCache(config, 2, 16, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        expected = model(ids)
        pieces = [model(ids[:, :prefill], cache=cache)]
        pieces += [model(ids[:, place : place + 1], cache=cache) for place in range(prefill, 16)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, atol=1e-4, rtol=0)


def test_no_token_sees_the_future_and_positions_count(config: GPTConfig) -> None:
    model, ids = redrawn(config), some_ids(rows=1)
    other = ids.clone()
    other[0, 5] = (ids[0, 5] + 1) % 101
    swapped = ids.clone()
    swapped[0, :2] = ids[0, :2].flip(0)
    with torch.no_grad():
        before, after, turned = model(ids)[0], model(other)[0], model(swapped)[0]
    assert torch.equal(before[:5], after[:5]) and ((before - after).abs().amax(dim=-1)[5:] > 1e-4).all()
    assert float((before - turned)[-1].abs().max()) > 1e-4  # the order of what is far back


def test_a_place_turns_and_distances_are_seen() -> None:
    """A query at m meets a key at n as at m + 5 and n + 5, and not as at m + 5 and n; lengths stay."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 1, 8, generator=generator) for _ in range(2))

    def met(m: int, n: int) -> float:
        turned_q, turned_k = (
            rotated(x, rotary_table(torch.tensor([place]), 8, 100.0)) for x, place in ((q, m), (k, n))
        )
        assert float(turned_q.norm()) == pytest.approx(float(q.norm()), rel=1e-5)
        return float((turned_q * turned_k).sum())

    assert met(3, 1) == pytest.approx(met(8, 6), abs=1e-5)
    assert met(3, 1) != pytest.approx(met(8, 1), abs=1e-2)
    assert met(4, 4) == pytest.approx(float((q * k).sum()), abs=1e-5)


def test_angles_of_a_small_table() -> None:
    """By hand: hs = 4 has the frequencies 1 and 100^(-1/2), each for columns i and i + 2."""
    cos, sin = rotary_table(torch.tensor([0, 3]), 4, 100.0)
    angles = torch.tensor([[0.0, 0.0, 0.0, 0.0], [3.0, 0.3, 3.0, 0.3]])
    torch.testing.assert_close(cos, angles.cos())
    torch.testing.assert_close(sin, angles.sin())
    turned = rotated(torch.tensor([[[[1.0, 0.0, 0.0, 0.0]]]]), rotary_table(torch.tensor([3]), 4, 100.0))
    torch.testing.assert_close(turned.flatten(), torch.tensor([math.cos(3), 0.0, math.sin(3), 0.0]))


def test_places_are_told_apart_in_bf16() -> None:
    """bf16 has 8 bits: 256 and 257 are one number there, so the angles are made in fp32 also under autocast."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        table = rotary_table(torch.tensor([256, 257]), 8, 10000.0)
        assert rotated(torch.ones(1, 1, 2, 8, dtype=torch.bfloat16), table).dtype == torch.bfloat16
    assert table.dtype == torch.float32 and not torch.allclose(table[:, 0], table[:, 1])


@pytest.mark.parametrize("options", [ROPE, MODERN], ids=["rope", "modern"])
def test_packed_documents_are_read_as_alone(options: dict[str, Any]) -> None:
    """Under the mask of documents only distances count, so where a document begins makes no difference."""
    model, ids = redrawn(config_of(options)), some_ids(rows=1)
    documents = torch.tensor([[0] * 5 + [1] * 11])
    with torch.no_grad():
        packed = model.head(model.hidden(ids, mask=document_mask(documents)))
        alone = torch.cat([model(ids[:, :5]), model(ids[:, 5:])], dim=1)
    torch.testing.assert_close(packed, alone, atol=1e-4, rtol=0)


def test_dropout_is_for_training_only(config: GPTConfig) -> None:
    plain, dropping = redrawn(config), redrawn(config.model_copy(update={"dropout": 0.5}))
    with torch.no_grad():
        assert torch.equal(dropping(some_ids()), plain(some_ids()))
        assert not torch.equal(dropping.train()(some_ids()), plain(some_ids()))


def test_squared_relu() -> None:
    assert squared_relu(torch.tensor([-2.0, 0.0, 3.0])).tolist() == [0.0, 0.0, 9.0]


def test_every_weight_gets_a_gradient(config: GPTConfig) -> None:
    model = redrawn(config)
    model(some_ids(), some_ids().roll(-1, dims=1)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 1e-4 for p in model.parameters())
