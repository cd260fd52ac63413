"""Ids by way of a table of words are those of tiktoken with GPT-2's own pattern, for any text in any company."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from conftest import HOSTILE, SURROGATES, corpus, whole
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nano_gpt.tokenizer import Tokenizer, words
from nano_gpt.tokenizer.base import well_formed
from nano_gpt.tokenizer.bpe import ByteLevelBPE
from nano_gpt.tokenizer.pieces import PIECE_LENGTH, WHITESPACE_CHARACTERS
from nano_gpt.tokenizer.words import LONGEST, WordEncoder

# All that changes where a word ends: white space of both kinds, letters, digits and signs of several scripts, what
# contractions are made of, NUL (keys are filled up with it), characters that begin like white space beyond ASCII.
CHARACTERS = list(" \n\t\xa0\x85\u3000\u2003\u2028\x1c\x00\u180e\u200b")
CHARACTERS += list("'astlverdmA19!-(.\u2019\u201c\u00e9\u0301\u00bd\u0663\u6f22\u3042\u3001\U0001f600\ud800")
TEXTS = st.lists(st.text(st.sampled_from(CHARACTERS), max_size=24) | st.text(max_size=12), max_size=8)


def expected(tokenizer: Tokenizer, texts: list[str]) -> list[int]:
    return [id_ for text in texts for id_ in (tokenizer.eot_id, *whole(tokenizer, well_formed(text)))]


def encoder(tokenizer: Tokenizer, most_bytes: int = words.MOST_BYTES) -> WordEncoder:
    """A new one, which has learnt nothing."""
    assert isinstance(tokenizer, ByteLevelBPE)
    return WordEncoder(tokenizer._ranks, tokenizer.eot_id, tokenizer.encode_to_numpy, most_bytes)


@settings(max_examples=700)
@given(texts=TEXTS)
@example(texts=["don't", "'ll'll", "!'s's", "'sx 'tis", "it\u2019s 's", "x\n's", "'", "'r", "'re", "''ve"])
@example(texts=["a  b", " ", "  ", "", "\n\n", "a \n", " \xa0x", "\xa0 x", "a \xa0 \u3000 b", " \u2019x", "\u2003"])
@example(texts=["\u00e9<|endoftext|>\u00e9", "<|endoftext|>", " \u00e9\xa0  \xa0x", "\u00e9  \u00e9", "\u00e9 \n"])
@example(texts=["a", "a\0", "a\0\0", "\0", "x" * 15, "x" * 16, "x" * 15 + "\0", " " * 15 + "\n", "\n" * 17])
def test_any_texts(bpe: Tokenizer, texts: list[str]) -> None:
    """The encoder is the same all the time: what it has learnt from other examples must not matter."""
    ids, lengths = bpe.document_encoder(texts)
    assert ids.tolist() == expected(bpe, texts)
    assert lengths.tolist() == [len(expected(bpe, [text])) for text in texts]


@settings(max_examples=300)
@given(texts=TEXTS)
def test_any_texts_with_the_ids_of_gpt2(gpt2: Tokenizer, texts: list[str]) -> None:
    assert gpt2.document_encoder(texts).ids.tolist() == expected(gpt2, texts)


@pytest.mark.parametrize("neighbours", [("a", "'"), ("1", " "), ("\u00e9", "!")])
def test_white_space_of_all_kinds_in_every_order(bpe: Tokenizer, neighbours: tuple[str, str]) -> None:
    before, behind = neighbours
    runs = ["".join(run) for length in (1, 2) for run in itertools.product(WHITESPACE_CHARACTERS, repeat=length)]
    texts = [left + run + right for run in runs for left in ("", before) for right in ("", behind, "s")]
    assert bpe.document_encoder(texts).ids.tolist() == expected(bpe, texts)


def test_every_four_characters(bpe: Tokenizer) -> None:
    texts = ["".join(text) for text in itertools.product("a1!' \n\u00e9\xa0s\u2019", repeat=4)]
    assert encoder(bpe)(texts).ids.tolist() == expected(bpe, texts)


@pytest.mark.parametrize("char", ["x", " ", "\u6f22", "a ", "ab, "])
def test_long_texts_are_taken_in_pieces(bpe: Tokenizer, char: str) -> None:
    texts = ["short", char * (3 * PIECE_LENGTH // len(char)), "", char * PIECE_LENGTH + "end", "short"]
    ids, lengths = bpe.document_encoder(texts)
    assert ids.tolist() == [id_ for text in texts for id_ in (bpe.eot_id, *bpe.encode(text))]
    assert lengths.sum() == len(ids)


def test_words_that_find_no_slot_are_remembered_elsewhere(bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_SLOTS_LOG2", 4)
    asked: list[bytes] = []
    few = encoder(bpe)
    learn = few._learn
    monkeypatch.setattr(few, "_learn", lambda new: asked.extend(new) or learn(new))
    texts = [*corpus(), *SURROGATES]
    for _ in range(3):
        assert few(texts).ids.tolist() == expected(bpe, texts)
    assert len(asked) == len(set(asked))


def test_memory_is_bounded(bpe: Tokenizer) -> None:
    """What was learnt is forgotten when it is too much, also words that are long, and ids stay the same."""
    forgetful = encoder(bpe, most_bytes=20_000)
    generator = random.Random(0)
    for _ in range(30):
        texts = [" ".join(str(generator.random()) for _ in range(200)), "y" * generator.randrange(1, 5_000), *HOSTILE]
        assert forgetful(texts).ids.tolist() == expected(bpe, texts)
        assert len(forgetful._places) < 1_500
        assert sum(map(len, forgetful._places)) < 100_000


def test_keys_tell_words_from_each_other() -> None:
    """Those of at most LONGEST bytes: by every byte and by their number."""
    found = {"": "nothing"}
    generator = random.Random(0)
    for length in range(1, LONGEST + 1):
        word = bytearray(generator.randbytes(length))
        for changed in [bytes(word), *(bytes(word[:at]) + b"\0" + bytes(word[at + 1 :]) for at in range(length))]:
            for followed in (b"\0" * 16, b"\xff" * 16):
                keys = words._keys(changed + followed, np.array([0]), np.array([length]))
                found.setdefault(str(keys.tolist()), changed.hex())
                assert found[str(keys.tolist())] == changed.hex()
