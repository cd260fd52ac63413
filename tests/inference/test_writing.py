"""Text around the engine: streamed = whole = batched, stop strings, prompts that are cut, and why a text ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_gpt.config.inference import SamplingConfig
from nano_gpt.config.model import GPTConfig
from nano_gpt.errors import ConfigError
from nano_gpt.inference.engine import Engine, Step
from nano_gpt.inference.writing import Completion, Writer, in_order
from nano_gpt.model.gpt import GPT
from nano_gpt.model.packed import pack
from nano_gpt.tokenizer import load_tokenizer

BYTES = load_tokenizer("byte")


def make_writer(n_positions: int = 32) -> Writer:
    """An untrained byte model: it writes broken UTF-8 all the time."""
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=BYTES.vocab_size, n_positions=n_positions, n_embd=16, n_layer=1, n_head=2)
    return Writer(pack(GPT(config)), BYTES)


@pytest.fixture(scope="module")
def writer() -> Writer:
    return make_writer()


def scripted(writer: Writer, monkeypatch: pytest.MonkeyPatch, *rows: list[int | None]) -> list[int]:
    """Let the engine write these ids; None is `<|endoftext|>`. Gives the rows that were ended from outside."""
    ended: list[int] = []

    class Scripted(Iterator[Step]):
        def __init__(self, prompts: Any, config: Any, *, max_new_tokens: list[int], logprobs: bool) -> None:
            self.finish_reasons: list[str | None] = [None] * len(rows)
            self.limits, self.logprobs, self.step = max_new_tokens * len(rows), logprobs, 0

        def end(self, row: int) -> None:
            ended.append(row)
            self.finish_reasons[row] = self.finish_reasons[row] or "stop"

        def __next__(self) -> Step:
            if all(self.finish_reasons):
                raise StopIteration
            ids = [BYTES.eot_id] * len(rows)
            for number, row in enumerate(rows):
                if self.finish_reasons[number] is None:
                    token = row[self.step]
                    if token is None:
                        self.finish_reasons[number] = "stop"
                    else:
                        ids[number] = token
                        self.finish_reasons[number] = "length" if self.step + 1 == self.limits[number] else None
            self.step += 1
            return Step(ids, [-float(self.step)] * len(rows) if self.logprobs else None)

    monkeypatch.setattr(writer.engine, "stream", Scripted)
    return ended


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.text(max_size=6), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(0, 1000),
    st.lists(st.text("ab\n \ufffd", min_size=1, max_size=2), max_size=2),
)
def test_streamed_is_whole_is_batched(prompts: list[str], copies: int, seed: int, stops: list[str]) -> None:
    writer = make_writer(16)
    config = SamplingConfig(num_sequences=copies, top_k=None, seed=seed, stop=tuple(stops))
    fitted = [writer.fit(prompt, config, 18, truncate=True) for prompt in prompts]  # past the context of 16
    batched = writer.complete(fitted, config, logprobs=True)
    alone = [row for prompt in fitted for row in writer.complete([prompt], config, logprobs=True)]
    assert [row.text for row in batched] == [row.text for row in alone]
    assert [(row.tokens, row.finish_reason) for row in batched] == [(row.tokens, row.finish_reason) for row in alone]
    for row in batched:
        assert row.logprobs is not None and len(row.logprobs) == len(row.tokens)

    shown = [""] * len(batched)
    for rows in writer.write(fitted, config):
        for number, row in enumerate(rows):
            assert row.text.startswith(shown[number])
            shown[number] = row.text
    assert shown == [row.text for row in batched]

    without = SamplingConfig(num_sequences=copies, top_k=None, seed=seed)
    for row, endless in zip(batched, writer.complete(fitted, without), strict=True):
        assert endless.tokens[: len(row.tokens)] == row.tokens
        assert endless.continuation.startswith(row.continuation)
        assert not any(stop in row.continuation for stop in stops)
        if not any(stop in endless.continuation for stop in stops):
            assert (row.text, row.finish_reason) == (endless.text, endless.finish_reason)


def test_a_stop_string_ends_its_own_sequence(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = scripted(writer, monkeypatch, list(b"one. two"), list(b"three...")[:6], [*b"a.", None])
    config = SamplingConfig(num_sequences=3, stop=(". ", ".."))
    rows = writer.complete([writer.fit("x", config, 6)], config, logprobs=True)
    assert [row.continuation for row in rows] == ["one", "three.", "a."]
    assert [row.finish_reason for row in rows] == ["stop", "length", "stop"]
    assert [bytes(row.tokens) for row in rows] == [b"one. ", b"three.", b"a."]  # as drawn
    assert [row.logprobs and len(row.logprobs) for row in rows] == [5, 6, 2]
    assert ended == [0]


def test_a_stop_string_in_the_prompt_is_none(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(writer, monkeypatch, [*b"b", None])
    config = SamplingConfig(num_sequences=1, stop=("ab", "a"))
    (row,) = writer.complete([writer.fit("a", config)], config)
    assert (row.text, row.finish_reason) == ("ab", "stop")


def test_the_end_of_text_is_not_in_the_text(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(writer, monkeypatch, [97, None], [98, 99, None])
    config = SamplingConfig(prompt="<|endoftext|>", num_sequences=2)
    rows = writer.complete([writer.fit(config.prompt, config, 5)], config)
    assert [row.text for row in rows] == ["<|endoftext|>a", "<|endoftext|>bc"]  # spelt by the user, it is plain text
    assert [row.finish_reason for row in rows] == ["stop", "stop"]
    assert [row.tokens for row in rows] == [[97], [98, 99]]


def test_an_empty_prompt_starts_from_end_of_text_which_is_not_shown(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = Engine.stream
    monkeypatch.setattr(
        Engine, "stream", lambda self, prompts, *a, **k: seen.extend(prompts) or real(self, prompts, *a, **k)
    )
    config = SamplingConfig(num_sequences=1, top_k=None)
    (row,) = writer.complete([writer.fit("", config, 7)], config)
    assert seen == [[BYTES.eot_id]]
    assert row.prompt == "" and row.text == BYTES.decode(row.tokens)


def test_in_order_gives_each_once_as_soon_as_it_can() -> None:
    rows = [Completion(prompt) for prompt in "abc"]
    taken: list[str] = []

    def writing() -> Iterator[list[Completion]]:
        for number, before in ((1, ""), (0, ""), (2, "ab")):
            yield rows
            assert "".join(taken) == before
            rows[number].finish_reason = "length"
        yield rows

    for row in in_order(writing()):
        taken.append(row.prompt)
    assert taken == ["a", "b", "c"]


def test_a_prompt_that_is_cut_leaves_room(writer: Writer) -> None:
    config = SamplingConfig()
    long = "".join(map(chr, range(48, 108)))  # 60 tokens, context 32
    for new, room in ((1, 31), (10, 22), (16, 16), (1000, 16)):
        prompt = writer.fit(long, config, new, truncate=True)
        assert (BYTES.decode(prompt.ids), prompt.cut, prompt.max_new_tokens) == (long[-room:], 60 - room, new)
        assert writer.slides([prompt]) == (new > 16)
    assert writer.fit("short", config, 3, truncate=True) == writer.fit("short", config, 3)
    assert not writer.slides([writer.fit("x" * 29, config, 3)]) and writer.slides([writer.fit("x" * 30, config, 3)])
    assert writer.slides([writer.fit("", config, 32)])  # <|endoftext|> takes a place
    with pytest.raises(ConfigError, match=r"60 tokens.*context is 32"):
        writer.fit(long, config, 10)
    assert len(make_writer(1).fit("xy", config, 5, truncate=True).ids) == 1
