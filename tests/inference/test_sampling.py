"""The sampling functions: what they must never do, on any logits, and that the distribution is the right one."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nano_gpt.config.inference import SamplingConfig
from nano_gpt.inference.sampling import (
    BROKEN,
    apply_min_p,
    apply_repetition_penalty,
    apply_temperature,
    apply_top_p,
    candidates,
    draw,
    sample,
    uniforms,
)

in_its_time = settings(deadline=None)  # the first call of a kernel is slow

finite = st.integers(-3200, 3200).map(lambda n: n / 64)  # a grid, so that ties are ties at every temperature
rows_of_logits = (
    st.integers(1, 12)
    .flatmap(lambda size: st.lists(st.lists(finite, min_size=size, max_size=size), min_size=1, max_size=4))
    .map(torch.tensor)
)
anywhere = st.floats(0, 1, exclude_max=True, width=32)


def kept(logits: Tensor) -> Tensor:
    return logits > -torch.inf


def plain(**changes: object) -> SamplingConfig:
    return SamplingConfig(**{"top_k": None, **changes})


@in_its_time
@given(rows_of_logits, st.integers(1, 20))
def test_top_k_keeps_the_k_largest(logits: Tensor, k: int) -> None:
    allowed = candidates(logits, plain(top_k=k))
    for row, values, ids in zip(logits, allowed.logits, allowed.ids if k < logits.size(1) else logits, strict=True):
        assert torch.equal(values.sort().values, (row - row.max()).sort().values[-k:])
        if k < len(row):
            assert torch.equal(row[ids] - row.max(), values)


@in_its_time
@given(rows_of_logits, st.floats(0.01, 1))
def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest(logits: Tensor, p: float) -> None:
    mask = kept(apply_min_p(logits, p))
    shares = logits.double().softmax(-1) / logits.double().softmax(-1).amax(-1, keepdim=True)
    assert mask[shares > p * (1 + 1e-5)].all() and not mask[shares < p * (1 - 1e-5)].any()
    assert mask.gather(1, logits.argmax(-1, keepdim=True)).all()


@in_its_time
@given(rows_of_logits, st.floats(1.0, 5.0), st.data())
def test_the_repetition_penalty_lowers_what_was_seen_and_nothing_else(
    logits: Tensor, penalty: float, data: st.DataObject
) -> None:
    seen = torch.tensor(data.draw(st.lists(st.booleans(), min_size=logits.numel(), max_size=logits.numel())))
    seen = seen.view_as(logits)
    shaped = apply_repetition_penalty(logits, seen, penalty)
    assert torch.equal(shaped[~seen], logits[~seen])
    assert (shaped[seen] <= logits[seen]).all()
    assert torch.equal(shaped.sign(), logits.sign())


@in_its_time
@given(rows_of_logits, st.floats(0.01, 0.99))
def test_top_p_keeps_the_smallest_set(logits: Tensor, p: float) -> None:
    mask = kept(apply_top_p(logits, p))
    for probabilities, keep in zip(logits.double().softmax(-1), mask, strict=True):
        chosen = probabilities[keep]
        assert len(chosen) and chosen.sum() >= p - 1e-5
        assert chosen.sum() - chosen.min() < p + 1e-5  # one fewer would not do
        assert len(chosen) == len(probabilities) or chosen.min() >= probabilities[~keep].max() - 1e-6


@in_its_time
@given(rows_of_logits, anywhere, st.sampled_from([1, 3, None]), st.floats(0.05, 1.0), st.floats(0, 5), st.data())
def test_a_masked_token_is_never_drawn(
    logits: Tensor, uniform: float, k: int | None, p: float, temperature: float, data: st.DataObject
) -> None:
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=logits.size(1), max_size=logits.size(1))))
    mask[data.draw(st.integers(0, logits.size(1) - 1))] = False  # at least one is left
    masked = logits.masked_fill(mask, -torch.inf)
    config = plain(temperature=temperature, top_k=k, top_p=p, min_p=0.01)
    ids = sample(masked, torch.full((len(logits),), uniform), config)
    assert not mask[ids].any()
    if k is not None:
        assert ((masked > masked.gather(1, ids[:, None])).sum(-1) < k).all()


def test_top_p_on_the_edge_takes_no_token_more() -> None:
    assert kept(apply_top_p(torch.zeros(1, 4), 0.5)).sum() == 2  # 1/4 + 1/4 is enough


def test_a_scan_that_rounds_out_of_order_never_reaches_a_masked_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU adds in parallel, so its running sum may rise and fall by a rounding where the probability is 0."""
    logits = torch.full((1, 100), -torch.inf)
    logits[0, [20, 50, 80]] = 0.0
    jitter = 1e-3 * torch.randn(1, 100, generator=torch.Generator().manual_seed(0))
    scan = torch.Tensor.cumsum
    monkeypatch.setattr(torch.Tensor, "cumsum", lambda self, dim: scan(self, dim) + jitter)
    drawn = {int(draw(logits, torch.tensor([u]))) for u in torch.linspace(0, 1, 3001).tolist()}
    assert drawn == {20, 50, 80}


