"""The engine: cached = uncached = batched = transformers, past the context too, and how it ends."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_gpt.config.inference import SamplingConfig
from nano_gpt.config.model import GPTConfig
from nano_gpt.errors import ConfigError, NanoGPTError
from nano_gpt.inference.engine import Engine, Generated
from nano_gpt.inference.sampling import apply_repetition_penalty, sample, uniforms
from nano_gpt.model.gpt import GPT
from nano_gpt.model.hf import to_hf, to_hf_config
from nano_gpt.model.packed import pack
from nano_gpt.runtime.device import autocast

pytestmark = pytest.mark.usefixtures("multiplied")

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
    if model.config.positions == "learned":
        model.wpe.weight.data *= 2
    model.ln_f.weight.data *= 5
    for block in model.h:
        block.attn.c_attn.weight.data *= 6
        block.attn.c_proj.weight.data *= 6
    return model.eval()


@pytest.fixture(scope="module")
def model() -> GPT:
    return redrawn()


def settings_of(**changes: object) -> SamplingConfig:
    return SamplingConfig(**{"num_sequences": 3, "temperature": 0.9, "top_k": 40, "top_p": 0.95, "seed": 7, **changes})


def written(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    config: SamplingConfig,
    new: int | Sequence[int] = 20,
    eot_id: int = -7,
    vocab_size: int | None = None,
) -> list[Generated]:
    return Engine(model, eot_id=eot_id, vocab_size=vocab_size).generate(prompts, config, max_new_tokens=new)


def plain_loop(model: GPT, prompt: Sequence[int], config: SamplingConfig, row: int, new: int) -> list[int]:
    """nanoGPT's generate for one row: crop, recompute everything, draw. No cache, no batch, no end."""
    ids = torch.tensor([list(prompt)])
    noise = uniforms(config.seed, row + 1, new)[:, row]
    for step in range(new):
        with torch.no_grad():
            logits = model(ids[:, -model.config.n_positions :])[:, -1]
        seen = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, ids, True)
        logits = apply_repetition_penalty(logits, seen, config.repetition_penalty)
        token = sample(logits, noise[step : step + 1], config)
        ids = torch.cat([ids, token[:, None]], dim=1)
    return ids[0, len(prompt) :].tolist()


ARCHITECTURES = {
    "GPT-2": {},
    "rope": {"positions": "rope"},
    "rmsnorm, relu2, no bias, untied": {
        "positions": "rope",
        "norm": "rmsnorm",
        "activation": "relu2",
        "bias": False,
        "tied": False,
    },
}


@pytest.mark.parametrize("temperature", [0.0, 0.9, 2.0])
@pytest.mark.parametrize("prompt", [PROMPT, [EOT], list(range(16))], ids=["short", "one token", "full context"])
def test_cached_and_batched_equal_the_plain_loop_past_the_context(
    model: GPT, prompt: list[int], temperature: float
) -> None:
    config = settings_of(temperature=temperature)
    rows = written(model, [prompt], config, 40)
    for index, row in enumerate(rows):
        assert row.ids == plain_loop(model, prompt, config, index, 40)
        assert row.finish_reason == "length"
        assert len(set(row.ids[20:])) > 5  # past the context too, the text is not one token over and over
    if temperature:
        assert len({tuple(row.ids) for row in rows}) == 3


