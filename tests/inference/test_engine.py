"""The engine: cached = uncached = batched = transformers, past the context too, and how it ends."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from nano_gpt.config.inference import SamplingConfig
from nano_gpt.config.model import GPTConfig
from nano_gpt.errors import ConfigError, NanoGPTError
from nano_gpt.inference import engine
from nano_gpt.inference.sampling import sample, uniforms
from nano_gpt.model.gpt import GPT
from nano_gpt.model.hf import to_hf, to_hf_config
from nano_gpt.runtime.device import autocast

EOT = 0
PROMPT = [5, 17, 3, 88, 41]


def redrawn(**changes: object) -> GPT:
    """A tiny model, every tensor redrawn at std 0.1 (norm weights: 1 + that): nothing is near its initial value."""
    config = GPTConfig(**{"vocab_size": 97, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4, **changes})
    model = GPT(config)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        noise = 0.1 * torch.randn(parameter.shape, generator=generator)
        parameter.data = noise + 1 if ".ln_" in f".{name}" and name.endswith("weight") else noise
    model.wte.weight.data[97:] = 1.0  # padding rows that would be drawn at once if they could be
    # Positions, attention and logits that tell: a sequence does not settle on one token, rounding decides nothing.
    model.wpe.weight.data *= 2
    model.ln_f.weight.data *= 5
    for block in model.h:
        block.attn.c_attn.weight.data *= 6
        block.attn.c_proj.weight.data *= 6
    return model.eval()


@pytest.fixture(scope="module")
def model() -> GPT:
    return redrawn()


def settings(**changes: object) -> SamplingConfig:
    return SamplingConfig(**{"num_sequences": 3, "temperature": 0.9, "top_k": 40, "top_p": 0.95, "seed": 7, **changes})


def plain_loop(model: GPT, prompt: Sequence[int], config: SamplingConfig, row: int, new: int) -> list[int]:
    """nanoGPT's generate for one row: crop, recompute everything, draw. No cache, no batch, no end."""
    ids = torch.tensor([list(prompt)])
    noise = uniforms(config.seed, row + 1, new)[:, row]
    for step in range(new):
        with torch.no_grad():
            logits = model(ids[:, -model.config.n_positions :])[:, -1]
        token = sample(
            logits, noise[step : step + 1], temperature=config.temperature, top_k=config.top_k, top_p=config.top_p
        )
        ids = torch.cat([ids, token[:, None]], dim=1)
    return ids[0, len(prompt) :].tolist()


@pytest.mark.parametrize("temperature", [0.0, 0.9, 2.0])
@pytest.mark.parametrize("prompt", [PROMPT, [EOT], list(range(16))], ids=["short", "one token", "full context"])
def test_cached_and_batched_equal_the_plain_loop_past_the_context(
    model: GPT, prompt: list[int], temperature: float
) -> None:
    config = settings(temperature=temperature)
    rows = engine.generate(model, prompt, config, max_new_tokens=40, eot_id=-7)
    for index, row in enumerate(rows):
        assert row.ids == plain_loop(model, prompt, config, index, 40)
        assert row.finish_reason == "length"
        assert len(set(row.ids[20:])) > 5  # past the context too, the text is not one token over and over
    if temperature:
        assert len({tuple(row.ids) for row in rows}) == 3


def test_decode_gives_the_logits_of_the_whole(model: GPT) -> None:
    ids = torch.randint(0, 97, (1, 16), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = model(ids)
        logits, cache = engine.prefill(model, ids[:, :4], 16)
        cache = cache.repeat(2)
        torch.testing.assert_close(logits, whole[:, 3], rtol=1e-4, atol=1e-4)
        for position in range(4, 16):
            logits = engine.decode(model, ids[0, position].expand(2), cache)
            torch.testing.assert_close(logits, whole[:, position].expand(2, -1), rtol=1e-4, atol=1e-4)


def test_greedy_equals_transformers(model: GPT) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**to_hf_config(model.config, EOT)))
    theirs.load_state_dict(
        {f"transformer.{name}": tensor for name, tensor in to_hf(model.state_dict(), model.config).items()},
        strict=False,
    )
    expected = theirs.eval().generate(
        torch.tensor([PROMPT]), do_sample=False, max_new_tokens=11, eos_token_id=None, pad_token_id=0
    )
    row = engine.generate(model, PROMPT, settings(temperature=0.0), max_new_tokens=11, eot_id=-7)[0]
    assert PROMPT + row.ids == expected[0].tolist()


