"""A long text cut in pieces has the ids of the whole, whatever it is made of and however it arrives."""

from __future__ import annotations

import logging
import re

import pytest
import tiktoken
from conftest import whole
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nano_gpt.tokenizer import Tokenizer, pieces
from nano_gpt.tokenizer.pieces import DIGITS, LETTERS, SIGNS, WHITESPACE, pieces_of, pieces_of_blocks

# What can change the words around a cut: whitespace of both kinds (U+001C .. U+001F are whitespace to Python only),
# letters and digits of several scripts, signs, marks, what looks like an apostrophe, what contractions are made of.
NASTY = list(" \n\t\xa0\x85\u3000\x1c\x1f\u180e\ufeff\u200b\u200d")
NASTY += list("astlverd19!-(.'\u2019\u00e9\u0301\u00bd\u0663")
NASTY += list("\u6f22\u3042\u30fc\u3001\uff0c\uff11\uac00\U0001f600\U0001f1e9")
TEXTS = st.text(st.sampled_from(NASTY), max_size=24)


def check(tokenizer: Tokenizer, text: str, length: int) -> None:
    cut = list(pieces_of(text, length))
    assert "".join(cut) == text
    assert [i for piece in cut for i in whole(tokenizer, piece)] == whole(tokenizer, text)


@settings(max_examples=500)
@given(text=TEXTS, length=st.integers(1, 6))
@example(text="don't", length=4)
@example(text="x's", length=1)
@example(text="'ll 'll", length=1)
@example(text="!'s'!s", length=1)
@example(text="a  b", length=1)
def test_cutting_changes_no_id(bpe: Tokenizer, text: str, length: int) -> None:
    check(bpe, text, length)


@settings(max_examples=500)
@given(text=TEXTS, length=st.integers(1, 6))
@example(text="don't 'tis 1's", length=4)
def test_cutting_changes_no_id_of_gpt2(gpt2: Tokenizer, text: str, length: int) -> None:
    check(gpt2, text, length)


@settings(max_examples=300)
@given(blocks=st.lists(TEXTS, max_size=6), length=st.integers(1, 6), longest=st.integers(7, 9))
def test_the_pieces_do_not_depend_on_the_blocks(blocks: list[str], length: int, longest: int) -> None:
    text = "".join(blocks)
    expected = list(pieces_of_blocks([text], length, longest))
    assert list(pieces_of_blocks(blocks, length, longest)) == expected
    assert list(pieces_of_blocks(list(text), length, longest)) == expected
    assert "".join(expected) == text
    assert max(map(len, expected)) <= longest


@given(text=TEXTS, length=st.integers(1, 6))
def test_a_piece_is_not_cut_again(text: str, length: int) -> None:
    for piece in pieces_of(text, length):
        assert list(pieces_of(piece, length)) == [piece]


@pytest.mark.parametrize(
    ("kind", "pattern", "known"),
    [("letters", r"\p{L}", LETTERS), ("digits", r"\p{N}", DIGITS), ("signs", r"[^\s\p{L}\p{N}]", SIGNS)],
)
def test_characters_are_of_the_kind_that_tiktoken_takes_them_for(kind: str, pattern: str, known: str) -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    finder = tiktoken.Encoding(kind, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    characters = [char for char in map(chr, range(0xD800)) if re.match(f"[{known}]", char)]
    characters += [char for char in map(chr, range(0xE000, 0x110000)) if re.match(f"[{known}]", char)]
    assert len(characters) >= 20
    assert not [char for char in characters if not finder.encode_ordinary(char)]
    assert "'" not in characters


def test_every_whitespace_character_of_tiktoken_is_known() -> None:
    everything = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    ranks = {bytes([byte]): byte for byte in range(256)}
    finder = tiktoken.Encoding("finder", pat_str=r"\s", mergeable_ranks=ranks, special_tokens={})
    for char in everything:
        assert bool(re.match(f"[{WHITESPACE}]", char)) == bool(finder.encode_ordinary(char)), hex(ord(char))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\u6f22\u5b57\u3002\u6f22\u5b57\uff0cab", ["\u6f22\u5b57", "\u3002", "\u6f22\u5b57", "\uff0c", "ab"]),
        ("QUJD1iFz+/x0", ["QUJD", "1", "iFz", "+/", "x", "0"]),
        ("it's", ["it", "'s"]),
        ("5'th", ["5", "'th"]),
    ],
)
def test_text_without_spaces_is_cut_where_the_kind_changes(text: str, expected: list[str]) -> None:
    assert list(pieces_of(text, 1)) == expected


def test_nothing_is_one_piece() -> None:
    assert list(pieces_of("")) == list(pieces_of_blocks([])) == list(pieces_of_blocks(["", ""])) == [""]


def test_a_word_without_end_is_cut_all_the_same_and_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pieces._tell_of_a_cut_word.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert [len(piece) for piece in pieces_of_blocks(["ACGT" * 25], 10, 30)] == [30, 30, 30, 10]
        assert [len(piece) for piece in pieces_of_blocks([" " * 105, "x"], 10, 30)] == [30, 30, 30, 14, 2]
    assert [record.message[:34] for record in caplog.records] == ["text without a space or a sign for"]


@pytest.mark.parametrize(
    "unit", ["\u6f22\u5b57\u304b\u306a\u4ea4\u3058\u308a\u6587\u3002", "QUJDREVGR0hJSktMTU5PUFFSU1RVVldY0123+/"]
)
def test_millions_of_characters_without_a_space(bpe: Tokenizer, unit: str) -> None:
    text = unit * (3_000_000 // len(unit))
    lengths = [len(piece) for piece in pieces_of(text)]
    assert max(lengths) < 70_000
    assert len(bpe.encode(text)) == len(whole(bpe, unit * 1000)) // 1000 * (3_000_000 // len(unit))
