"""The network: initialisation, padding, causality, dropout, sums of micro-batches. Parity is in tests/parity."""

from __future__ import annotations

import math

import pytest
import torch

from nano_gpt.config import GPTConfig
from nano_gpt.model.cache import KVCache
from nano_gpt.model.gpt import GPT
from nano_gpt.model.loss import IGNORED_TARGET

CONFIG = GPTConfig(vocab_size=101, n_positions=16, n_embd=32, n_layer=3, n_head=4)  # 128 rows: 27 of padding
PADDING = slice(101, 128)


def build(config: GPTConfig = CONFIG, seed: int = 0) -> GPT:
    torch.manual_seed(seed)
    return GPT(config)


def redrawn(config: GPTConfig = CONFIG) -> GPT:
    """With large weights everywhere, biases and norms too, so that no mistake hides behind zeros and ones."""
    model = build(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.1)
            if ".ln_" in f".{name}" and name.endswith("weight"):
                parameter.add_(1.0)
        model.wte.weight[config.vocab_size :] = 0.0
    return model


def some_ids(rows: int = 2, length: int = 16, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 101, (rows, length), generator=torch.Generator().manual_seed(seed))


# GPT-2's paper, section 2.3 (residual projections scaled by 1/sqrt(N), N = 2 per block), and OpenAI's src/model.py.
STD = {
    "wte": 0.02,
    "wpe": 0.01,
    "c_attn": 0.02,
    "attn.c_proj": 0.02 / math.sqrt(2 * 6),
    "c_fc": 0.02,
    "mlp.c_proj": 0.02 / math.sqrt(2 * 6),
}


def test_initialisation_of_every_parameter() -> None:
    config = GPTConfig(vocab_size=1000, n_positions=128, n_embd=128, n_layer=6, n_head=4)
    model = build(config)
    seen = set()
    for name, parameter in model.named_parameters():
        module, kind = name.rsplit(".", 1)
        values = parameter.detach()
        if kind == "bias":
            assert not values.any(), name
        elif module.rsplit(".", 1)[-1].startswith("ln_"):
            assert torch.equal(values, torch.ones_like(values)), name
        else:
            key = next(key for key in STD if module.endswith(key))
            seen.add(key)
            values = values[: config.vocab_size] if key == "wte" else values
            # Four standard errors: of the mean std/sqrt(n), of the deviation std/sqrt(2n).
            n, std = values.numel(), STD[key]
            assert abs(float(values.mean())) < 4 * std / math.sqrt(n), name
            assert abs(float(values.std()) - std) < 4 * std / math.sqrt(2 * n), name
            kurtosis = float(((values - values.mean()) ** 4).mean() / values.var() ** 2)
            assert kurtosis == pytest.approx(3.0, abs=4 * math.sqrt(24 / n)), f"{name} is not normal"
    assert seen == set(STD)
    assert not model.wte.weight[config.vocab_size :].any()


def test_initialisation_follows_the_seed() -> None:
    same, again, other = (build(seed=seed).h[0].mlp.c_fc.weight for seed in (3, 3, 4))
    assert torch.equal(same, again)
    assert not torch.equal(same, other)


def test_the_first_loss_is_that_of_a_guess() -> None:
    config = GPTConfig(vocab_size=5000, n_positions=64, n_embd=64, n_layer=2, n_head=2)
    ids, targets = torch.randint(0, 5000, (2, 8, 64), generator=torch.Generator().manual_seed(0))
    loss = build(config)(ids, targets) / targets.numel()
    assert float(loss.detach()) == pytest.approx(math.log(5000), abs=0.05)


def test_padding_never_shows() -> None:
    model = redrawn()
    logits = model(some_ids())
    assert logits.shape == (2, 16, 101)
    with torch.no_grad():  # not even when something got into the padding rows
        model.wte.weight[PADDING] = 7.0
    assert torch.equal(model(some_ids()), logits)


def test_padding_gets_no_gradient_and_stays_zero() -> None:
    """Targets select among the true vocabulary only; AdamW with decay moves no zero row that has a zero gradient."""
    model = build().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for step in range(3):
        ids = some_ids(seed=step)
        optimizer.zero_grad()
        model(ids[:, :-1], ids[:, 1:]).backward()
        assert model.wte.weight.grad is not None
        assert not model.wte.weight.grad[PADDING].any()
        optimizer.step()
    assert not model.wte.weight[PADDING].any()
    assert model.wte.weight[:101].any(dim=1).all()