def test_row_i_does_not_depend_on_the_number_of_rows(model: GPT) -> None:
    many = engine.generate(model, PROMPT, settings(num_sequences=6), max_new_tokens=20, eot_id=EOT)
    for rows in (1, 2, 5):
        few = engine.generate(model, PROMPT, settings(num_sequences=rows), max_new_tokens=20, eot_id=EOT)
        assert few == many[:rows]
    assert engine.generate(model, PROMPT, settings(num_sequences=0), max_new_tokens=20, eot_id=EOT) == []


def test_a_row_ends_at_end_of_text_and_the_others_go_on(model: GPT) -> None:
    """Every token that row 0 draws serves as the end once: the row is cut there, the others as if it were not there."""
    config = settings()
    free = engine.generate(model, PROMPT, config, max_new_tokens=20, eot_id=-7)
    for eot in set(free[0].ids):
        rows = engine.generate(model, PROMPT, config, max_new_tokens=20, eot_id=eot)
        for row, whole in zip(rows, free, strict=True):
            end = whole.ids.index(eot) if eot in whole.ids else None
            assert row.ids == whole.ids[:end]
            assert row.finish_reason == ("length" if end is None else "stop")


def test_the_loop_stops_when_all_rows_have_ended(model: GPT) -> None:
    first = engine.generate(model, PROMPT, settings(temperature=0.0), max_new_tokens=1, eot_id=-7)[0].ids[0]
    steps = list(engine.stream(model, PROMPT, settings(temperature=0.0), max_new_tokens=30, eot_id=first))
    assert steps == [[first] * 3]


def test_ids_beyond_the_tokenizer_and_padding_are_never_drawn(model: GPT) -> None:
    config = settings(temperature=50.0, top_k=None, top_p=1.0, num_sequences=4)
    drawn = {i for row in engine.generate(model, PROMPT, config, max_new_tokens=200, eot_id=-7) for i in row.ids}
    assert max(drawn) == 96
    rows = engine.generate(model, PROMPT, config, max_new_tokens=200, eot_id=-7, vocab_size=50)
    assert max(i for row in rows for i in row.ids) == 49


def test_a_prompt_longer_than_the_context_names_both_numbers(model: GPT) -> None:
    with pytest.raises(ConfigError, match=r"17 tokens.*context is 16"):
        engine.generate(model, list(range(17)), settings(), max_new_tokens=1, eot_id=EOT)
    with pytest.raises(ConfigError):
        engine.generate(model, [], settings(), max_new_tokens=1, eot_id=EOT)


def test_broken_weights_are_told() -> None:
    model = redrawn()
    model.ln_f.bias.data[0] = torch.nan
    for temperature in (0.0, 1.0):
        with pytest.raises(NanoGPTError, match="not numbers"):
            engine.generate(model, PROMPT, settings(temperature=temperature), max_new_tokens=3, eot_id=EOT)


def test_training_mode_and_grad_mode_come_back() -> None:
    """The trainer samples from its own module, dropout and all: same text as in eval mode, and training goes on."""
    model = redrawn(dropout=0.5)
    expected = engine.generate(model, PROMPT, settings(), max_new_tokens=20, eot_id=EOT)
    model.train()
    assert engine.generate(model, PROMPT, settings(), max_new_tokens=20, eot_id=EOT) == expected
    assert model.training and model.h[0].attn.training
    for _ in engine.stream(model, PROMPT, settings(), max_new_tokens=3, eot_id=-7):
        assert (
            torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        )  # between steps the caller's modes hold
    with pytest.raises(ConfigError):
        engine.generate(model, [], settings(), max_new_tokens=1, eot_id=EOT)
    iterator = engine.stream(model, PROMPT, settings(), max_new_tokens=3, eot_id=-7)
    next(iterator)
    iterator.close()  # a reader that goes away
    assert model.training
    model(torch.tensor([PROMPT]), torch.tensor([PROMPT])).backward()
    assert model.wte.weight.grad is not None


def test_runs_under_autocast(model: GPT) -> None:
    with autocast(torch.device("cpu"), torch.bfloat16):
        with torch.inference_mode():
            _, cache = engine.prefill(model, torch.tensor([PROMPT]), 8)
        rows = engine.generate(model, PROMPT, settings(), max_new_tokens=20, eot_id=-7)
    assert cache.k.dtype == torch.bfloat16
    assert all(len(row.ids) == 20 for row in rows)
