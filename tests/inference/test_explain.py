"""The next token explained: the model's own distribution, and what sampling makes of it, against the engine's draws."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from nano_gpt.config.inference import SamplingConfig
from nano_gpt.config.model import GPTConfig
from nano_gpt.errors import NanoGPTError
from nano_gpt.inference.explain import explain, spelt
from nano_gpt.inference.writing import Writer
from nano_gpt.model.gpt import GPT
from nano_gpt.tokenizer import load_tokenizer
from nano_gpt.tokenizer.char import CharTokenizer

LETTERS = CharTokenizer("abcdefg")


def make_writer() -> Writer:
    torch.manual_seed(1)
    model = GPT(GPTConfig(vocab_size=LETTERS.vocab_size, n_positions=16, n_embd=8, n_layer=1, n_head=1)).eval()
    model.wte.weight.data.normal_(std=0.4)
    return Writer(model, LETTERS)


def test_the_models_own_distribution() -> None:
    writer = make_writer()
    found = explain(writer, writer.fit("ab", SamplingConfig(), 1), SamplingConfig(top_k=None), count=100)
    expected = writer.engine.model(torch.tensor([LETTERS.encode("ab")]))[0, -1].softmax(-1)
    assert found.prompt == ["'a'", "'b'"] and found.vocab_size == len(found.candidates) == found.possible == 8
    for rank, each in enumerate(found.candidates, start=1):
        assert each.rank == rank and each.token == spelt(LETTERS, each.id)
        assert each.probability == pytest.approx(expected[each.id].item(), rel=1e-5)
        assert each.drawn == pytest.approx(each.probability, rel=1e-5)  # no filter, temperature 1
        assert each.cumulative == pytest.approx(sum(other.probability for other in found.candidates[:rank]), rel=1e-5)
    assert [each.id for each in found.candidates] == expected.argsort(descending=True).tolist()
    assert found.entropy == pytest.approx(-(expected * expected.log2()).sum().item(), rel=1e-5)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0, "top_k": 3},
        {"top_p": 0.6, "top_k": None},
        {"min_p": 0.3},
        {"repetition_penalty": 3.0, "temperature": 0.7},
    ],
)
def test_it_is_drawn_as_often_as_it_says(changed: dict[str, float]) -> None:
    writer = make_writer()
    config = SamplingConfig(num_sequences=4000, **changed)  # type: ignore[arg-type]
    prompt = writer.fit("abca", config, 1)
    found = explain(writer, prompt, config)
    rows = writer.complete([prompt], config)
    drawn = Counter(row.tokens[0] if row.tokens else LETTERS.eot_id for row in rows)
    for each in found.candidates:
        share, spread = drawn[each.id] / 4000, math.sqrt(each.drawn * (1 - each.drawn) / 4000)
        assert abs(share - each.drawn) <= 4 * spread + 1e-6, each
    assert found.possible == sum(each.drawn > 0 for each in found.candidates)


def test_greedy_is_certain() -> None:
    writer = make_writer()
    config = SamplingConfig(temperature=0, repetition_penalty=1.2, num_sequences=1)
    found = explain(writer, writer.fit("ab", config, 1), config, count=3)
    (row,) = writer.complete([writer.fit("ab", config, 1)], config)
    assert found.possible == 1 and len(found.candidates) == 3
    assert [each.id for each in found.candidates if each.drawn == 1.0] == row.tokens


def test_tokens_are_spelt_visibly() -> None:
    tokenizer = load_tokenizer("byte")
    assert [spelt(tokenizer, id_) for id_ in (*b" \n'\x1b\xe6", tokenizer.eot_id)] == [
        "' '",
        "'\\n'",
        '"\'"',
        "'\\x1b'",
        "b'\\xe6'",
        "<|endoftext|>",
    ]
    writer = make_writer()
    assert explain(writer, writer.fit("", SamplingConfig(), 1), SamplingConfig()).prompt == ["<|endoftext|>"]


def test_broken_weights_are_told() -> None:
    writer = make_writer()
    writer.engine.model.ln_f.weight.data[0] = float("nan")
    with pytest.raises(NanoGPTError, match="not numbers"):
        explain(writer, writer.fit("a", SamplingConfig(), 1), SamplingConfig())
