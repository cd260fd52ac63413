"""Tokenizers of all four kinds, and texts that break tokenizers."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path

import pytest
import tiktoken

from nano_gpt.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from nano_gpt.tokenizer.bpe import GPT2_WORDS, ByteLevelBPE

HOSTILE = [
    "",
    " ",
    "\n",
    "a",
    " a  b   c    ",
    "\r\n\r\n \t\t x \x0b\x0c\x1c\x1d\x85\u2028\u2029y\u3000\u3000z",
    "\x00nul\x00\x00",
    "it's we'll they'VE 'tis ' 's'",
    "<|endoftext|>",
    "before<|endoftext|>after <|endoftext|>",
    "<|endoftext",
    "caf\u00e9 cafe\u0301 \u00e9\u0301\u0327",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1e9\U0001f1ea\ufe0f",
    "\u6f22\u5b57\u304b\u306a\uac00\u0e44\u0e17\u0e22\u0639\u0631\u0628\u064a \u05d0\u05d1",
    "\ufeffbom\ufeff \ufffd \U0010ffff\uffff",
    "12345 1 22 \u00bd\u2167\u0663 3.14e-10",
    "\u0120\u010a \u0120a",  # the characters that GPT-2's files use for space and newline, as text
    "x" * 3000,
    " " * 3000,
    " " * 3000 + "x",
    "\n" * 999 + " " * 999 + "def f():\n" + "\t" * 99 + "return 1\n",
]
SURROGATES = ["\ud800", "a\udcffb", "\ud83d\ude00", "x\ude00\ud83d", "\udfff" * 3 + "end"]


def corpus() -> list[str]:
    """Real text that every Python has: the same on every run, of no consequence otherwise."""
    return [inspect.getsource(inspect)[:60_000], *HOSTILE]


@pytest.fixture(scope="session")
def gpt2(shared_dir: Path) -> Tokenizer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(shared_dir / "tiktoken-cache"))
        return load_tokenizer("gpt2")


@pytest.fixture(scope="session")
def byte() -> Tokenizer:
    return load_tokenizer("byte")


@pytest.fixture(scope="session")
def char() -> Tokenizer:
    return train_tokenizer("char", corpus())


@pytest.fixture(scope="session")
def bpe() -> Tokenizer:
    return train_tokenizer("bpe:1000", corpus())


@pytest.fixture(params=["gpt2", "byte", "char", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    found: Tokenizer = request.getfixturevalue(request.param)
    return found


@functools.cache
def _reference(tokenizer: ByteLevelBPE) -> tiktoken.Encoding:
    ranks = tokenizer._encoding._mergeable_ranks
    return tiktoken.Encoding("reference", pat_str=GPT2_WORDS, mergeable_ranks=ranks, special_tokens={})


def whole(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of the text in one go, by tiktoken with GPT-2's own expression."""
    assert isinstance(tokenizer, ByteLevelBPE)
    return _reference(tokenizer).encode_ordinary(text)