ragged_prompts = st.lists(st.lists(st.integers(0, 96), min_size=1, max_size=16), min_size=1, max_size=5)


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
@settings(max_examples=25, deadline=None)
@given(
    prompts=ragged_prompts,
    temperature=st.sampled_from([0.0, 1.0]),
    penalty=st.sampled_from([1.0, 1.3]),
    eot_id=st.integers(0, 96),
    seed=st.integers(0, 2**64),
    data=st.data(),
)
def test_a_row_of_a_ragged_batch_is_what_it_is_alone_and_without_a_cache(
    architecture: dict[str, object],
    prompts: list[list[int]],
    temperature: float,
    penalty: float,
    eot_id: int,
    seed: int,
    data: st.DataObject,
) -> None:
    """In double precision, where no rounding is large enough to decide a draw; windows slide, rows end early."""
    model = redrawn(**architecture).double()
    limits = data.draw(st.lists(st.integers(1, 24), min_size=len(prompts), max_size=len(prompts)))
    config = settings_of(temperature=temperature, repetition_penalty=penalty, num_sequences=2, seed=seed, min_p=0.02)
    rows = written(model, prompts, config, limits, eot_id)
    for number, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
        mine = rows[2 * number : 2 * number + 2]
        assert written(model, [prompt], config, limit, eot_id) == mine
        for index, row in enumerate(mine):
            free = plain_loop(model, prompt, config, index, limit)
            end = free.index(eot_id) if eot_id in free else None
            assert row == Generated(free[:end], "length" if end is None else "stop")


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_a_row_is_the_same_to_the_last_bit_in_any_batch(
    architecture: dict[str, object], dtype: torch.dtype
) -> None:
    model = pack(redrawn(**architecture), dtype)
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(0, 97, (length,), generator=generator).tolist() for length in (3, 9, 3, 16, 1, 14)]
    engine = Engine(model, eot_id=-7)
    together = engine.generate(prompts, settings_of(), max_new_tokens=12, logprobs=True)
    for number, prompt in enumerate(prompts):
        alone = engine.generate([prompt], settings_of(num_sequences=1), max_new_tokens=12, logprobs=True)
        assert alone[0] == together[3 * number]  # log-probabilities too


def test_int8_rows_do_not_meet() -> None:
    model = pack(redrawn(), quantize="int8")
    config = settings_of(num_sequences=1, temperature=0.0)
    prompts = [PROMPT, [1, 2, 3], [9] * 12]
    together = Engine(model, eot_id=-7).generate(prompts, config, max_new_tokens=10, logprobs=True)
    for prompt, row in zip(prompts, together, strict=True):
        assert Engine(model, eot_id=-7).generate([prompt], config, max_new_tokens=10, logprobs=True) == [row]


def test_greedy_equals_transformers(model: GPT) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**to_hf_config(model.config, EOT)))
    theirs.load_state_dict(
        {f"transformer.{name}": tensor for name, tensor in to_hf(model.state_dict(), model.config).items()},
        strict=False,
    )
    for penalty in (1.0, 1.5):
        expected = theirs.eval().generate(
            torch.tensor([PROMPT]),
            do_sample=False,
            max_new_tokens=11,
            eos_token_id=None,
            pad_token_id=0,
            repetition_penalty=penalty,
        )
        config = settings_of(temperature=0.0, repetition_penalty=penalty)
        assert PROMPT + written(model, [PROMPT], config, 11)[0].ids == expected[0].tolist()


def test_row_i_does_not_depend_on_the_number_of_rows(model: GPT) -> None:
    many = written(model, [PROMPT], settings_of(num_sequences=6), eot_id=EOT)
    for rows in (1, 2, 5):
        assert written(model, [PROMPT], settings_of(num_sequences=rows), eot_id=EOT) == many[:rows]
    assert written(model, [PROMPT], settings_of(num_sequences=0)) == []
    assert written(model, [], settings_of()) == []


def test_a_row_ends_at_end_of_text_and_the_others_go_on(model: GPT) -> None:
    """Every token that row 0 draws serves as the end once: the row is cut there, the others as if it were not there."""
    free = written(model, [PROMPT], settings_of())
    for eot in set(free[0].ids):
        rows = written(model, [PROMPT], settings_of(), eot_id=eot)
        for row, whole in zip(rows, free, strict=True):
            end = whole.ids.index(eot) if eot in whole.ids else None
            assert row.ids == whole.ids[:end]
            assert row.finish_reason == ("length" if end is None else "stop")


