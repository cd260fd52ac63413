"""The C of a packed model against the same in double precision, as each kind of CPU would compile it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nano_gpt.config import GPTConfig
from nano_gpt.model.cache import KVCache
from nano_gpt.model.gpt import GPT, Block
from nano_gpt.model.native import attention, linear
from nano_gpt.model.native.block import NativeBlock
from nano_gpt.model.native.linear import Kind
from nano_gpt.model.packed import pack
from nano_gpt.model.rope import rotary_table
from nano_gpt.runtime import compiled

KINDS: tuple[Kind, ...] = ("fp32", "bf16", "int8")
CAPABILITIES = {"native": ("AVX2", "AVX512"), "x86-64-v3": ("AVX2", "AVX512"), "x86-64-v4": ("AVX512",)}
WAYS: dict[Kind, dict[str, Any]] = {"fp32": {}, "bf16": {"dtype": torch.bfloat16}, "int8": {"quantize": "int8"}}
FOLDER = Path(linear.__file__).parent


@pytest.fixture(params=CAPABILITIES)
def cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """As another CPU would have it compiled: with AVX2 alone, with AVX-512 without products of bf16 and int8."""
    if torch.backends.cpu.get_cpu_capability() not in CAPABILITIES[request.param]:
        pytest.skip(f"this CPU is no {request.param}")
    flags = tuple(f"-march={request.param}" if flag.startswith("-march") else flag for flag in compiled._FLAGS)
    library = compiled.load(FOLDER, flags)
    if library is None:
        pytest.skip("nothing can be compiled here")
    monkeypatch.setattr(compiled, "load", lambda folder: library)
    threads = torch.get_num_threads()
    yield request.param
    torch.set_num_threads(threads)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(weight: Tensor, bias: Tensor | None, kind: Kind) -> torch.nn.Module:
    product = linear.native_linear(weight, bias, kind)
    assert product is not None
    return product


def in_double(x: Tensor, weight: Tensor, bias: Tensor, kind: Kind) -> Tensor:
    """What each kind means, number by number."""
    if kind == "bf16":
        x, weight = x.bfloat16(), weight.bfloat16()
    if kind == "int8":
        steps = 127 / x.abs().amax(dim=1, keepdim=True)
        scale = weight.abs().amax(dim=1, keepdim=True) / 127
        whole = (x * steps).round().double() @ (weight / scale).round().double().T
        return whole / steps.double() * scale.double().T + bias.double()
    return x.double() @ weight.double().T + bias.double()


@pytest.mark.parametrize("kind", KINDS)
def test_products_of_every_shape(cpu: str, kind: Kind) -> None:
    """Outputs beside a whole number of tiles, inputs beside a whole number of slots, rows beside a whole block."""
    for outputs, inputs in [(1, 1), (31, 2), (32, 3), (33, 5), (100, 64), (257, 130)]:
        weight, bias = drawn(outputs, inputs, seed=1), drawn(outputs, seed=2)
        product, bare = made(weight, bias, kind), made(weight, None, kind)
        for rows in (1, 2, 3, 7, 8, 9, 20):
            x = drawn(rows, inputs, seed=rows)
            expected = in_double(x, weight, bias, kind)
            bound = 2e-6 * (1 + x.abs().double() @ weight.abs().double().T).max()
            assert (product(x).double() - expected).abs().max() < bound, (outputs, inputs, rows)
            assert (bare(x).double() - (expected - bias.double())).abs().max() < bound
        assert product(drawn(2, 3, inputs)).shape == (2, 3, outputs)
        assert product(drawn(0, inputs)).shape == (0, outputs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_one_value_whatever_is_beside_it_and_however_many_threads(cpu: str, kind: Kind) -> None:
    product = made(drawn(100, 70, seed=1), drawn(100, seed=2), kind)
    x = drawn(600, 70) * torch.logspace(-3, 3, 600).unsqueeze(1)  # so many that they do not fit on the stack
    torch.set_num_threads(1)
    together = product(x)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for first in range(0, 40, 3):
            for count in (1, 2, 5, 8, 11):
                assert torch.equal(product(x[first : first + count]), together[first : first + count])
        assert torch.equal(product(x), together)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_number_stays_none_and_in_its_row(cpu: str, kind: Kind) -> None:
    product = made(drawn(40, 33, seed=1), None, kind)
    x = drawn(4, 33)
    clean = product(x)
    for broken in (torch.nan, torch.inf, -torch.inf):
        x[2, 7] = broken
        found = product(x)
        assert not found[2].isfinite().any()
        assert torch.equal(found[[0, 1, 3]], clean[[0, 1, 3]])
    assert torch.equal(product(torch.zeros(2, 33)), torch.zeros(2, 40))


def test_inputs_are_rounded_to_bf16_as_torch_does_it(cpu: str) -> None:
    """A matrix that copies: ties, the largest number, the smallest, those that round to infinity."""
    product = made(torch.eye(8), None, "bf16")
    numbers = [1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3.3e38, 1.2e-38, -0.0, 1 / 3, 65504.0]
    x = torch.tensor([numbers])
    assert torch.equal(product(x), x.bfloat16().float())


def caches(rows: int, places: int, seed: int) -> tuple[Tensor, Tensor]:
    return drawn(2, rows, 3, places, 20, seed=seed), drawn(2, rows, 3, places, 20, seed=seed + 1)


def test_a_new_token_looks_at_its_own_row_and_no_further(cpu: str) -> None:
    """q, k and v as they come from one product: a row of theirs is 180 numbers after the other."""
    places = torch.tensor([0, 5, 69, 31])
    keys, values = caches(4, 70, seed=3)
    attend = attention.native_attention(keys, values)
    assert attend is not None
    q, k, v = (drawn(4, 1, 180).view(4, 1, 9, 20).transpose(1, 2) * 3).split(3, dim=1)  # each (4, 3, 1, 20)
    before = keys.clone()
    found = attend(1, q, k, v, places)
    for row, place in enumerate(places.tolist()):
        assert torch.equal(keys[1, row, :, place], k[row, :, 0]) and torch.equal(values[1, row, :, place], v[row, :, 0])
        seen = slice(0, place + 1)
        expected = F.scaled_dot_product_attention(
            q[row].double(), keys[1, row, :, seen].double(), values[1, row, :, seen].double()
        )
        torch.testing.assert_close(found[row].double(), expected, rtol=1e-6, atol=1e-6)
        keys[1, row, :, place] = before[1, row, :, place]
    assert torch.equal(keys, before)  # all else is as it was


def test_attention_of_a_row_has_one_value_whatever_is_beside_it(cpu: str) -> None:
    places = torch.tensor([7, 63, 64])
    keys, values = caches(3, 128, seed=5)
    q, k, v = (drawn(3, 3, 1, 20, seed=seed) for seed in (1, 2, 3))
    attend = attention.native_attention(keys, values)
    assert attend is not None
    together = attend(0, q, k, v, places)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for row in range(3):
            one = slice(row, row + 1)
            alone = attention.native_attention(keys[:, one].contiguous(), values[:, one].contiguous())
            assert alone is not None
            assert torch.equal(alone(0, q[one], k[one], v[one], places[one]), together[one])


def test_attention_to_scores_far_apart(cpu: str) -> None:
    """exp() of what is far below the largest is 0 for fp32; a NaN is seen."""
    keys, values = torch.zeros(1, 1, 1, 4, 16), drawn(1, 1, 1, 4, 16)
    keys[0, 0, 0, :3, 0] = torch.tensor([1e4, -1e4, 9.999e3])
    attend = attention.native_attention(keys, values)
    assert attend is not None
    q = torch.zeros(1, 1, 1, 16)
    q[..., 0] = 4.0
    found = attend(0, q, torch.zeros(1, 1, 1, 16), drawn(1, 1, 1, 16), torch.tensor([3]))
    expected = F.scaled_dot_product_attention(q.double(), keys[0].double(), values[0].double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)
    q[0, 0, 0, 3] = torch.nan
    assert attend(0, q, torch.zeros(1, 1, 1, 16), drawn(1, 1, 1, 16), torch.tensor([3])).isnan().all()


def filled_cache(model: GPT, lengths: list[int]) -> KVCache:
    cache = KVCache(model.config, len(lengths), 32, torch.device("cpu"), torch.float32)
    for row, length in enumerate(lengths):
        read = KVCache(model.config, 1, length, torch.device("cpu"), torch.float32)
        model.hidden(torch.arange(length).unsqueeze(0) + row, read)
        cache.copy_rows(read, torch.tensor([0]), torch.tensor([row]))
    cache.extend(1)
    return cache


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_block_in_c_is_the_block(cpu: str, kind: Kind, bias: bool) -> None:
    model = GPT(GPTConfig(vocab_size=50, n_positions=32, n_embd=48, n_layer=2, n_head=3, bias=bias))
    for seed, (name, parameter) in enumerate(model.named_parameters()):
        parameter.data = drawn(*parameter.shape, seed=seed) * (5.0 if "c_fc" in name else 0.5)  # all of GELU is seen
    packed = pack(model, **WAYS[kind])
    lengths = [3, 17, 1, 30]
    x = drawn(4, 1, 48)
    before = x.clone()
    with torch.inference_mode():
        for layer, block in enumerate(packed.h):
            assert isinstance(block, NativeBlock)
            expected = Block.forward(block, x, filled_cache(packed, lengths), layer)
            together = filled_cache(packed, lengths)
            found = block(x, together, layer)
            difference = (found - expected).abs()
            assert difference.max() < 1e-5 * expected.abs().max() if kind == "fp32" else difference.mean() < 1e-3
            assert torch.equal(x, before)
            for row, length in enumerate(lengths):
                alone = filled_cache(packed, [length] * 9)  # of another number, where other rows are blocked otherwise
                # The same keys and values as this row's.
                alone.k[:], alone.v[:] = together.k[:, row : row + 1], together.v[:, row : row + 1]
                assert torch.equal(block(x[row].expand(9, 1, 48), alone, layer)[4], found[row])


@pytest.mark.parametrize(
    "changes", [{"activation": "relu2"}, {"positions": "rope", "norm": "rmsnorm"}, {"positions": "rope"}]
)
def test_other_blocks_go_on_op_by_op(cpu: str, changes: dict[str, str]) -> None:
    model = GPT(GPTConfig(**{"vocab_size": 50, "n_positions": 32, "n_embd": 48, "n_layer": 1, "n_head": 3, **changes}))
    packed = pack(model)
    assert isinstance(packed.h[0], NativeBlock) == (changes == {"positions": "rope"})
    x, rotary = drawn(2, 1, 48), rotary_table(torch.tensor([[5], [9]]), 16, 10000.0)
    if "positions" not in changes:
        rotary = None
    with torch.inference_mode():
        found = packed.h[0](x, filled_cache(packed, [5, 9]), 0, None, rotary)
        expected = model.h[0](x, filled_cache(packed, [5, 9]), 0, None, rotary)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_bf16_stays_one(cpu: str, kind: Kind) -> None:
    """Norms want what they read in their own type."""
    model = GPT(GPTConfig(vocab_size=50, n_positions=32, n_embd=48, n_layer=2, n_head=3)).bfloat16().eval()
    ids = torch.arange(20).unsqueeze(0)
    with torch.inference_mode():
        found, expected = pack(model, **WAYS[kind])(ids), model(ids)
    assert found.dtype == torch.bfloat16
    assert (found - expected).abs().mean() < 0.05 * expected.float().std()