def test_the_ends_of_the_range_never_reach_a_masked_token() -> None:
    """fp32 rounding at u -> 1 and u = 0, with masked tokens on both sides of the vocabulary."""
    logits = torch.full((3, 1000), -torch.inf)
    logits[:, 300:700] = torch.randn(3, 400, generator=torch.Generator().manual_seed(0))
    for u in (0.0, 1 - 2**-24, 1.0):
        ids = draw(logits, torch.full((3,), u))
        assert ((ids >= 300) & (ids < 700)).all()


def test_frequencies_are_the_softmax() -> None:
    """Chi-squared over 6 tokens, 200,000 draws: the 99.9% point for 5 degrees of freedom is 20.5."""
    logits = torch.tensor([1.0, -0.5, 0.3, 2.0, -2.0, 0.0])
    draws = 200_000
    noise = torch.rand(draws, generator=torch.Generator().manual_seed(1))
    for temperature in (0.5, 1.0, 2.0):
        ids = sample(logits.expand(draws, -1), noise, plain(temperature=temperature))
        expected = (logits / temperature).double().softmax(-1) * draws
        counts = ids.bincount(minlength=6).double()
        assert ((counts - expected) ** 2 / expected).sum() < 20.5


def exactly(logits: list[float], config: SamplingConfig) -> list[float]:
    """The probabilities by the definitions, one filter after the other, in plain Python."""
    shares = {token: math.exp(logit / config.temperature) for token, logit in enumerate(logits)}
    ranked = sorted(shares, key=lambda token: -shares[token])[: config.top_k]
    total = sum(shares[token] for token in ranked)
    kept_tokens, mass = [], 0.0
    for token in ranked:
        if mass < config.top_p:
            kept_tokens.append(token)
        mass += shares[token] / total
    kept_tokens = [token for token in kept_tokens if shares[token] >= config.min_p * shares[ranked[0]]]
    total = sum(shares[token] for token in kept_tokens)
    return [shares[token] / total if token in kept_tokens else 0.0 for token in range(len(logits))]


@pytest.mark.parametrize("top_k", [None, 4])
@pytest.mark.parametrize("top_p", [1.0, 0.8])
@pytest.mark.parametrize("min_p", [0.0, 0.15])
@pytest.mark.parametrize("temperature", [0.7, 1.6])
def test_frequencies_are_those_of_the_definitions(
    top_k: int | None, top_p: float, min_p: float, temperature: float
) -> None:
    """Chi-squared over at most 6 tokens, 100,000 draws: the 99.9% point for 5 degrees of freedom is 20.5."""
    config = plain(top_k=top_k, top_p=top_p, min_p=min_p, temperature=temperature)
    logits = [1.0, -0.5, 0.3, 2.0, -2.0, 0.05]
    noise = torch.rand(100_000, generator=torch.Generator().manual_seed(2))
    counts = sample(torch.tensor(logits).expand(100_000, -1), noise, config).bincount(minlength=6).tolist()
    expected = [100_000 * share for share in exactly(logits, config)]
    assert all(count == 0 for count, wanted in zip(counts, expected, strict=True) if wanted == 0)
    pairs = [(count, wanted) for count, wanted in zip(counts, expected, strict=True) if wanted]
    assert sum((count - wanted) ** 2 / wanted for count, wanted in pairs) < 20.5


@in_its_time
@given(rows_of_logits, anywhere)
def test_temperature_zero_is_argmax_and_a_tiny_one_nearly(logits: Tensor, uniform: float) -> None:
    noise = torch.full((len(logits),), uniform)
    assert torch.equal(sample(logits, noise, plain(temperature=0.0)), logits.argmax(-1))
    assert not apply_temperature(logits, 1e-300).isnan().any()  # 0 in fp32
    cold = sample(logits, noise, plain(temperature=1e-300))
    best = logits.amax(-1)
    assert (best - logits.gather(1, cold[:, None])[:, 0] < 1e-3).all()


@in_its_time
@given(rows_of_logits, st.floats(0.1, 10))
def test_temperature_scales_differences(logits: Tensor, temperature: float) -> None:
    scaled = apply_temperature(logits, temperature).softmax(-1)
    torch.testing.assert_close(scaled, (logits.double() / temperature).softmax(-1).float(), rtol=1e-3, atol=1e-5)


def test_broken_logits_are_marked_row_by_row() -> None:
    logits = torch.zeros(4, 5)
    logits[0, 3] = torch.nan
    logits[1, 2] = torch.inf
    logits[2] = -torch.inf
    for temperature in (0.0, 1.0):
        ids = sample(logits, torch.full((4,), 0.5), plain(temperature=temperature, top_k=3, top_p=0.9))
        assert (ids[:3] == BROKEN).all()
        assert ids[3] != BROKEN


def test_half_precision_logits_are_drawn_in_single() -> None:
    logits = torch.randn(500, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    noise = torch.rand(500, generator=torch.Generator().manual_seed(1))
    assert torch.equal(sample(logits, noise, plain()), sample(logits.float(), noise, plain()))


@in_its_time
@given(st.integers(0, 2**64), st.integers(1, 6), st.integers(1, 40))
def test_a_row_of_numbers_depends_on_seed_and_row_alone(seed: int, rows: int, steps: int) -> None:
    large = uniforms(seed, 6, 40)
    assert large.shape == (40, 6)
    assert torch.equal(uniforms(seed, rows, steps), large[:steps, :rows])
    assert len(set(large[0].tolist())) == 6  # rows differ
    assert not torch.equal(large, uniforms(seed + 1, 6, 40))
