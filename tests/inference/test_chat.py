"""Conversations: their text, what is forgotten, what is refused."""

from __future__ import annotations

import pytest
import torch

from nano_gpt.config.inference import SamplingConfig
from nano_gpt.config.model import GPTConfig
from nano_gpt.errors import ConfigError
from nano_gpt.inference.chat import STOPS, Conversation
from nano_gpt.inference.stops import TextBuilder
from nano_gpt.inference.writing import Writer
from nano_gpt.model.gpt import GPT
from nano_gpt.tokenizer import load_tokenizer

BYTES = load_tokenizer("byte")
CONFIG = SamplingConfig(num_sequences=1)


@pytest.fixture(scope="module")
def writer() -> Writer:
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=BYTES.vocab_size, n_positions=100, n_embd=8, n_layer=1, n_head=1)
    return Writer(GPT(config).eval(), BYTES)


def test_the_text_of_a_conversation(writer: Writer) -> None:
    conversation = Conversation("Be brief.", [("Hi.", "Hello.")])
    prompt, dropped = conversation.ask("Who?", writer, CONFIG, 10)
    assert BYTES.decode(prompt.ids) == "System: Be brief.\n\nUser: Hi.\n\nAssistant: Hello.\n\nUser: Who?\n\nAssistant:"
    assert (prompt.max_new_tokens, dropped) == (10, 0)
    prompt, _ = Conversation().ask("Who?", writer, CONFIG, 10)
    assert BYTES.decode(prompt.ids) == "User: Who?\n\nAssistant:"


def test_the_oldest_turns_are_forgotten_and_the_system_is_not(writer: Writer) -> None:
    conversation = Conversation("S", [(f"Q{turn}", f"A{turn}") for turn in range(8)])  # 30 + 30 a turn, of 100
    prompt, dropped = conversation.ask("Q8", writer, CONFIG, 10)
    assert dropped == 6 and [turn for turn, _ in conversation.turns] == ["Q6", "Q7"]
    text = BYTES.decode(prompt.ids)
    assert text.startswith("System: S\n\nUser: Q6\n\nAssistant: A6") and text.endswith("User: Q8\n\nAssistant:")
    assert len(text) <= 100 - 10
    _, dropped = conversation.ask("Q8", writer, CONFIG, 10)
    assert dropped == 0
    _, dropped = conversation.ask("Q8", writer, CONFIG, 1000)  # half of the context is a prompt's in any case
    assert dropped == 2


def test_a_question_without_room_is_refused_and_changes_nothing(writer: Writer) -> None:
    turns = [("Q", "A")]
    conversation = Conversation(None, list(turns))
    with pytest.raises(ConfigError, match="118 tokens and the model's context is 100"):
        conversation.ask("x" * 100, writer, CONFIG, 10)
    assert conversation.turns == turns


def test_an_answer_ends_where_the_user_is_to_speak() -> None:
    for end in ("\n\nUser: And", "\nUser: And", " User: And", "User:"):
        builder = TextBuilder(BYTES, STOPS)
        answer = "".join(builder.add(byte) for byte in f" A user.{end}".encode())
        assert builder.stopped and answer.rstrip(" ") == " A user."