def test_a_row_that_is_ended_goes_on_as_the_end_of_text_and_the_others_as_ever(model: GPT) -> None:
    free = written(model, [PROMPT], settings_of())
    steps = Engine(model, eot_id=-7).stream([PROMPT], settings_of(), max_new_tokens=20)
    seen = []
    for number, step in enumerate(steps):
        seen.append(step.ids)
        if number == 4:
            steps.end(0)
        if number == 6:
            steps.end(2)
    assert [ids[0] for ids in seen] == free[0].ids[:5] + [-7] * 15
    assert [ids[1] for ids in seen] == free[1].ids
    assert [ids[2] for ids in seen] == free[2].ids[:7] + [-7] * 13
    assert steps.finish_reasons == ["stop", "length", "stop"]


def test_log_probabilities_are_those_of_the_model_itself(model: GPT) -> None:
    config = settings_of(temperature=0.5, top_k=3, repetition_penalty=1.2)
    rows = Engine(model, eot_id=-7).generate([PROMPT, [1, 2]], config, max_new_tokens=8, logprobs=True)
    for prompt, row in zip([PROMPT] * 3 + [[1, 2]] * 3, rows, strict=True):
        with torch.no_grad():
            expected = model(torch.tensor([prompt + row.ids]))[0].log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) + 7)
        wanted = [float(expected[place, token]) for place, token in zip(places, row.ids, strict=True)]
        assert row.logprobs == pytest.approx(wanted, abs=1e-4)


def test_the_loop_stops_when_all_rows_have_ended(model: GPT) -> None:
    first = written(model, [PROMPT], settings_of(temperature=0.0), 1)[0].ids[0]
    steps = Engine(model, eot_id=first).stream([PROMPT], settings_of(temperature=0.0), max_new_tokens=30)
    assert [step.ids for step in steps] == [[first] * 3]


def test_ids_beyond_the_tokenizer_and_padding_are_never_drawn(model: GPT) -> None:
    config = settings_of(temperature=50.0, top_k=None, top_p=1.0, num_sequences=4)
    for written_by in (model, pack(model)):
        rows = written(written_by, [PROMPT], config, 200)
        assert max(i for row in rows for i in row.ids) == 96
        rows = written(written_by, [PROMPT], config, 200, vocab_size=50)
        assert max(i for row in rows for i in row.ids) == 49
        assert len(Engine(written_by, eot_id=0, vocab_size=50).next_logits(PROMPT)) == 50


def test_a_prompt_longer_than_the_context_names_both_numbers(model: GPT) -> None:
    with pytest.raises(ConfigError, match=r"17 tokens.*context is 16"):
        written(model, [PROMPT, list(range(17))], settings_of())
    with pytest.raises(ConfigError):
        written(model, [[]], settings_of())


def test_broken_weights_are_told() -> None:
    model = redrawn()
    model.ln_f.bias.data[0] = torch.nan
    for temperature in (0.0, 1.0):
        with pytest.raises(NanoGPTError, match="not numbers"):
            written(model, [PROMPT], settings_of(temperature=temperature), 3)


def test_training_mode_and_grad_mode_come_back() -> None:
    """The trainer samples from its own module, dropout and all: same text as in eval mode, and training goes on."""
    model = redrawn(dropout=0.5)
    expected = written(model, [PROMPT], settings_of())
    model.train()
    assert written(model, [PROMPT], settings_of()) == expected
    assert model.training and model.h[0].attn.training
    for _ in Engine(model, eot_id=-7).stream([PROMPT], settings_of(), max_new_tokens=3):
        assert (
            torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        )  # between steps the caller's modes hold
    with pytest.raises(ConfigError):
        written(model, [[]], settings_of())
    steps = Engine(model, eot_id=-7).stream([PROMPT], settings_of(), max_new_tokens=3)
    next(steps)
    steps.close()  # a reader that goes away
    assert model.training
    model(torch.tensor([PROMPT]), torch.tensor([PROMPT])).backward()
    assert model.wte.weight.grad is not None


def test_runs_under_autocast(model: GPT) -> None:
    with autocast(torch.device("cpu"), torch.bfloat16):
        assert all(len(row.ids) == 20 for row in written(model, [PROMPT], settings_of()))