@pytest.mark.parametrize("changed", [0, 5, 15])
def test_no_token_sees_the_future(changed: int) -> None:
    model = redrawn()
    ids = some_ids(rows=1)
    other = ids.clone()
    other[0, changed] = (ids[0, changed] + 1) % 101
    with torch.no_grad():
        before, after = model(ids)[0], model(other)[0]
    assert torch.equal(before[:changed], after[:changed])
    assert ((before - after).abs().amax(dim=-1)[changed:] > 1e-4).all()  # and every later one sees the past


def test_positions_count() -> None:
    with torch.no_grad():
        logits = redrawn()(torch.full((1, 16), 7))[0]
    assert float((logits[1:] - logits[:-1]).abs().amax(dim=-1).min()) > 1e-3


def test_rows_of_a_batch_do_not_meet() -> None:
    model = redrawn()
    ids = some_ids(rows=3)
    with torch.no_grad():
        together = model(ids)
        alone = torch.cat([model(row[None]) for row in ids])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("prefill", [1, 7, 16])
def test_cached_equals_uncached(prefill: int) -> None:
    model = redrawn()
    ids = some_ids(rows=2)
    cache = KVCache(CONFIG, 2, 16, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        expected = model(ids)
        pieces = [model(ids[:, :prefill], cache=cache)]
        for position in range(prefill, 16):
            assert cache.lengths.tolist() == [position, position]
            pieces.append(model(ids[:, position : position + 1], cache=cache))
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, atol=1e-5, rtol=0)


def test_rows_of_one_cache_are_of_their_own_lengths_and_may_share_a_start() -> None:
    model = redrawn()
    short, long = some_ids(rows=1, length=3), some_ids(rows=1, length=9)
    cache = KVCache(CONFIG, 3, 12, torch.device("cpu"), torch.float32)
    next_ids = torch.tensor([[3], [50], [99]])
    with torch.no_grad():
        for prompt, rows in ((short, [0, 2]), (long, [1])):
            read = KVCache(CONFIG, 1, prompt.size(1), torch.device("cpu"), torch.float32)
            model(prompt, cache=read)
            cache.copy_rows(read, torch.zeros(len(rows), dtype=torch.int64), torch.tensor(rows))
        logits = model(next_ids, cache=cache)[:, 0]
        prompts = (short, long, short)
        texts = [torch.cat([prompt, token[None]], dim=1) for prompt, token in zip(prompts, next_ids, strict=True)]
        expected = torch.cat([model(text)[:, -1] for text in texts])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    assert cache.lengths.tolist() == [4, 10, 4]


def test_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(AssertionError, match="17 tokens in 16 places"):
        build()(torch.zeros(1, 17, dtype=torch.long))


def test_accumulated_gradients_are_those_of_the_big_batch() -> None:
    """The loss is a sum, so micro-batches of any size add up; the caller divides by the tokens of the step once."""
    ids = some_ids(rows=6)
    inputs, targets = ids[:, :-1], ids[:, 1:]
    whole, pieces = redrawn(), redrawn()
    (whole(inputs, targets) / targets.numel()).backward()
    for rows in (slice(0, 3), slice(3, 5), slice(5, 6)):
        (pieces(inputs[rows], targets[rows]) / targets.numel()).backward()
    for (name, one), other in zip(whole.named_parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(
            one.grad, other.grad, atol=1e-6, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_ignored_targets_add_nothing() -> None:
    model = redrawn()
    ids = some_ids()
    targets = ids.roll(-1, dims=1)
    masked = targets.clone()
    masked[:, 8:] = IGNORED_TARGET
    with torch.no_grad():
        logits = model(ids)
        expected = torch.nn.functional.cross_entropy(
            logits[:, :8].reshape(-1, 101), targets[:, :8].reshape(-1), reduction="sum"
        )
        assert float(model(ids, masked)) == pytest.approx(float(expected), rel=1e-5)
        assert float(model(ids, torch.full_like(ids, IGNORED_TARGET))) == 0.0


def test_dropout_is_for_training_only() -> None:
    config = CONFIG.model_copy(update={"dropout": 0.5})
    model, plain = redrawn(config), redrawn()
    ids = some_ids()
    with torch.no_grad():
        assert torch.equal(model(ids), plain(ids))
    model.train()
    first, second = model(ids), model(ids)
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    once = model(ids)
    torch.manual_seed(5)
    assert torch.equal(once, model(ids))


def test_loss_is_fp32_under_bf16() -> None:
    model = redrawn()
    ids = some_ids()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(ids, ids)
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(model(ids, ids).detach()), rel=0.02)
